"""Which texts to label next: uncertain answers, spread over the feature space.

Source: Zhdanov (2019), "Diverse mini-batch Active Learning", arXiv:1901.05954. The candidates are the texts with the
least margin between the two most probable answers. K-means, weighted by uncertainty (1 - margin), divides their vectors
into as many clusters as texts are wanted; the text nearest to each centre is proposed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from adaptdock.engine.core.docked_adapters import DockedAdapters, Row
from adaptdock.engine.inference.pipeline import compute
from adaptdock.engine.inference.text_vectors import text_vectors
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Annotating, Labelling, Record

CANDIDATES = 10
"""Candidates for each proposed text (the factor beta of the paper)."""
BATCHES_AT_ONCE = 16
"""Batches whose logits are in memory together."""
LEAST_WEIGHT = 1e-6


@dataclass(frozen=True)
class LabelProposal:
    """A text to label: the number of its input, the answer of the adapter, and the margin of that answer."""

    number: int
    prediction: dict[str, Any]
    margin: float


def propose(
    dock: DockedAdapters, name: str, inputs: Sequence[Any], count: int, batch_size: int = 32, seed: int = 0
) -> list[LabelProposal]:
    """Return at most ``count`` inputs whose labels would teach a docked adapter most, the least certain first.

    Inputs without a token are never proposed. Raises :class:`UsageError` for an adapter whose answers a person cannot
    correct, and :class:`DataError` for an input that the task cannot read.
    """
    with dock.boarding([name]) as (row,):
        task = row[-1].assembly.task
        check_labelling(task, row[-1].card.task.name)
        records = [task.read(item) for item in inputs]
        proposals = _answered(dock, row, records, batch_size)
        candidates = sorted(proposals, key=lambda proposal: proposal.margin)[: CANDIDATES * count]
        if len(candidates) <= count:
            return candidates
        max_length = row[-1].card.preprocessing.max_length
        texts = [records[proposal.number] for proposal in candidates]
        vectors = text_vectors(dock, row, task, texts, max_length, batch_size)
    return [candidates[place] for place in spread(vectors, [c.margin for c in candidates], count, seed)]


def check_labelling(task: Any, name: str) -> None:
    """Raise :class:`UsageError` unless a person can correct the answers of a task by choosing labels."""
    if not isinstance(task, Labelling) or not isinstance(task, Annotating):
        raise UsageError(
            f"texts to label are proposed for adapters of classification and of taggers, and this one is for {name}"
        )


def spread(vectors: Tensor, margins: Sequence[float], count: int, seed: int) -> list[int]:
    """Return the numbers of ``count`` vectors (N, W): the nearest to each centre of weighted k-means, in order.

    Where vectors are equal there may be fewer clusters; the vectors with the least margins fill the places.
    """
    from sklearn.cluster import KMeans

    points = vectors.double().numpy()
    clusters = min(count, len(np.unique(points, axis=0)))
    weights = np.maximum(LEAST_WEIGHT, 1 - np.asarray(margins))
    distances = KMeans(clusters, n_init=1, random_state=seed).fit(points, sample_weight=weights).transform(points)
    nearest = {int(number) for number in distances.argmin(0)}
    rest = (number for number in np.argsort(margins, kind="stable").tolist() if number not in nearest)
    numbers = [*nearest, *(number for _, number in zip(range(count - len(nearest)), rest, strict=False))]
    return sorted(numbers, key=lambda number: (margins[number], number))


def _answered(dock: DockedAdapters, row: Row, records: Sequence[Record], batch_size: int) -> list[LabelProposal]:
    task: Any = row[-1].assembly.task
    proposals = []
    for start in range(0, len(records), batch_size * BATCHES_AT_ONCE):
        part = records[start : start + batch_size * BATCHES_AT_ONCE]
        for number, encoded in enumerate(compute(dock, [row] * len(part), part, batch_size), start):
            if encoded.windows:
                margin = task.margin(encoded.record, encoded.windows, encoded.digests)
                proposals.append(LabelProposal(number, encoded.decode(), margin))
    return proposals
