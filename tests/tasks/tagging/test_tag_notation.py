"""Tags and columns of sentences: which column is which, what odd tags mean, what is refused."""

from pathlib import Path
from typing import Any

import pytest
from seqeval.scheme import IOE1, IOE2, Entities

from adaptdock.engine.data.sources import Reader, Source
from adaptdock.errors import DataError
from adaptdock.tasks.chunking import Chunking
from adaptdock.tasks.ner import NER, detect_scheme, entity_spans, to_bio
from adaptdock.tasks.pos import POS

CONLL_2003 = "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\nGerman JJ B-NP B-MISC\ncall NN I-NP O\n. . O O\n"
UNIVERSAL_NER = "# sent_id = 1\n# text = Mira moved\n1\tMira\tB-PER\t-\ts\n2\tmoved\tO\t-\ts\n"
GERMEVAL = "#\thttp://example.org [2009-10-17]\n1\tMira\tB-PER\tO\n2\tzieht\tO\tO\n3\tLund\tB-LOC\tB-ORGpart\n"


def read(path: Path, content: str, task: Any = NER, **source: Any) -> tuple[list[str], list[str], list[str]]:
    """The tokens and tags of the first sentence, and the notes."""
    path.write_text(content, encoding="utf-8")
    reader = Reader(task, Source(**source))
    records = task(task.Options()).clean(reader.file(path), "train")
    return records.records[0]["tokens"], records.records[0]["tags"], [*reader.notes(), *records.notes]


@pytest.mark.parametrize(
    ("name", "content", "task", "tokens", "tags"),
    [
        ("a.conll", CONLL_2003, NER, "EU rejects German call .", "B-ORG O B-MISC O O"),
        ("a.conll", CONLL_2003, POS, "EU rejects German call .", "NNP VBZ JJ NN ."),
        ("a.conll", CONLL_2003, Chunking, "EU rejects German call .", "B-NP B-VP B-NP I-NP O"),
        ("a.conll", "-DOCSTART- -X- -X- O\n\n" + CONLL_2003, NER, "EU rejects German call .", "B-ORG O B-MISC O O"),
        ("a.conll", "EU NNP B-NP O\nrejects VBZ B-VP O\n", NER, "EU rejects", "O O"),
        ("a.iob2", UNIVERSAL_NER, NER, "Mira moved", "B-PER O"),
        ("a.iob2", UNIVERSAL_NER.replace("B-PER", "O"), NER, "Mira moved", "O O"),
        ("a.tsv", GERMEVAL, NER, "Mira zieht Lund", "B-PER O B-LOC"),
        ("a.conll", "Mira B-PER mira\nmoved O move\n", NER, "Mira moved", "B-PER O"),
        ("a.conll", "d1 1 Mira PER\nd1 2 moved O\n\n" * 2, NER, "Mira moved", "B-PER O"),
        ("a.conll", "B-PER Mira\nO moved\n", NER, "Mira moved", "B-PER O"),
    ],
)
def test_the_columns_are_told_by_their_values_and_said(
    tmp_path: Path, name: str, content: str, task: Any, tokens: str, tags: str
) -> None:
    found = read(tmp_path / name, content, task)
    assert found[:2] == (tokens.split(), tags.split())
    assert any("--columns names others" in line for line in found[2])


def test_columns_that_are_named_win(tmp_path: Path) -> None:
    found = read(tmp_path / "a.iob2", UNIVERSAL_NER.replace("-\ts", "B-X\ts"), columns={"tags": "3"})
    assert found[:2] == (["Mira", "moved"], ["B-X", "B-X"])


def test_a_column_of_something_else_is_refused_and_the_advice_works(tmp_path: Path) -> None:
    content = "Mira s\nmoved s\n"
    with pytest.raises(DataError, match=r"no word of train has the tag O.*'s' \(2\).*--columns tags=COLUMN"):
        read(tmp_path / "a.conll", content)
    odd = "Mira B-PER a\nLund LOC b\nmoved O c\n" * 8
    with pytest.raises(DataError, match=r"a.conll:1: 8 tags of train .* others are written B-PER: 'LOC' \(8\)"):
        read(tmp_path / "a.conll", odd, columns={"tags": "1"})


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("b-per i-per o", "B-per I-per O"),
        ("B_PER I_PER O", "B-PER I-PER O"),
        ("PER-B PER-I O", "B-PER I-PER O"),
        ("B:PER I:PER o", "B-PER I-PER O"),
        ("B-PER I-PER _", "B-PER I-PER O"),
        ("PER PER O", "B-PER I-PER O"),
        ("B\N{EN DASH}PER I\N{EN DASH}PER O", "B-PER I-PER O"),
    ],
)
def test_tags_with_a_plain_meaning_are_read_so_and_counted(tmp_path: Path, given: str, meant: str) -> None:
    lines = "".join(f"w {tag}\n" for tag in given.split())
    _, tags, notes = read(tmp_path / "a.conll", lines)
    assert tags == meant.split()
    assert notes


def test_a_space_in_a_tag_is_a_dash(tmp_path: Path) -> None:
    assert read(tmp_path / "a.tsv", "Mira\tB PER\nmoved\tO\n\n" * 2)[1] == ["B-PER", "O"]


@pytest.mark.parametrize("tags", ["e-mail person O", "VITAMIN-B drug O"])
def test_types_with_a_letter_and_a_dash_stay_types(tmp_path: Path, tags: str) -> None:
    _, found, notes = read(tmp_path / "a.conll", "".join(f"w {tag}\n" for tag in tags.split()))
    assert [tag[2:] for tag in found[:2]] == tags.split()[:2]
    assert notes == ["train: tags read as IO"]


def test_the_scheme_io_reads_any_tag_as_a_type() -> None:
    records = [{"tokens": ["w", "w"], "tags": ["b-cell", "O"]}]
    assert NER(NER.Options()).clean(records, "train").records[0]["tags"] == ["B-cell", "O"]
    assert NER(NER.Options(scheme="io")).clean(records, "train").records[0]["tags"] == ["B-b-cell", "O"]
    both = [{"tokens": ["w", "w"], "tags": ["b-cell", "t-cell"]}, {"tokens": ["w"], "tags": ["O"]}]
    with pytest.raises(DataError, match=r"'b-cell' is not an entity tag.*--scheme io"):
        NER(NER.Options()).clean(both, "train")
    assert NER(NER.Options(scheme="io")).clean(both, "train").records[0]["tags"] == ["B-b-cell", "B-t-cell"]


@pytest.mark.parametrize(("scheme", "between"), [(IOE2, "E-PER"), (IOE1, "I-PER")])
def test_spans_of_ioe_agree_with_seqeval(scheme: type, between: str) -> None:
    tags = ["I-PER", between, "O", "I-LOC", "E-LOC", "I-LOC", "E-LOC" if scheme is IOE2 else "I-LOC", "O"]
    expected = [(entity.tag, entity.start, entity.end) for entity in Entities([tags], scheme).entities[0]]
    assert detect_scheme([tags]) == "ioe"
    converted, repaired = to_bio(tags, "ioe", "here")
    assert (entity_spans(converted), repaired) == (expected, 0)


def test_no_break_spaces_are_parts_of_words_or_divide_columns(tmp_path: Path) -> None:
    inside = read(tmp_path / "a.conll", "Mira B-PER\n\N{NO-BREAK SPACE} O\n5\N{NO-BREAK SPACE}000 O\n")
    assert inside[0] == ["Mira", "\N{NO-BREAK SPACE}", "5\N{NO-BREAK SPACE}000"]
    between = read(tmp_path / "b.conll", "Mira B-PER\nmoved\N{NO-BREAK SPACE}O\n")
    assert between[:2] == (["Mira", "moved"], ["B-PER", "O"])
    assert "1 lines have no-break spaces between their columns, such as line 2" in between[2][0]


@pytest.mark.parametrize(
    "row",
    ["\"['Mira', 'moved']\",\"['B-PER', 'O']\"", "['Mira' 'moved'],['B-PER' 'O']", '"[""Mira"", ""moved""]",B-PER O'],
)
def test_printed_lists_are_lists(tmp_path: Path, row: str) -> None:
    tokens, tags, notes = read(tmp_path / "a.csv", f"tokens,tags\n{row}\n")
    assert (tokens, tags) == (["Mira", "moved"], ["B-PER", "O"])
    assert notes == ["train: tokens of 1 records are printed lists, and were read as lists"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"tokens": ["a"], "tags": [1]}', "The tags are numbers"),
        ("a.csv", "tokens,tags\n\"['a']\",[1]\n", "The tags are numbers"),
        ("a.jsonl", '{"tokens": ["Ada"], "labels": [[0, 3, "PER"]]}', "spans of characters"),
        ("a.jsonl", '{"text": "Ada", "tokens": [{"text": "Ada", "start": 0}], "spans": []}', "spans of characters"),
        ("a.csv", "tokens,tags\n" + "Ada,B-PER\nruns,O\n" * 10, r"each row has one word.*suffix \.conll"),
    ],
)
def test_what_is_not_tagged_words_is_refused_with_the_way_out(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / name, content)
