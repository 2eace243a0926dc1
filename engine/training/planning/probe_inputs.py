"""Inputs of golden probes: a few short texts of the task's sample or of the validation data, without labels."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Probed, Record, Task

LETTERS, WORDS = 200, 30
"""Longest text of an input; longer texts and lists of words are cut."""
CANDIDATES = 12
"""Inputs to try, as an adapter may have no answer for some."""
FEWEST_LETTERS = 20


def probe_inputs(task: Task, origin: Literal["sample", "validation"], source: Source, seed: int) -> list[Any]:
    """Return inputs for the golden probes of an adapter for a task.

    ``source`` and ``seed`` give the validation data. Its texts are often personal or secret, so they are taken only on
    request; the sample of a task is public. Raises :class:`DataError` for data that cannot be read.
    """
    inputs = [item for record in _records(task, origin, source, seed) if (item := _input(task, record)) is not None]
    long_enough = [item for item in inputs if len(str(item)) >= FEWEST_LETTERS] or inputs
    return list(islice(_spread(long_enough), CANDIDATES))


def _records(task: Task, origin: Literal["sample", "validation"], source: Source, seed: int) -> Sequence[Record]:
    """Return raw records, which still have the names of the fields that :meth:`Task.read` knows."""
    kind = type(task)
    if origin == "validation":
        splits, _ = load_splits(source, kind, seed, task)
        return splits["validation"]
    sample = getattr(kind, "sample", None)
    return _sample_records(kind, sample) if isinstance(sample, Path) and sample.is_dir() else []


@cache  # joint runs, folds and seeds train many adapters of a task
def _sample_records(kind: type[Task], sample: Path) -> Sequence[Record]:
    """Return the validation records of a task's sample folder, or its training records; none of a broken sample."""
    try:
        splits, _ = load_splits(Source(str(sample)), kind)
    except DataError:
        return []  # a broken sample of a plugin must not cost a trained adapter
    return splits.get("validation") or splits["train"]


def _spread(inputs: Sequence[Any]) -> Iterator[Any]:
    """Yield inputs from all parts of the data, as neighbours may be of one kind."""
    step = max(1, len(inputs) // CANDIDATES)
    yield from inputs[::step]


def _input(task: Task, record: Record) -> Any:
    """Return the smallest part of a record that the task reads; None if it reads none.

    The parts are, in this order, the fields that the task asks for, one field, all fields. A label is taken only if the
    task reads nothing without it.
    """
    if isinstance(task, Probed):
        return task.probe(record)
    kind = type(task)
    fields = {name: _cut(value) for name, value in record.items() if name in (*kind.columns, *kind.asks)}
    asked = {name: fields[name] for name in kind.asks if name in fields}
    candidates: list[Any] = [asked] if len(asked) == len(kind.asks) else []
    candidates += [{name: value} for name, value in fields.items()]
    candidates.append(fields)
    return next((_bare(item) for item in candidates if is_read(task, item)), None)


def _bare(item: Mapping[str, Any]) -> Any:
    return item["text"] if list(item) == ["text"] else dict(item)


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value[:LETTERS]
    return value[:WORDS] if isinstance(value, list) else value


def is_read(task: Task, item: Any) -> bool:
    """Return whether the task accepts an input."""
    try:
        task.read(item)
    except DataError:
        return False
    return True
