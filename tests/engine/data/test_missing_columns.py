"""The error of a column that is not there: following its advice works."""

import csv
import re
import shlex
from pathlib import Path

import pytest

from adaptdock.engine.data.sources import Reader, Source, parse_columns
from adaptdock.errors import DataError
from adaptdock.plugins import registry
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.ner import NER


def advice(error: str) -> list[list[str]]:
    """Return the flags of each piece of advice that can be followed as it is."""
    parts = re.findall(r"such as (--columns .*?)\. If|give numbers \((.*?)\)|Say which with (--columns \w+=\d+)", error)
    return [[part for part in shlex.split(next(filter(None, found))) if part != "--columns"] for found in parts]


def read(path: Path, task: str, *columns: str) -> list[dict[str, str]]:
    records = Reader(registry.load("task", task), Source(columns=parse_columns(columns))).file(path)
    return [dict(record) for record in records]


@pytest.mark.parametrize(
    ("task", "content", "expected"),
    [
        ("classification", "No.,What did you think?,label\n1,It was fine.,yes\n", {"text": "It was fine."}),
        ("classification", "ham,go home now\nspam,win a prize\n", {"text": "go home now", "label": "ham"}),
        ("classification", "go home now,ham\nwin a prize,spam\n", {"text": "go home now", "label": "ham"}),
        ("translation", "Go home.,Gå hem.\nStop now.,Sluta nu.\n", {"source": "Go home.", "target": "Gå hem."}),
        (
            "pair",
            "same,One text here.,Another.\nother,Two.,Three.\n",
            {"text": "One text here.", "label": "same"},
        ),
        ("regression", "2.5,Good enough.\n1.5,Bad.\n", {"text": "Good enough.", "label": "2.5"}),
    ],
)
def test_the_advice_for_a_missing_column_reads_the_file(
    tmp_path: Path, task: str, content: str, expected: dict[str, str]
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=r"a\.csv:2: no column for") as refused:
        read(path, task)
    followed = [flags for flags in advice(str(refused.value)) if expected.items() <= _first(path, task, flags).items()]
    assert followed, refused.value


def _first(path: Path, task: str, flags: list[str]) -> dict[str, str]:
    try:
        return read(path, task, *flags)[0]
    except DataError:
        return {}


def test_a_column_that_is_named_for_one_field_is_not_read_as_another(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ham,go home now\nspam,win a prize\n")
    with pytest.raises(DataError, match=r"no column 'known' for label; .* --columns label=0\."):
        read(tmp_path / "a.csv", "classification", "text=1")
    with pytest.raises(DataError, match=r"no column 'known' for label; .* --columns label=0\."):
        read(tmp_path / "a.csv", "classification", "text=-1")
    assert read(tmp_path / "a.csv", "classification", "text=1", "label=0")[0]["label"] == "ham"


def test_long_and_empty_names_of_columns_are_short_in_the_message(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{'word ' * 40},,x\na,b,c\n")
    with pytest.raises(DataError, match=r"there is (word ){8}…, one without a name, x\."):
        read(tmp_path / "a.csv", "classification")


RECORDS = {
    "polarity.csv": ['"0","1467810369","Mon Apr 06","a good match in the rain"', '"4","1467810370","Mon Apr 06","no"'],
    "news.csv": ['"3","Rain","Rain fell on the hills all night"', '"1","Goal","A late goal"'],
    "spam.tsv": ["ham\tthe rain fell on the hills", "spam\twin a prize"],
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_first_line_that_is_a_record_is_not_a_header_and_the_flags_read_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("".join(f"{line}\n" for line in RECORDS[name]))
    with pytest.raises(
        DataError, match=r"The first line looks like a record, not like a header: give numbers"
    ) as error:
        Reader(Classification, Source(train=str(path))).splits()
    flags = dict(re.findall(r"--columns (\w+)=(\d+)", str(error.value)))
    records = Reader(Classification, Source(train=str(path), columns=flags)).splits()["train"]
    label, *_, text = next(csv.reader(RECORDS[name][:1], delimiter="\t" if name.endswith("tsv") else ","))
    assert (records[0]["text"], records[0]["label"], len(records)) == (text, label, 2)


@pytest.mark.parametrize("header", ["0,1", ",0,1", "Unnamed: 0,0,1"])
def test_a_header_that_counts_names_columns_by_their_numbers(header: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    number = "7," * (header.count(",") - 1)
    path.write_text(f"{header}\n{number}a good match,sport\n{number}the soup,food\n")
    records = Reader(Classification, Source(train=str(path))).splits()["train"]
    assert [(record["text"], record["label"]) for record in records] == [
        ("a good match", "sport"),
        ("the soup", "food"),
    ]


def test_the_error_names_the_text_of_a_table_with_tags_as_its_words(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,tags\nAda ran home,B-PER O O\n")
    with pytest.raises(DataError, match=r"such as --columns tokens=text"):
        Reader(NER, Source(train=str(path))).splits()
    records = Reader(NER, Source(train=str(path), columns={"tokens": "text"})).splits()["train"]
    assert records[0]["tokens"] == "Ada ran home"
