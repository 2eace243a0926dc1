"""Members with the same texts: what lies below their adapters is computed once, and changes no weight."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from adaptdock.engine.core.batches import length
from adaptdock.engine.data.sources import Source
from adaptdock.engine.evaluation.measurement import evaluate, evaluate_together
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.members.members import Member, Members
from adaptdock.engine.training.members.task_run import Result, TaskRun
from adaptdock.engine.training.planning.plan import Plan, draft, settle
from adaptdock.engine.training.planning.shared_data import SharedData
from adaptdock.engine.training.repeats.joint_run import Training, train_together
from adaptdock.plugins.contracts import Backbone

RATES = (1e-2, 3e-3, 1e-3)


@pytest.fixture
def row_counts(backbone: Backbone) -> Iterator[list[int]]:
    """Count the rows that each layer of the backbone has computed, from the bottom."""
    counts = [0, 0]
    blocks = next(module for module in backbone.model.modules() if isinstance(module, nn.ModuleList))

    def count(number: int) -> object:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
            counts[number] += inputs[0].shape[0]

        return hook

    handles = [block.register_forward_hook(count(number)) for number, block in enumerate(blocks)]
    yield counts
    for handle in handles:
        handle.remove()


def plans(backbone: Backbone, data: Path, method: str, layers: str | None, **options: object) -> list[Plan]:
    shared, result = SharedData(), []
    common = {"epochs": 2, "batch_size": 8, "patience": 0, "store": "float32", "head_start": "random"}
    common |= {"backbone_dropout": False, "probe_data": "none", **options}
    for rate in RATES:
        given, of_method = {**common, "learning_rate": rate}, {"layers": layers} if layers else {}
        source = Source(data=str(data))
        result.append(draft(backbone, "ner", method, source, given, of_method, shared=shared))
        settle(result[-1], method, len(result[-1].units))
    return result


def trained(entries: list[Plan], folder: Path) -> list[Result]:
    trainings = {str(number): Training(entry, folder / str(number)) for number, entry in enumerate(entries)}
    outcomes = list(train_together(trainings, folder / "pass").values())
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    assert len(results) == len(outcomes)
    return results


def test_plans_of_the_same_data_share_their_windows_and_no_others(backbone: Backbone, data: Path) -> None:
    first, second, third = plans(backbone, data, "lora", None)
    assert first.units is second.units is third.units
    assert first.records is not second.records
    assert first.records["validation"] is second.records["validation"]
    shared, source = SharedData(), Source(data=str(data))
    one, long, other_seed, other_data = (
        draft(backbone, "ner", "lora", given, options, shared=shared)
        for given, options in (
            (source, {}), (source, {"max_length": 8}), (source, {"seed": 1}), (Source(train=f"{data}/test.conll"), {}),
        )
    )  # fmt: skip
    assert len({id(entry.units) for entry in (one, long, other_seed, other_data)}) == 4
    assert max(length(feature) for unit in long.units for feature in unit) <= 8


@pytest.mark.parametrize(("method", "layers"), [("features", None), ("lora", "1"), ("bottleneck", "1"), ("lora", None)])
def test_members_on_shared_layers_end_with_the_weights_that_they_get_alone(
    backbone: Backbone, data: Path, tmp_path: Path, method: str, layers: str | None
) -> None:
    entries = plans(backbone, data, method, layers)
    for number, (entry, result) in enumerate(zip(entries, trained(entries, tmp_path), strict=True)):
        alone = train_plan(entry, tmp_path / f"alone-{number}")
        assert result.adapter.card.metrics == alone.adapter.card.metrics
        for name, tensor in alone.adapter.tensors.items():
            torch.testing.assert_close(result.adapter.tensors[name], tensor, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize(("method", "layers", "rows"), [("features", None, [8, 8]), ("lora", "1", [8, 24])])
def test_layers_below_the_adapters_run_once_for_all_members(
    backbone: Backbone,
    data: Path,
    tmp_path: Path,
    row_counts: list[int],
    method: str,
    layers: str | None,
    rows: list[int],
) -> None:
    tasks = [TaskRun(entry, Dock(backbone), tmp_path) for entry in plans(backbone, data, method, layers)]
    members = Members(tasks[0].dock, [Member([task], number) for number, task in enumerate(tasks)])
    trainable, collated = members.trainable(), members.collator()([members.batches[0]])
    for task in tasks:
        members.dock.ports.acquire(task.plan.assembly.sites)
    trainable(**collated)  # the first pass also checks that the backbone can be resumed
    row_counts[:] = [0, 0]
    shared = trainable(**collated)["loss"]
    assert row_counts == rows
    torch.testing.assert_close(shared, trainable(**{**collated, "texts": None})["loss"], atol=1e-5, rtol=0)
    for task in tasks:
        members.dock.ports.release(task.plan.assembly.sites)


def test_adapters_measured_together_reach_what_each_reaches_alone(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    entries = [*plans(backbone, data, "features", None), *plans(backbone, data, "lora", "1")]
    adapters = [train_plan(entry, tmp_path / str(number)).adapter for number, entry in enumerate(entries)]
    dock, records = Dock(backbone), entries[0].records["validation"]
    for adapter, together in zip(adapters, evaluate_together(dock, adapters, records, 2), strict=True):
        alone = evaluate(dock, adapter, records, 2)
        assert (together.metrics, together.scored) == (alone.metrics, alone.scored)
        assert together.loss == pytest.approx(alone.loss, abs=1e-5)
