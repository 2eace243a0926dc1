"""Shortfalls of a trained adapter: weights that have not moved, or a metric no better than a constant answer's."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from adaptdock.engine.core.assembly import HEAD
from adaptdock.engine.evaluation.measurement import evaluate
from adaptdock.engine.evaluation.selection import ENOUGH
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.pipeline import compute, temporarily_docked
from adaptdock.hub.artefact.file import AdapterFile

if TYPE_CHECKING:
    from adaptdock.engine.training.planning.plan import Plan

Item = TypeVar("Item")

SAMPLE = 200
"""Most training records that are measured if validation and test data are too small."""
TRIED = 8
"""Number of records whose logits are compared between trained and initial weights of the method."""
UNTRAINED = "This adapter is untrained: training has not moved its weights from where they started."


def untrained(plan: "Plan", adapter: AdapterFile, start: Mapping[str, Tensor]) -> str:
    """Return a sentence if training has moved no weight, else an empty string; ``start`` as in :func:`unmoved`."""
    return "" if _moved(plan, adapter, start) else UNTRAINED


def unmoved(plan: "Plan", dock: Dock, adapter: AdapterFile, start: Mapping[str, Tensor]) -> str:
    """Return a sentence if training has moved no weights, or only the head's; empty if the method has an effect.

    ``start`` are the initial weights in the precision of the file.
    """
    trained = _trained(plan)
    moved = _moved(plan, adapter, start)
    if not moved:
        return UNTRAINED
    of_method = [name for place, name in trained if place != HEAD]
    if not of_method or (False in moved and _acts(plan, dock, adapter, {name: start[name] for name in of_method})):
        return ""
    methods = " and ".join(method.name for method in plan.methods)
    return f"Only the head of this adapter is trained: {methods} changes nothing that it did not change at the start."


def _trained(plan: "Plan") -> list[tuple[str, str]]:
    """Return the place and the name of each tensor that is trained."""
    return [(place, f"{place}.{name}") for place, name, declared in plan.assembly.declared() if declared.trained]


def _moved(plan: "Plan", adapter: AdapterFile, start: Mapping[str, Tensor]) -> set[bool]:
    """Return True where the head has moved, and False where the method has."""
    return {
        place == HEAD
        for place, name in _trained(plan)
        if not torch.equal(start[name].float(), adapter.tensors[name].float())  # large weights are stored in 32 bit
    }


def _acts(plan: "Plan", dock: Dock, adapter: AdapterFile, of_method: Mapping[str, Tensor]) -> bool:
    """Return whether any logit differs between the trained and the initial weights of the method."""
    untrained = AdapterFile(adapter.card, {**adapter.tensors, **of_method})
    trained_digests, start_digests = (_digests(plan, dock, file) for file in (adapter, untrained))
    return not all(map(torch.equal, trained_digests, start_digests))


def _digests(plan: "Plan", dock: Dock, adapter: AdapterFile) -> list[Tensor]:
    records = spread(plan.given, TRIED)
    with temporarily_docked(dock, adapter) as row:
        encoded = compute(dock, [row] * len(records), records, plan.options.batch_size, labelled=True)
    return [digest for item in encoded for digest in item.digests]


def compared(plan: "Plan", dock: Dock, adapter: AdapterFile, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the most reliable split, the adapter's metric on it, and the metric of the best constant answer.

    Test data comes first, then validation data; if both are too small, a sample of the training data is measured.
    Empty for a task without a constant answer.
    """
    name = type(plan.task).metric
    splits = [split for split in ("test", "validation") if split in metrics]
    split = next((split for split in splits if plan.task.support(plan.records[split]) >= ENOUGH), "train")
    records = spread(plan.given, SAMPLE) if split == "train" else plan.records[split]
    baseline = plan.task.baseline(records)
    if baseline is None:
        return {}
    scores = metrics.get(split) or evaluate(dock, adapter, records, plan.options.batch_size * 2, write=False).metrics
    return {"split": split, name: scores[name], "same_answer": baseline[name]}


def no_better(plan: "Plan", comparison: Mapping[str, Any]) -> str:
    """Return a sentence if an adapter is no better than a constant answer; empty if it is better."""
    task = type(plan.task)
    if not comparison:
        return ""
    score, baseline = comparison[task.metric], comparison["same_answer"]
    if score < baseline if task.lower_is_better else score > baseline:
        return ""
    return (
        f"This adapter has learnt nothing of use: its {task.metric} on the {comparison['split']} data is "
        f"{score:.2f}, and {task.baseline_answer} reaches {baseline:.2f}."
    )


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most ``count`` items, at even distances."""
    step = max(1, len(items) / count)
    return [items[int(number * step)] for number in range(min(count, len(items)))]
