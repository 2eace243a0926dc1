"""The pipeline: records become windows, digests and answers, in batches or a window at a time."""

import pytest
from builders import build_adapter

from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.pipeline import EncodedRecord, compute, temporarily_docked
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone

TEXTS = ["ada sings in the rain", "a", "the sea and the cat " * 20]


@pytest.fixture
def adapter(backbone: Backbone) -> AdapterFile:
    return build_adapter(backbone, "lora", seed=1)


def test_windows_that_are_computed_one_by_one_give_the_answer_of_a_batch(dock: Dock, adapter: AdapterFile) -> None:
    name = dock.dock(adapter)
    task, limit = dock.assembly(name).task, adapter.card.preprocessing.max_length
    for text, prediction in zip(TEXTS, dock.predict(name, TEXTS), strict=True):
        with dock.boarding([name]) as (row,):
            encoded = EncodedRecord.encode(task, task.read(text), dock.reading(limit, row))
            for window in reversed(range(len(encoded.windows))):
                assert not encoded.complete
                encoded.digest(window, dock.run([row], [encoded.windows[window]])[0])
        assert encoded.complete
        expected = [pytest.approx(entity, abs=1e-3) for entity in prediction["entities"]]
        assert encoded.decode()["entities"] == expected
    assert len(encoded.windows) > 1  # the last text


def test_an_adapter_is_undocked_when_the_block_ends_and_when_it_fails(dock: Dock, adapter: AdapterFile) -> None:
    with temporarily_docked(dock, adapter) as row:
        records = [row[-1].assembly.task.read(text) for text in TEXTS]
        assert [item.record for item in compute(dock, [row] * 3, records, 2)] == records
        assert len(dock.names) == 1
    assert dock.names == []
    with pytest.raises(ZeroDivisionError), temporarily_docked(dock, adapter):
        raise ZeroDivisionError
    assert dock.names == []
