"""Names of hub data sets: the hub is not asked for the name of a file that is missing."""

import datasets
import pytest

from adaptdock.engine.data.hub_names import hub_dataset
from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.errors import DataError
from adaptdock.tasks.ner import NER


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, ...]]:
    """What the hub is asked for; it has nothing."""
    calls: list[tuple[str | None, ...]] = []

    def load_dataset(*names: str | None) -> None:
        calls.append(names)
        raise FileNotFoundError("no such data set")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


@pytest.mark.parametrize(
    "name", ["nofile.jsonl", "data/train.CONLL", "a/b/c", "/nowhere", "../data", "~/data", "my data", "a\\b"]
)
def test_a_missing_file_or_folder_is_named_at_once(name: str, asked: list[tuple[str | None, ...]]) -> None:
    with pytest.raises(DataError, match="there is no such file or folder"):
        load_splits(Source(data=name), NER)
    assert asked == []


def test_any_other_name_is_looked_up(asked: list[tuple[str | None, ...]]) -> None:
    for name in ("squad", "owner/set-1.1", "owner/set:part"):
        with pytest.raises(DataError, match="no data set that the hub gives: no such data set"):
            hub_dataset(name)
    assert asked == [("squad", None), ("owner/set-1.1", None), ("owner/set", "part")]
