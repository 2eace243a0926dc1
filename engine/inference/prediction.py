"""Prediction: inputs of any adapters in shared batches, answers in the order of the inputs."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from adaptdock.engine.core.batches import by_length, length
from adaptdock.engine.core.docked_adapters import DockedAdapters, Row
from adaptdock.engine.inference.generation import GenerationOptions, write
from adaptdock.engine.inference.pipeline import TOKENS_PER_BATCH, compute
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Feature, Record, Writer


def predict(dock: DockedAdapters, names: Sequence[str], inputs: Sequence[Any], batch_size: int) -> list[dict[str, Any]]:
    """Return a prediction per input; see :meth:`Dock.predict`."""
    with dock.boarding(names) as rows:
        tasks = [row[-1].assembly.task for row in rows]
        records = [task.read(item) for task, item in zip(tasks, inputs, strict=True)]
        return predict_records(dock, rows, records, batch_size)


def predict_records(
    dock: DockedAdapters, rows: Sequence[Row], records: Sequence[Record], batch_size: int
) -> list[dict[str, Any]]:
    """Return a prediction per record, for rows that are aboard; heads or the language model answer, by task."""
    writes = [isinstance(row[-1].assembly.task, Writer) for row in rows]
    answers: dict[int, dict[str, Any]] = {}
    for kind, answer in ((False, _read_off), (True, write_records)):
        numbers = [number for number, generated in enumerate(writes) if generated == kind]
        if numbers:
            batch = answer(dock, [rows[n] for n in numbers], [records[n] for n in numbers], batch_size)
            answers.update(zip(numbers, batch, strict=True))
    return [answers[number] for number in range(len(rows))]


def _read_off(
    dock: DockedAdapters, rows: Sequence[Row], records: Sequence[Record], batch_size: int
) -> list[dict[str, Any]]:
    return [encoded.decode() for encoded in compute(dock, rows, records, batch_size)]


def logits_of(dock: DockedAdapters, rows: Sequence[Row], inputs: Sequence[Any], batch_size: int) -> list[list[Tensor]]:
    """Return the logits of each window of each input, for rows that are aboard."""
    records = [row[-1].assembly.task.read(item) for row, item in zip(rows, inputs, strict=True)]
    by_window: dict[int, Tensor] = {}

    def collect(windows: Sequence[Feature], logits: Sequence[Tensor]) -> None:
        by_window.update(zip(map(id, windows), logits, strict=True))

    encoded = compute(dock, rows, records, batch_size, on_batch=collect)
    return [[by_window[id(window)] for window in item.windows] for item in encoded]


def write_records(
    dock: DockedAdapters, rows: Sequence[Row], records: Sequence[Record], batch_size: int
) -> list[dict[str, Any]]:
    """Return an answer per record, written by the language model; rows with equal search options share batches."""
    tasks: list[Writer] = [row[-1].assembly.task for row in rows]  # type: ignore[misc]
    refused = next((row[-1].card.name for row, task in zip(rows, tasks, strict=True) if not _written(task)), None)
    if refused is not None:
        raise UsageError(
            f"the adapter {refused!r} has a map to the vocabulary of its own, but the backbone writes with its frozen "
            f"map: such an adapter can be measured, but writes nothing"
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
        alike = [number for number, candidate in enumerate(searches) if candidate == search]
        for batch in by_length([length(prompts[number]) for number in alike], batch_size, TOKENS_PER_BATCH):
            numbers = [alike[place] for place in batch]
            ids = [prompts[number].inputs["input_ids"] for number in numbers]
            for number, text in zip(numbers, write(dock, [rows[n] for n in numbers], ids, search), strict=True):
                cut = {"cut_tokens": prompts[number].cut} if prompts[number].cut else {}
                answers[number] = tasks[number].answer(records[number], text) | cut
    return [answers[number] for number in range(len(rows))]


def _written(task: Writer) -> bool:
    return task.head().over == "vocabulary"
