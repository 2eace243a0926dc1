"""adapt sample: every task's sample data as files that adapt train reads, and nothing overwritten."""

from pathlib import Path

import pytest

from adaptdock.cli import sample
from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Task


def records(task: type[Task], source: Source) -> dict[str, list[dict]]:
    splits, _ = load_splits(source, task)
    return {split: [{**record, "where": ""} for record in read] for split, read in splits.items()}


@pytest.mark.parametrize("task", registry.names("task"))
def test_the_files_of_every_task_are_read_as_its_sample_is(adapt, tmp_path: Path, task: str) -> None:
    ran = adapt("sample", task, "data")
    assert ran.status == 0, ran
    kind = registry.load("task", task)
    originals = {path.name: path.read_bytes() for path in kind.sample.iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == originals
    assert {Path(name).stem for name in originals} >= {"train", "validation", "test"}
    assert ran.out.splitlines() == sorted(f"data/{name}" for name in originals)
    assert f"adapt train --task {task} --data data" in ran.err
    assert records(kind, Source(data="data")) == records(kind, Source())


def test_the_written_folder_can_be_trained_on(train, adapt) -> None:
    adapt("sample", "ner")
    assert train("--data", "ner-sample", "--dry-run").status == 0


def test_a_file_that_exists_is_not_overwritten_and_no_other_is_written(adapt, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/validation.conll").write_text("mine")
    adapt("sample", "ner", "data").failed(2, "data/validation.conll exists", "name another folder")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["validation.conll"]
    assert (tmp_path / "data/validation.conll").read_text() == "mine"


def test_a_folder_with_other_files_is_taken(adapt, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert adapt("sample", "pos", ".").status == 0
    assert {"notes.txt", "train.conll"} <= {path.name for path in tmp_path.iterdir()}


def test_an_unknown_task_offers_the_nearest_names(adapt, tmp_path: Path) -> None:
    adapt("sample", "nerr").failed(2, "unknown task 'nerr'", "did you mean ner")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_when_writing_fails(adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    adapt("sample", "ner", "file").failed(1, "file: the sample cannot be written here")
    write_atomically = sample.write_atomically

    def full(path: Path, blob: bytes) -> None:
        if path.name.startswith("validation"):
            raise OSError(28, "No space left on device")
        write_atomically(path, blob)

    monkeypatch.setattr(sample, "write_atomically", full)
    adapt("sample", "ner", "data").failed(1, "No space left")
    assert list((tmp_path / "data").iterdir()) == []
