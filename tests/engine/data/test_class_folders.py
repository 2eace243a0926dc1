"""Texts by class in folders, and several files for a split."""

from pathlib import Path

import pytest
from sklearn.datasets import load_files

from adaptdock.engine.data.sources import Reader, Source
from adaptdock.errors import DataError
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.ner import NER
from adaptdock.tasks.regression import Regression


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def read(source: Source) -> tuple[dict[str, list[tuple[str, str]]], list[str]]:
    reader = Reader(Classification, source)
    splits = reader.splits()
    return {
        split: [(record["text"], record["label"]) for record in records] for split, records in splits.items()
    }, reader.notes()


def test_a_folder_per_class_is_what_scikit_learn_loads(tmp_path: Path) -> None:
    folder = write(tmp_path / "news", {"pos/1.txt": "good\nfilm", "pos/2": "nice", "neg/1.txt": "bad", "neg/x": "dull"})
    splits, notes = read(Source(data=str(folder)))
    loaded = load_files(str(folder), encoding="utf-8", shuffle=False)
    expected = [(text, loaded.target_names[number]) for text, number in zip(loaded.data, loaded.target, strict=True)]
    assert sorted(splits["train"]) == sorted(expected)
    assert "a folder per class, a text per file: neg, pos" in notes[0]


def test_texts_without_a_label_are_no_class(tmp_path: Path) -> None:
    files = {f"{split}/{name}/0_9.txt": f"{split} {name}" for split in ("train", "test") for name in ("pos", "neg")}
    others = {"train/unsup/1_0.txt": "x", "train/urls_pos.txt": "u", "README": "r"}
    folder = write(tmp_path / "aclImdb", files | others)
    splits, notes = read(Source(data=str(folder)))
    assert splits == {
        "train": [("train neg", "neg"), ("train pos", "pos")],
        "test": [("test neg", "neg"), ("test pos", "pos")],
    }
    assert any("unsup holds texts without a label, which are not read" in line for line in notes)


def test_a_file_per_class_has_a_text_per_line(tmp_path: Path) -> None:
    files = {"pos.txt": "good\n\nnice\n", "neg.txt": "bad\n"}
    folder = write(tmp_path / "a", files)
    splits, notes = read(Source(data=str(folder)))
    assert splits["train"] == [("bad", "neg"), ("good", "pos"), ("nice", "pos")]
    assert "a file per class, a text per line: neg, pos" in notes[0]
    both = {f"{split}/{name}": text for split in ("train", "dev") for name, text in files.items()}
    inner = write(tmp_path / "b", both)
    assert read(Source(data=str(inner)))[0] == {"train": splits["train"], "validation": splits["train"]}
    assert read(Source(train=str(folder), test=str(folder)))[0] == {"train": splits["train"], "test": splits["train"]}


@pytest.mark.parametrize("names", [("text.txt", "labels.txt"), ("only.txt",), ("one.csv", "two.csv")])
def test_other_folders_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = write(tmp_path / "a", dict.fromkeys(names, "text,label\na,b\n"))
    with pytest.raises(DataError, match="no file is named train"):
        Reader(Classification, Source(data=str(folder))).splits()


@pytest.mark.parametrize("task", [NER, Regression])
def test_tasks_without_classes_read_no_such_folder(tmp_path: Path, task: type[NER] | type[Regression]) -> None:
    folder = write(tmp_path / "a", {"pos.txt": "good\n", "neg.txt": "bad\n"})
    with pytest.raises(DataError, match="no file is named train"):
        Reader(task, Source(data=str(folder))).splits()


def test_tables_in_a_list_or_of_a_pattern_follow_one_another(tmp_path: Path) -> None:
    tables = {"1.csv": "text,label\na,x\n", "2.csv": "label,text\ny,b\n"}
    folder = write(tmp_path / "a", tables | {"3.jsonl": '{"text": "c", "label": "z"}\n'})
    both = [("a", "x"), ("b", "y")]
    assert read(Source(train=f"{folder}/*.csv"))[0] == {"train": both}
    assert read(Source(data=f"{folder}/*.csv"))[0] == {"train": both}
    splits, notes = read(Source(train=f"{folder}/1.csv, {folder}/2.csv,{folder}/3.jsonl"))
    assert splits == {"train": [*both, ("c", "z")]}
    assert "3 files, one after the other" in notes[0]
    with pytest.raises(DataError, match="there is no such file"):
        read(Source(train=f"{folder}/*.parquet"))
