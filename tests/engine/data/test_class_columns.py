"""One-hot tables: columns of 0 and 1 for classes become labels."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptdock.engine.data.sources import Reader, Source
from adaptdock.errors import DataError, UnknownNameError
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.regression import Regression


def labels(tmp_path: Path, name: str, content: str, columns: dict[str, str] | None = None, **options: Any) -> Any:
    path = tmp_path / name
    path.write_text(content)
    reader = Reader(Classification, Source(columns=columns or {}))
    cleaned = Classification(Classification.Options(**options)).clean(reader.file(path), "train")
    return [record["label"] for record in cleaned.records], reader.notes()


SEVERAL = "id,text,red,green\n1,a,1,0\n2,b,1,1\n3,c,0,0\n"
SINGLE = "text,red,green\na,1,0\nb,0,1\nc,1,0\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", SEVERAL),
        ("a.tsv", SEVERAL.replace(",", "\t")),
        ("a.csv", SEVERAL.replace(",1", ",True").replace(",0", ",False")),
        ("a.csv", SEVERAL.replace(",1", ",1.0").replace(",0", ",0.0")),
        (
            "a.jsonl",
            '{"text": "a", "red": 1, "green": 0}\n{"text": "b", "red": true, "green": true}\n'
            '{"text": "c", "red": 0, "green": 0}\n',
        ),
    ],
)
def test_columns_of_classes_are_several_labels(tmp_path: Path, name: str, content: str) -> None:
    found, notes = labels(tmp_path, name, content, multi_label=True)
    assert found == [["red"], ["green", "red"], []]
    assert "2 columns of 0 and 1, one per class: red, green; a row may have several" in notes[0]


def test_several_labels_are_refused_without_the_option_that_the_error_names(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"a\.csv:3: the text has 2 labels, 'red' and 'green'; so 2 of 3 .*--multi-label lets"
    ):
        labels(tmp_path, "a.csv", SEVERAL)


def test_the_columns_that_a_label_was_made_of_are_shown_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(SEVERAL)
    reader = Reader(Classification, Source())
    reader.file(tmp_path / "a.csv")
    assert reader.files[0].columns == {"text": "text", "label": "red,green"}
    with pytest.raises(DataError, match=r"there is id, phrase, red, green\. Say which with --columns text=COLUMN\."):
        labels(tmp_path, "b.csv", SEVERAL.replace("text", "phrase"))
    again = labels(tmp_path, "a.csv", SEVERAL, {"label": reader.files[0].columns["label"]}, multi_label=True)[0]
    assert again == [["red"], ["green", "red"], []]


def test_one_label_for_each_row_is_read_with_either_option(tmp_path: Path) -> None:
    assert labels(tmp_path, "a.csv", SINGLE)[0] == ["red", "green", "red"]
    assert labels(tmp_path, "a.csv", SINGLE, multi_label=True)[0] == [["red"], ["green"], ["red"]]


def test_a_name_with_a_separator_is_one_label(tmp_path: Path) -> None:
    content = SINGLE.replace("red", "a|b")
    assert labels(tmp_path, "a.csv", content, multi_label=True)[0] == [["a|b"], ["green"], ["a|b"]]


def test_named_columns_are_the_classes(tmp_path: Path) -> None:
    content = "text,seen,red,green\na,1,1,0\nb,1,0,1\n"
    assert labels(tmp_path, "a.csv", content, {"label": "red,green"})[0] == ["red", "green"]
    with pytest.raises(UnknownNameError, match="blue"):
        labels(tmp_path, "a.csv", content, {"label": "red,blue"})


def test_a_column_of_the_label_wins_over_columns_of_classes(tmp_path: Path) -> None:
    assert labels(tmp_path, "a.csv", "text,label,red,green\na,x,1,0\nb,y,0,1\n")[0] == ["x", "y"]


def test_another_value_in_a_column_of_a_class_is_refused_with_its_place(tmp_path: Path) -> None:
    content = "text,red,green\n" + "a,1,0\n" * 20 + "b,0,-1\n"
    with pytest.raises(DataError, match=r"a\.csv:22: the column 'green' has 0 or 1"):
        labels(tmp_path, "a.csv", content)


def test_a_single_column_of_bits_is_not_a_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv:2: no column for label"):
        labels(tmp_path, "a.csv", "text,red\na,1\nb,0\n")


def test_a_task_of_numbers_reads_no_classes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(SINGLE)
    with pytest.raises(DataError, match="no column for label"):
        Reader(Regression, Source()).file(tmp_path / "a.csv")


NAMES = ["red", "light green", "Größe", 'say "x"', "a-b", "語"]
FORMS: dict[str, Callable[[list[str]], str]] = {
    "python": str,
    "json": json.dumps,
    "tuple": lambda names: str(tuple(names)),
    "set": lambda names: str(set(names)) if names else "[]",
    "separated": "|".join,
}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sets(st.sampled_from(NAMES)), min_size=4, max_size=12), st.sampled_from(sorted(FORMS)))
def test_sets_of_labels_come_back_however_a_table_writes_them(sets: list[set[str]], form: str) -> None:
    expected = [sorted(names) for names in [{"red"}, {"red", "語"}, *sets]]
    cells = [["text", "labels"], *([f"text {number}", FORMS[form](names)] for number, names in enumerate(expected))]
    used = sorted({name for names in expected for name in names})
    bits = [["id", "text", *used]]
    bits += [[str(n), f"text {n}", *(str(int(name in names)) for name in used)] for n, names in enumerate(expected)]
    with TemporaryDirectory() as folder:
        for name, table in (("cells.csv", cells), ("bits.csv", bits)):
            with (Path(folder) / name).open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows(table)
            records = Reader(Classification, Source()).file(Path(folder) / name)
            task = Classification(Classification.Options(multi_label=True))
            assert [record["label"] for record in task.clean(records, "train").records] == expected
