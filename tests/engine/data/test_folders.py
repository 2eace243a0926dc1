"""Folders of data: shards, saved data sets, names that only begin like a split's."""

from pathlib import Path

import datasets
import pytest

from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.errors import DataError
from adaptdock.tasks.ner import NER

FEATURES = datasets.Features(
    {
        "tokens": datasets.List(datasets.Value("string")),
        "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
    }
)


def table(first: int, count: int) -> datasets.Dataset:
    rows = [{"tokens": [f"w{number}"], "ner_tags": [number % 2]} for number in range(first, first + count)]
    return datasets.Dataset.from_list(rows, features=FEATURES)


def words(source: Path) -> dict[str, list[str]]:
    splits, _ = load_splits(Source(data=str(source)), NER)
    return {split: [record["tokens"][0] for record in records] for split, records in splits.items()}


def write_shards(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        table(3 * number, 3).to_parquet(str(folder / f"train-0000{number}-of-00002.parquet"))
    table(6, 2).to_parquet(str(folder / "validation-00000-of-00001.parquet"))


@pytest.mark.parametrize("inner", ["", "data"])
def test_shards_are_read_in_order_as_one_split(tmp_path: Path, inner: str) -> None:
    write_shards(tmp_path / inner)
    assert words(tmp_path) == {"train": [f"w{number}" for number in range(6)], "validation": ["w6", "w7"]}


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet is missing"):
        words(tmp_path)


def test_a_saved_data_set_is_read_with_its_splits_or_as_training_data(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": table(0, 4), "test": table(4, 1)}).save_to_disk(str(tmp_path / "splits"))
    splits, _ = load_splits(Source(data=str(tmp_path / "splits")), NER)
    assert {split: len(records) for split, records in splits.items()} == {"train": 3, "validation": 1, "test": 1}
    assert splits["test"][0]["tags"] == ["O"]
    table(0, 4).save_to_disk(str(tmp_path / "single"))
    assert sorted(word for split in words(tmp_path / "single").values() for word in split) == ["w0", "w1", "w2", "w3"]


def test_a_file_whose_name_only_begins_like_a_split_is_none(tmp_path: Path) -> None:
    for name in ("train.conll", "values.conll", "tester.conll", "devices.conll"):
        (tmp_path / name).write_text("\n\n".join(f"{name} O" for _ in range(3)))
    assert {word for found in words(tmp_path).values() for word in found} == {"train.conll"}
    for name, split in (("devel.conll", "validation"), ("testset.conll", "test")):
        (tmp_path / name).write_text(f"{name} O\n")
        assert words(tmp_path)[split] == [name]


def test_a_class_that_the_data_set_does_not_name_is_refused_and_a_missing_one_is_counted(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b"], "ner_tags": [1, -1]}] * 4
    datasets.Dataset.from_list(rows, features=FEATURES).to_parquet(str(tmp_path / "a.parquet"))
    splits, _ = load_splits(Source(train=str(tmp_path / "a.parquet")), NER)
    assert splits["train"][0]["tags"] == ["B-PER", -1]
    cleaned = NER(NER.Options()).clean(splits["train"], "train")
    assert any("words are not tagged" in line for line in cleaned.notes)
