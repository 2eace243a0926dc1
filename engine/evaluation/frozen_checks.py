"""Checks of data by a frozen backbone: labels that may be wrong, and texts that are nearly the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.engine.core.docked_adapters import DockedAdapters
from adaptdock.engine.data.checks import answers_of, text_of
from adaptdock.engine.evaluation.head_vectors import HeadReader
from adaptdock.engine.evaluation.label_errors import LabelError, LabelledVectors, groups_of, label_errors
from adaptdock.engine.inference.text_vectors import text_vectors
from adaptdock.plugins.contracts import Record, Task
from adaptdock.plugins.toolkit.stored import joined

RECORDS = 20_000
"""Most records that are compared, at even distances."""
NEAR = 0.97
"""Cosine of two vectors from which texts are nearly the same."""
BLOCK = 1024
"""Rows of the matrix of cosines that are in memory together."""


@dataclass(frozen=True)
class NearDuplicate:
    """A text, and the most similar one before it: their places and texts, and 1 minus the cosine of their vectors.

    The mean of all vectors is subtracted from them before.
    """

    places: tuple[str, str]
    texts: tuple[str, str]
    distance: float
    labels_differ: bool


@dataclass
class FrozenFindings:
    """The findings of a frozen backbone, the most certain first, and notes on what was not checked."""

    label_errors: list[LabelError] = field(default_factory=list)
    near_duplicates: list[NearDuplicate] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_frozen(
    dock: DockedAdapters, task: Task, splits: Mapping[str, Sequence[Record]], max_length: int, seed: int = 0
) -> FrozenFindings:
    """Check the cleaned records of all splits together; ``task`` is fitted."""
    findings = FrozenFindings()
    records = joined(*splits.values())
    if len(records) > RECORDS:
        step = len(records) / RECORDS
        findings.notes.append(f"{RECORDS} of {len(records)} records are checked for label errors and near duplicates")
        records = [records[int(number * step)] for number in range(RECORDS)]
    reader = HeadReader.of(task)
    if reader is None:
        findings.notes.append("labels are not checked for errors: this task has more than one class for a text or word")
    vectors = text_vectors(dock, (), task, records, max_length, on_batch=reader.read if reader else None)
    if reader is not None:
        findings.label_errors = _label_errors(reader, records, seed, findings.notes)
    # Vectors of many backbones share one direction, which would make all texts similar.
    centred = functional.normalize(vectors - vectors.mean(0), dim=-1)
    findings.near_duplicates = near_duplicates(centred, records, task)
    return findings


def near_duplicates(vectors: Tensor, records: Sequence[Record], task: Task) -> list[NearDuplicate]:
    """Return the texts that an earlier one is nearly the same as; those with another label come first.

    ``vectors`` (N, W) have length 1. Equal texts are left out; :func:`check` counts them.
    """
    texts = [text_of(record, task) for record in records]
    same = torch.tensor(groups_of(texts))
    pairs = []
    for start in range(0, len(vectors), BLOCK):
        rows = torch.arange(start, min(len(vectors), start + BLOCK))
        cosines = vectors[rows] @ vectors[: rows[-1] + 1].T
        later = torch.arange(cosines.shape[1]).unsqueeze(0) >= rows.unsqueeze(1)
        cosines[later | (same[rows].unsqueeze(1) == same[: cosines.shape[1]])] = -1.0
        best, nearest = cosines.max(1)
        near = (best >= NEAR).nonzero().flatten().tolist()
        pairs += [(start + place, int(nearest[place]), 1 - best[place].item()) for place in near]
    duplicates = [
        NearDuplicate(
            (_place(records[before]), _place(records[number])),
            (" ".join(texts[before]), " ".join(texts[number])),
            max(0.0, distance),
            _labels(records[before], task) != _labels(records[number], task),
        )
        for number, before, distance in pairs
    ]
    return sorted(duplicates, key=lambda pair: (not pair.labels_differ, pair.distance))


def _label_errors(reader: HeadReader, records: Sequence[Record], seed: int, notes: list[str]) -> list[LabelError]:
    """Return the labels that may be wrong, or none and a note."""
    if not reader.vectors:
        return []
    errors = label_errors(reader.task, LabelledVectors(records, *reader.examples(), reader.sources), seed)
    if errors is None:
        notes.append("labels are not checked for errors: too few records for folds")
    return errors or []


def _labels(record: Record, task: Task) -> Any:
    """Return the set of labels, in which words that are divided in another way change nothing; else the answer."""
    return frozenset(task.labels(record)) or answers_of(record, task)


def _place(record: Record) -> str:
    return str(record.get("where", "?"))
