"""The head before the adapter moves: fitted on what the backbone gives with the adapter at its start weights.

Two heads are fitted. The classic answer, with the regularisation that cross-validation finds best, is what the trained
adapter must beat. The start of training is regularised strongly: a head that fits its few examples perfectly has no
gradient left to move an adapter (docs/few.md has the measurement).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptdock.engine.core.assembly import HEAD
from adaptdock.engine.core.batches import (
    NOT_COUNTED,
    by_length,
    collate,
    collate_labels,
    collate_row_inputs,
    counts,
    length,
)
from adaptdock.engine.core.forward import for_head, mask_for, states
from adaptdock.engine.core.open_ports import OpenPorts
from adaptdock.engine.evaluation.label_errors import LabelledVectors
from adaptdock.engine.evaluation.measurement import Evaluation
from adaptdock.engine.training.heads.adapter_shares import NAMES, SHARES, ShareChoice
from adaptdock.engine.training.heads.shortfall import spread
from adaptdock.engine.training.members.trainable import Acting, TrainedRows
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.plugins.contracts import (
    CandidateHead,
    Feature,
    FitExamples,
    FittedHead,
    LabelChecked,
    LinearHead,
    Record,
)

START_STRENGTH = 1.0
"""Inverse regularisation (C) of the head that training starts from."""
ROWS, TOKENS = 64, 8192
CHECKED = 10_000
"""Most vectors whose labels are checked for errors."""
RECORDS = 4_000
"""Most training records whose vectors are computed, at even distances."""
SHARE = 500
"""Records at a time, from the whole of the data: once there are :data:`VECTORS`, no more are read."""
VECTORS = 20_000
"""Enough vectors: of records with many labelled words, a part of :data:`RECORDS` gives them."""


@dataclass(frozen=True)
class FittedHeads:
    """Tensors of the head as an adapter file names them: the classic answer, and the start of training.

    ``read`` are some of the vectors that the head was fitted on, by which labels can be checked; None for a task
    without one class for each text or word.
    """

    answer: dict[str, Tensor]
    start: dict[str, Tensor]
    read: LabelledVectors | None = None


@dataclass(frozen=True)
class FoldChoice:
    """What folds of the training data say: the share of the trained change that is worth keeping.

    ``choice`` has the deciding metric of each share over all records, each answered by a run that was not trained on
    it; without a fitted head there is one share. ``evaluation`` is that of the chosen one on all ``records``.
    ``classics`` is what a card says of classic answers to the same records.
    """

    count: int
    choice: ShareChoice
    records: Sequence[Record]
    evaluation: Evaluation
    classics: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """All metrics that are numbers."""
        return {key: value for key, value in self.evaluation.metrics.items() if not isinstance(value, dict)}

    def described(self) -> dict[str, Any]:
        """Return what a card says."""
        of_share = {NAMES[share].replace(" ", "_"): self.choice.metrics.get(share) for share in SHARES}
        return {"count": self.count, **of_share, "kept": self.choice.name}


def fit_heads(plan: Plan, ports: OpenPorts, parts: Acting) -> FittedHeads | None:
    """Return the fitted heads of a plan, whose adapter has the weights of ``parts``; None where labels allow no fit."""
    task = plan.task
    assert isinstance(task, FittedHead)
    ports.acquire(plan.assembly.sites)
    try:
        read = _vectors(plan, ports, parts)
    finally:
        ports.release(plan.assembly.sites)
    if read is None:
        return None
    owners = [number for number, _, _ in read.sources]
    examples = FitExamples(read.vectors, read.labels, owners, plan.class_weights(), plan.options.seed)
    answer, start = task.fit_head(examples, None), task.fit_head(examples, START_STRENGTH)
    if answer is None or start is None:
        return None
    answer, start = ({f"{HEAD}.{name}": tensor for name, tensor in head.items()} for head in (answer, start))
    is_checkable = isinstance(task, LabelChecked) and bool(task.class_names)
    return FittedHeads(answer, start, _checkable(read) if is_checkable else None)


def _checkable(read: LabelledVectors) -> LabelledVectors:
    """Return at most :data:`CHECKED` vectors, at even distances, so that little memory is in use during training."""
    rows = spread(range(len(read.sources)), CHECKED)
    return LabelledVectors(
        read.records, read.vectors[rows].clone(), read.labels[rows].long(), [read.sources[row] for row in rows]
    )


def _vectors(plan: Plan, ports: OpenPorts, parts: Acting) -> LabelledVectors | None:
    """Return the vectors that the head reads, with their labels; those labelled -100 are left out.

    They are of the records that were given: altered copies would be in other folds than what they are copies of.
    """
    records = spread(plan.given, RECORDS)
    shares = -(-len(records) // SHARE)
    vectors: list[Tensor] = []
    labels: list[Tensor] = []
    sources: list[tuple[int, Feature, int]] = []
    for first in range(shares):
        if len(sources) >= VECTORS:
            break
        features = [
            (number, feature)
            for number in range(first, len(records), shares)
            for feature in plan.task.encode(records[number], plan.reading, True)
            if counts(feature.labels)
        ]
        for batch in by_length([length(feature) for _, feature in features], ROWS, TOKENS):
            batch_vectors, targets, places = _read(plan, ports, parts, [features[number] for number in batch])
            vectors.append(batch_vectors)
            labels.append(targets)
            sources += places
    return LabelledVectors(records, torch.cat(vectors), torch.cat(labels), sources) if sources else None


@torch.no_grad()
def _read(
    plan: Plan, ports: OpenPorts, parts: Acting, numbered: Sequence[tuple[int, Feature]]
) -> tuple[Tensor, Tensor, list[tuple[int, Feature, int]]]:
    """Return the vectors (N, W) of windows, their labels, and the record, window and position of each."""
    backbone = plan.backbone
    features = [feature for _, feature in numbered]
    inputs = collate(backbone, features)
    head = plan.assembly.head
    mask = mask_for(head, inputs)
    rows = TrainedRows(backbone, [parts], [0] * len(features), dropout=False)
    row_inputs = collate_row_inputs(head, features, mask.device)
    hidden = for_head(backbone, head, states(backbone, ports, rows, inputs, head.reads), mask, row_inputs)
    labels = collate_labels(features, mask.device)
    if isinstance(head, CandidateHead):
        candidates, labels, of_rows = head.candidates(hidden, labels)
        return candidates.float().cpu(), labels.cpu(), [(*numbered[row], 0) for row in of_rows.tolist()]
    assert isinstance(head, LinearHead)
    vectors = head.vectors(hidden, mask)  # type: ignore[arg-type]
    assert vectors is not None
    places = [(*window, 0) for window in numbered]
    if vectors.ndim == 3:
        by_position = _by_position(labels, features)
        counted = (by_position != NOT_COUNTED).any(-1)
        places = [(*numbered[row], position) for row, position in counted.nonzero().tolist()]
        vectors, labels = vectors[:, -counted.shape[1] :][counted], by_position[counted].squeeze(-1)
    return vectors.float().cpu(), labels.cpu(), places


def _by_position(labels: Tensor, features: Sequence[Feature]) -> Tensor:
    """Return labels (R, T, numbers) of labels (R, T numbers): how many numbers a position has, the windows say."""
    longest = max(features, key=length)
    return labels.reshape(len(labels), -1, len(longest.labels) // length(longest))
