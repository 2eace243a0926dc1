"""Tables with a word a row: a column or empty rows tell the sentences, whatever the file; what is decided is said."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptdock.engine.data.objects import table_of
from adaptdock.engine.data.sources import Reader, Source
from adaptdock.errors import DataError, UnknownNameError
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.ner import NER
from adaptdock.tasks.pos import POS

WORDS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=4)
SENTENCES = st.lists(st.lists(st.tuples(WORDS, st.sampled_from(["O", "B-PER"])), min_size=1, max_size=4), min_size=2)
FEW = [[("Ada", "B-PER"), ("ran", "O")], [("Rain", "O")], [("Bob", "B-PER"), ("sat", "O"), (".", "O")]]

Sentence = list[tuple[str, str]]


def rows(sentences: list[Sentence], name: str, form: str) -> list[dict[str, Any]]:
    """Return a row a word; the number of a sentence is in each of its rows, or in the first alone."""
    marks: list[list[Any]] = []
    for number, sentence in enumerate(sentences):
        first: Any = number if form == "number" else f"Sentence: {number}"
        marks.append([first] * len(sentence) if form != "first row" else [first, *[""] * (len(sentence) - 1)])
    return [
        {name: mark, "Word": word, "POS": "NN", "Tag": tag}
        for sentence, of_sentence in zip(sentences, marks, strict=True)
        for (word, tag), mark in zip(sentence, of_sentence, strict=True)
    ]


def as_csv(path: Path, table: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path


def read(data: Any, task: Any = NER, **columns: str) -> tuple[list[Sentence], list[str]]:
    reader = Reader(task, Source(train=data, columns=columns))
    records = reader.splits()["train"]
    return [list(zip(record["tokens"], record["tags"], strict=True)) for record in records], reader.notes()


@given(
    SENTENCES,
    st.sampled_from(["Sentence #", "sentence_id", "sent_idx", "Sentence"]),
    st.sampled_from(["first row", "each row", "number"]),
)
def test_sentences_come_back_from_tables_of_words(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[Sentence], name: str, form: str
) -> None:
    folder = tmp_path_factory.mktemp("words")
    table = rows(sentences, name, form)
    lines = folder / "a.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in table))
    for data in (str(as_csv(folder / "a.csv", table)), str(lines), table_of(table)):
        tokens, notes = read(data)
        assert tokens == sentences
        assert any(f"a word a row; the column {name!r} divides the sentences" in note for note in notes)


def test_empty_rows_divide_the_sentences_of_a_csv_file(tmp_path: Path) -> None:
    for empty in ("", ","):
        path = tmp_path / "a.csv"
        path.write_text(
            "word,tag\n" + f"{empty}\n".join("".join(f"{w},{t}\n" for w, t in sentence) for sentence in FEW)
        )
        sentences, notes = read(str(path))
        assert sentences == FEW
        assert any("empty rows divide the sentences" in note for note in notes)


def test_a_column_that_is_named_tells_the_sentences(tmp_path: Path) -> None:
    path = as_csv(tmp_path / "a.csv", rows(FEW, "block", "number"))
    assert read(str(path), sentence="block")[0] == FEW
    with pytest.raises(
        DataError, match=r"a\.csv:2: no column 'blok', which --columns names for sentence: there is blo"
    ):
        read(str(path), sentence="blok")
    with pytest.raises(UnknownNameError, match="sentence"):
        Reader(Classification, Source(train=str(path), columns={"sentence": "block"}))


def test_sentences_of_two_documents_with_the_same_number_are_two(tmp_path: Path) -> None:
    table = [{"doc_id": document, "sent_id": 0, "word": word, "tag": "O"} for document, word in ("aA", "aB", "bC")]
    assert read(str(as_csv(tmp_path / "a.csv", table)))[0] == [[("A", "O"), ("B", "O")], [("C", "O")]]


def test_the_tags_of_another_task_are_those_of_its_column(tmp_path: Path) -> None:
    path = as_csv(tmp_path / "a.csv", rows(FEW, "Sentence #", "first row"))
    assert read(str(path), POS)[0] == [[(word, "NN") for word, _ in sentence] for sentence in FEW]


def test_a_table_with_a_sentence_a_row_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sentence_id,tokens,tags\n1,Ada ran,B-PER O\n1,Rain,O\n")
    reader = Reader(NER, Source(train=str(path)))
    assert [record["tokens"] for record in reader.splits()["train"]] == ["Ada ran", "Rain"]


def test_inputs_for_prediction_are_joined_too(tmp_path: Path) -> None:
    path = as_csv(
        tmp_path / "a.csv",
        [{"Sentence #": row["Sentence #"], "Word": row["Word"]} for row in rows(FEW, "Sentence #", "first row")],
    )
    values = [item.value for item in Reader(NER, Source()).inputs(path, "csv")]
    assert values == [{"tokens": [word for word, _ in sentence]} for sentence in FEW]
