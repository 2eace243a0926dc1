"""Prediction: inputs of any adapters in shared batches, answers in the order of the inputs."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from adaptdock.engine.core.batches import by_length, length
from adaptdock.engine.core.docked_adapters import DockedAdapters, Row
from adaptdock.engine.inference.generation import GenerationOptions, write
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Feature, Record, Writer

TOKENS_PER_BATCH = 8192
TOKENS_PER_VOCABULARY_BATCH = 2048
"""Of heads whose logits are as wide as the vocabulary, so that they fit in memory."""

Seen = Callable[[Sequence[Feature], Sequence[Tensor]], None]
"""Told the features and the logits of a batch."""


def predict(dock: DockedAdapters, names: Sequence[str], inputs: Sequence[Any], batch_size: int) -> list[dict[str, Any]]:
    """Return a prediction per input; see :meth:`Dock.predict`."""
    with dock.boarding(names) as rows:
        tasks = [row[-1].assembly.task for row in rows]
        records = [task.read(item) for task, item in zip(tasks, inputs, strict=True)]
        return predict_records(dock, rows, records, batch_size)


def predict_records(
    dock: DockedAdapters, rows: Sequence[Row], records: Sequence[Record], batch_size: int
) -> list[dict[str, Any]]:
    """Return a prediction per record, for rows that are aboard; some are read off, some are written."""
    writes = [isinstance(row[-1].assembly.task, Writer) for row in rows]
    answers: dict[int, dict[str, Any]] = {}
    for kind, answer in ((False, _read_off), (True, write_records)):
        numbers = [number for number, found in enumerate(writes) if found == kind]
        if numbers:
            found = answer(dock, [rows[n] for n in numbers], [records[n] for n in numbers], batch_size)
            answers.update(zip(numbers, found, strict=True))
    return [answers[number] for number in range(len(rows))]


def _read_off(
    dock: DockedAdapters, rows: Sequence[Row], records: Sequence[Record], batch_size: int
) -> list[dict[str, Any]]:
    features = _encoded(dock, rows, records)
    digests = digests_of(dock, rows, features, batch_size)
    return [
        row[-1].assembly.task.decode(record, own, found)
        for row, record, own, found in zip(rows, records, features, digests, strict=True)
    ]


def logits_of(dock: DockedAdapters, rows: Sequence[Row], inputs: Sequence[Any], batch_size: int) -> list[list[Tensor]]:
    """Return the logits of each window of each input, for rows that are aboard."""
    records = [row[-1].assembly.task.read(item) for row, item in zip(rows, inputs, strict=True)]
    features = _encoded(dock, rows, records)
    logits: list[list[Tensor]] = [[torch.empty(0)] * len(windows) for windows in features]
    for batch in _batches(rows, features, batch_size):
        windows = [features[owner][place] for owner, place in batch]
        for (owner, place), found in zip(batch, dock.run([rows[owner] for owner, _ in batch], windows), strict=True):
            logits[owner][place] = found
    return logits


def _encoded(dock: DockedAdapters, rows: Sequence[Row], records: Sequence[Record]) -> list[list[Feature]]:
    return [
        row[-1].assembly.task.encode(record, dock.reading(row[-1].card.preprocessing.max_length, row), labelled=False)
        for row, record in zip(rows, records, strict=True)
    ]


def write_records(
    dock: DockedAdapters, rows: Sequence[Row], records: Sequence[Record], batch_size: int
) -> list[dict[str, Any]]:
    """Return an answer per record, written by the language model; rows that search alike share batches."""
    tasks: list[Writer] = [row[-1].assembly.task for row in rows]  # type: ignore[misc]
    own = next((row[-1].card.name for row, task in zip(rows, tasks, strict=True) if not _written(task)), None)
    if own is not None:
        raise UsageError(
            f"the adapter {own!r} has a map to the vocabulary of its own, and the backbone writes by the frozen one: "
            f"such an adapter can be measured, but writes nothing"
        )
    searches = [GenerationOptions.model_validate(task.search()) for task in tasks]
    prompts = []
    for row, task, search, record in zip(rows, tasks, searches, records, strict=True):
        room = 0 if dock.backbone.encoder_decoder else search.max_new_tokens
        reading = dock.reading(row[-1].card.preprocessing.max_length, row, room)
        if reading.max_length < 1:
            raise UsageError(f"{room} new tokens leave no room for a text in the {dock.backbone.max_length} positions")
        prompts.append(task.prompt(record, reading))
    answers: dict[int, dict[str, Any]] = {}
    for search in dict.fromkeys(searches):
        alike = [number for number, found in enumerate(searches) if found == search]
        for batch in by_length([length(prompts[number]) for number in alike], batch_size, TOKENS_PER_BATCH):
            numbers = [alike[place] for place in batch]
            ids = [prompts[number].inputs["input_ids"] for number in numbers]
            for number, text in zip(numbers, write(dock, [rows[n] for n in numbers], ids, search), strict=True):
                cut = {"cut_tokens": prompts[number].cut} if prompts[number].cut else {}
                answers[number] = tasks[number].answer(records[number], text) | cut
    return [answers[number] for number in range(len(rows))]


def _written(task: Writer) -> bool:
    return task.head().over == "vocabulary"


def digests_of(
    dock: DockedAdapters,
    rows: Sequence[Row],
    features: Sequence[Sequence[Feature]],
    batch_size: int,
    seen: Seen | None = None,
) -> list[list[Tensor]]:
    """Return the digest of each record's features, computed in batches of like length.

    ``seen`` is told the logits of each batch, before they are given up.
    """
    digests: list[list[Tensor | None]] = [[None] * len(own) for own in features]
    for batch in _batches(rows, features, batch_size):
        given = [features[owner][place] for owner, place in batch]
        logits = dock.run([rows[owner] for owner, _ in batch], given)
        if seen is not None:
            seen(given, logits)
        for (owner, place), feature, found in zip(batch, given, logits, strict=True):
            digests[owner][place] = rows[owner][-1].assembly.task.digest(feature, found)
    return digests  # type: ignore[return-value]  # every feature was in a batch


def _batches(
    rows: Sequence[Row], features: Sequence[Sequence[Feature]], batch_size: int
) -> Iterator[list[tuple[int, int]]]:
    """Yield batches of (record, place of the feature); what is compared in the loss stays together."""
    units: list[list[tuple[int, int]]] = []
    for owner, (row, own) in enumerate(zip(rows, features, strict=True)):
        places = [(owner, place) for place in range(len(own))]
        units += [places] if places and row[-1].assembly.task.together else [[place] for place in places]
    wide = any(row[-1].assembly.head.over != "hidden" for row in rows)
    lengths = [sum(length(features[owner][place]) for owner, place in unit) for unit in units]
    for batch in by_length(lengths, batch_size, TOKENS_PER_VOCABULARY_BATCH if wide else TOKENS_PER_BATCH):
        yield [place for number in batch for place in units[number]]
