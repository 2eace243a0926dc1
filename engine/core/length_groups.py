"""Length groups: the rows of a batch divided so that short rows are not padded to the longest row.

On a CPU the time of a forward pass grows with its positions, padding included, and has a fixed part: the calls, and the
reading of the weights. Rows of similar length therefore share a pass, in as many passes as pay for themselves. Costs
are computed from the shapes of the backbone, not measured in the process, so that a batch is always divided alike and
its results repeat bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from adaptdock.engine.core.batches import length
from adaptdock.plugins.contracts import Backbone, Feature

CALLS = 8e6
"""Time of the calls in a linear layer and its share of the block, in multiplications with a weight (float32, AMD EPYC
with AVX-512; bfloat16 has half as much again)."""
READING = 9.0
"""Time of reading a weight, in multiplications with it. A pass of MiniLM then costs as much as 36 of its positions, and
one of SmolLM2-135M as much as 25, as measured."""

Lengths = tuple[int, int]
"""Positions of a row for the encoder, or a model without halves, and for the decoder."""


@dataclass(frozen=True)
class PassCost:
    """The cost of a forward pass, in positions of a short row."""

    fixed: float
    """Cost of a pass without its rows."""
    attention: float
    """Cost of the attention between two positions."""

    def row(self, lengths: Lengths) -> float:
        """Return the cost of a row that is padded to these lengths."""
        return sum(positions * (1 + self.attention * positions) for positions in lengths)


def pass_cost(backbone: Backbone) -> PassCost | None:
    """Return the cost of a pass through a backbone; None if its batches should not be divided.

    A GPU computes the positions of a batch side by side, a compiled model has a graph for each shape, and a network
    without attention computes one position after the other for all rows.
    """
    weights = [port.inputs * port.outputs for port in backbone.ports if port.kind == "linear"]
    attention_calls = sum(port.kind == "attention" for port in backbone.ports)
    compiled = backbone.model._compiled_call_impl is not None
    if backbone.device.type != "cpu" or compiled or not weights or not attention_calls:
        return None
    scores = 2 * backbone.width * attention_calls  # multiplications for two positions: with the key, and of the value
    return PassCost(READING + CALLS * len(weights) / sum(weights), scores / sum(weights))


def length_groups(backbone: Backbone, features: Sequence[Feature]) -> list[list[int]]:
    """Return the numbers of features by forward pass, in ascending order within a pass."""
    cost = pass_cost(backbone)
    if cost is None:
        return [list(range(len(features)))]
    return divided([(length(feature), _answer_length(feature)) for feature in features], cost)


def _answer_length(feature: Feature) -> int:
    return len(feature.inputs.get("decoder_input_ids", ()))


def divided(lengths: Sequence[Lengths], cost: PassCost) -> list[list[int]]:
    """Divide rows into the groups of least total cost, each group a run of neighbours by length.

    The best division of the shortest rows extends the best division of fewer rows (dynamic programming over the
    different lengths, quadratic in their number).
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    runs = [(key, list(numbers)) for key, numbers in groupby(order, key=lengths.__getitem__)]
    counts, answers = [len(numbers) for _, numbers in runs], [answer for (_, answer), _ in runs]
    least, starts = [0.0], [0]
    for end, ((longest, _), _) in enumerate(runs, 1):
        best, start, rows, answer, row_cost = float("inf"), 0, 0, -1, 0.0
        for begin in reversed(range(end)):
            if answers[begin] > answer:  # the decoder pads to its own longest row
                answer = answers[begin]
                row_cost = cost.row((longest, answer))
            rows += counts[begin]
            if (total := least[begin] + rows * row_cost) < best:
                best, start = total, begin
        least.append(best + cost.fixed)
        starts.append(start)
    groups, end = [], len(runs)
    while end:
        groups.append(sorted(number for _, numbers in runs[starts[end] : end] for number in numbers))
        end = starts[end]
    return groups
