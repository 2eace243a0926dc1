"""Exports that the tools' own libraries have written, and files of the formats that have no such library."""

import sys
from pathlib import Path
from typing import Any

import pytest

from adaptdock.engine.data.sources import Reader, Source, load_splits
from adaptdock.errors import DataError
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.ner import NER

EXPORTS = Path(__file__).parent / "exports"
WEBANNO = """#FORMAT=WebAnno TSV 3.3
#T_SP=de.tudarmstadt.ukp.dkpro.core.api.lexmorph.type.pos.POS|PosValue
#T_SP=de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity|identifier|value
#T_RL=webanno.custom.Lives|kind|BT_de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity


#Text=😀 Mira Holt moved to Lund.
1-1\t0-2\t😀\tSYM\t_\t_\t_\t_\t
1-2\t3-7\tMira\tNNP\t*[1]\tPER[1]\t_\t_\t
1-3\t8-12\tHolt\tNNP\t*[1]\tPER[1]\t_\t_\t
1-4\t13-18\tmoved\tVBD\t_\t_\t_\t_\t
1-5\t19-21\tto\tTO\t_\t_\t_\t_\t
1-6\t22-26\tLund\tNNP\t*|*[2]\tLOC|GPE\\_X[2]\tin\t1-2[1_0]\t
1-7\t26-27\t.\t.\t_\t_\t_\t_\t

#Text=Nordlys-fans sing.
2-1\t28-40\tNordlys-fans\tNNS\t_\t_\t_\t_\t
2-1.1\t28-35\tNordlys\t_\t*\tORG\t_\t_\t
2-2\t41-45\tsing\tVB\t*\t*\t_\t_\t
2-3\t45-46\t.\t.\t_\t_\t_\t_\t
"""


def read(path: Path, task: Any = NER, **source: Any) -> tuple[list[dict[str, Any]], list[str]]:
    reader = Reader(task, Source(**source))
    return reader.file(path), reader.notes()


def entities(record: dict[str, Any]) -> list[tuple[str, str]]:
    return [(record["text"][mark.start : mark.end], mark.label) for mark in record["marks"]]


@pytest.mark.parametrize("name", ["studio.json", "studio-min.json", "studio.csv"])
def test_label_studio_counts_utf16_units_which_its_texts_tell(name: str) -> None:
    records, notes = read(EXPORTS / name)
    assert list(map(entities, records)) == [[("Mira Holt", "PER"), ("Lund", "LOC")], [("Oslo", "LOC")]]
    assert any("offsets count UTF-16 units" in note for note in notes)


def test_choices_beside_spans_are_labels_and_conll_is_read_as_such() -> None:
    for name in ("studio.json", "studio-min.json"):
        assert [record["choices"] for record in read(EXPORTS / name, Classification)[0]] == [["move"], ["weather"]]
    conll, _ = read(EXPORTS / "studio.conll")
    assert conll[0]["tags"] == ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]
    # a table does not say which of its columns was the data's
    assert any("could be labels of the text (source, topic)" in note for note in read(EXPORTS / "studio.csv")[1])


def test_a_docbin_is_read_through_spacy() -> None:
    pytest.importorskip("spacy", reason="spaCy reads its own DocBin: pip install 'adaptdock[spacy]'")
    records, _ = read(EXPORTS / "docs.spacy")
    assert list(map(entities, records)) == [[("Mira Holt", "PER"), ("Lund", "LOC")], [("Oslo", "LOC")], []]
    assert records[0]["words"][-2:] == [(19, 23), (23, 24)]
    assert [record["choices"] for record in read(EXPORTS / "docs.spacy", Classification)[0]] == [["weather"]]


@pytest.mark.parametrize("name", ["cas.json", "xmi/cas.xmi"])
def test_a_cas_is_read_by_sentences_through_cassis(name: str) -> None:
    pytest.importorskip("cassis", reason="dkpro-cassis reads the CAS: pip install 'adaptdock[inception]'")
    records, notes = read(EXPORTS / name)
    assert [record["text"] for record in records] == ["😀 Mira Holt moved to Lund.", "Rain in Oslo again."]
    assert list(map(entities, records)) == [[("Mira Holt", "PER"), ("Lund", "LOC")], [("Oslo", "LOC")]]
    assert {record["document"] for record in records} == {"cas"}
    assert any("other layers of spans, which are not read (Place)" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("docs.spacy", "spacy", "spacy"), ("cas.json", "cassis", "inception")]
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"pip install 'adaptdock\[{extra}\]'"):
        read(EXPORTS / name)
    copy = tmp_path / "export"  # without a telling suffix
    copy.write_bytes((EXPORTS / name).read_bytes())
    with pytest.raises(DataError, match=rf"pip install 'adaptdock\[{extra}\]'"):
        read(copy)


def test_webanno_has_words_stacked_and_partly_marked(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(WEBANNO, encoding="utf-8")
    records, notes = read(path)
    assert [record["text"] for record in records] == ["😀 Mira Holt moved to Lund.", "Nordlys-fans sing."]
    assert entities(records[0]) == [("Mira Holt", "PER"), ("Lund", "LOC"), ("Lund", "GPE_X")]
    assert entities(records[1]) == [("Nordlys", "ORG")]
    assert records[0]["where"] == f"{path}:8"
    assert any("1 spans have no label and are left out" in note for note in notes)
    cleaned = NER(NER.Options()).clean(records, "train")
    assert cleaned.records[0]["tokens"] == ["😀", "Mira", "Holt", "moved", "to", "Lund", "."]
    assert cleaned.records[0]["tags"] == ["O", "B-PER", "I-PER", "O", "O", "B-LOC", "O"]
    assert cleaned.records[1]["tokens"] == ["Nordlys", "-fans", "sing", "."]
    assert any("1 spans overlap others, of which the longest is kept" in note for note in cleaned.notes)
    assert any("1 spans begin or end within a word" in note for note in cleaned.notes)


BRAT = "Mira Holt moved to\nLund. Holt sings."
STANDOFF = """T1\tPER 0 9\tMira Holt
T2\tLOC 19 23\tLund
T3\tPER 0 4;25 29\tMira Holt
E1\tMove:T1
R1\tLives Arg1:T1 Arg2:T2
A1\tNegation E1
#1\tAnnotatorNotes T1\tcheck
T4\tGPE 16 23\tto Lund
"""


def test_brat_is_a_text_beside_its_standoff_or_a_folder_of_them(tmp_path: Path) -> None:
    for folder in ("all", "splits/train", "splits/dev"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_bytes(BRAT.encode())
        (tmp_path / folder / "a.ann").write_text(STANDOFF, encoding="utf-8")
    (tmp_path / "all" / "b.txt").write_text("Not annotated.", encoding="utf-8")
    wanted = [("Mira Holt", "PER"), ("Lund", "LOC"), (BRAT[:29], "PER"), ("to\nLund", "GPE")]
    for path in (tmp_path / "all", tmp_path / "all" / "a.txt", tmp_path / "all" / "a.ann"):
        records, notes = read(path)
        assert list(map(entities, records)) == [wanted]
        pieces = "1 spans are in several pieces, and are read from the first character to the last"
        assert any(note.endswith(f"{pieces}: {tmp_path / 'all' / 'a.ann'}:3") for note in notes)
    assert any("1 texts have no annotation file beside them" in note for note in read(tmp_path / "all")[1])
    splits, _ = load_splits(Source(data=str(tmp_path / "splits")), NER)
    assert list(splits) == ["train", "validation"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.spacy", b"nothing", "not a DocBin that spaCy .* can read|pip install"),
        ("a.xmi", b"<a/>", "TypeSystem.xml, which INCEpTION exports with it|pip install"),
        ("a.tsv", b"#FORMAT=WebAnno TSV 3.3\n\n1-1\t0-2\tAb\t\n", "it has no layer of spans with labels"),
        ("a.tsv", WEBANNO.replace("0-2", "0:2").encode(), r"a\.tsv:8: not INCEpTION's TSV 3"),
    ],
)
def test_a_damaged_export_is_refused_in_one_sentence(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_damaged_standoff_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Ada", encoding="utf-8")
    (tmp_path / "a.ann").write_text("T1\tPER 0 3\tAda\nT2\tPER x\tAda\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.ann:2: not brat's standoff"):
        read(tmp_path)
