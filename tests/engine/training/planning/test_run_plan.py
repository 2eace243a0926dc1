"""Several tasks trained together: one adapter with a head each, or an adapter each in the same passes."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptdock.engine.core.batches import collate, collate_labels
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.loop.run import Run, planned_run, run_of
from adaptdock.engine.training.members.members import Unit
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import plan
from adaptdock.engine.training.planning.run_plan import SharingOptions, TaskSettings, plan_run
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins.contracts import Backbone, LoadOptions

TASKS = ("ner", "topic")
EXACT = {"backbone_dropout": False, "store": "float32", "warmup": 0.0, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts about rain and songs: fewer, longer and with labels of another kind than the tagged sentences."""
    folder = tmp_path_factory.mktemp("topics")
    for split, count in (("train", 16), ("validation", 6), ("test", 6)):
        lines = [f"it rains in the rain {'again ' * (n % 4)}today,rain\nshe sings a song,song\n" for n in range(count)]
        (folder / f"{split}.csv").write_text("text,label\n" + "".join(lines))
    return folder


def make_run(backbone: Backbone, data: Path, topics: Path, folder: Path, sharing: str, **options: object) -> Run:
    chosen = {key: options.pop(key) for key in ("sampling", "temperature") if key in options}
    of_method = options.pop("of_method", {"rank": 2, "roles": "query,value", "learning_rate_factor_b": 1})
    method = str(options.pop("method", "lora"))
    given = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8, "seed": 3, "backbone_dropout": False, **options}
    entries = {
        "ner": TaskSettings("ner", method, Source(data=str(data)), given, of_method),  # type: ignore[arg-type]
        "topic": TaskSettings("classification", method, Source(data=str(topics)), given, of_method),  # type: ignore[arg-type]
    }
    return planned_run(plan_run(backbone, entries, SharingOptions(sharing=sharing, **chosen)), folder)  # type: ignore[arg-type]


@contextmanager
def opened(run: Run) -> Iterator[None]:
    ports, assemblies = run.members.dock.ports, run.members.assemblies
    for assembly in assemblies:
        ports.acquire(assembly.sites)
    try:
        yield
    finally:
        for assembly in assemblies:
            ports.release(assembly.sites)


def units(run: Run) -> list[Unit]:
    return [unit for member in run.members.members for unit in member.units]


def collated(run: Run, rows: list[Unit]) -> dict[str, Any]:
    return run.members.collator()([(rows, [1.0] * len(run.members), (0, 0, 0))])


def acting(result: Result) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in result.adapter.tensors.items() if not name.startswith("head.")}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_shared_adapter_is_the_same_in_each_file_and_the_heads_differ(
    backbone: Backbone, data: Path, topics: Path, tmp_path: Path
) -> None:
    ner, topic = make_run(backbone, data, topics, tmp_path, "adapter")()
    assert same(acting(ner), acting(topic))
    assert any(bool(tensor.any()) for name, tensor in acting(ner).items() if name.endswith("lora_b"))
    assert ner.adapter.tensors["head.weight"].shape == (3, 32)
    assert topic.adapter.tensors["head.weight"].shape == (2, 32)
    assert ner.adapter.card.training["best_epoch"] == topic.adapter.card.training["best_epoch"]
    assert ner.adapter.card.training["together"]["tasks"] == {"ner": 60, "topic": 32}
    assert (ner.adapter.card.name, topic.adapter.card.task.name) == ("ner", "classification")


def test_the_shared_weights_are_those_of_the_epoch_with_the_best_mean(
    backbone: Backbone, data: Path, topics: Path, tmp_path: Path
) -> None:
    seen: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.shown:
            assert list(progress.shown) == ["ner f1", "topic accuracy"]
            seen.append(sum(progress.shown.values()) / 2)

    ner, _ = make_run(backbone, data, topics, tmp_path, "adapter", epochs=4)(watch)
    assert len(seen) == 4
    assert ner.adapter.card.training["best_epoch"] == 1 + seen.index(max(seen))


def test_each_file_gives_its_logits_in_a_fresh_dock(
    backbone: Backbone, model_folder: Path, data: Path, topics: Path, tmp_path: Path
) -> None:
    results = make_run(backbone, data, topics, tmp_path, "adapter", epochs=1)()
    for result in results:
        found = []
        for used in (backbone, load_backbone(str(model_folder), LoadOptions(device="cpu"))):
            dock = Dock(used)
            name = dock.load(result.file)
            task = dock.assembly(name).task
            with dock.boarding([name]) as rows:
                found.append(dock.run(rows, task.encode(task.read("ada sings"), dock.reading(64), labelled=False))[0])
            dock.close()
        assert torch.equal(*found)
        assert read_file(result.file).card.metrics.keys() == {"validation", "test"}


@pytest.mark.parametrize("method", ["lora", "bottleneck", "prefix", "prompt"])
def test_a_step_on_own_adapters_is_the_step_that_each_takes_alone(
    backbone: Backbone, data: Path, topics: Path, tmp_path: Path, method: str
) -> None:
    run = make_run(backbone, data, topics, tmp_path / "all", "passes", method=method, of_method={}, **EXACT)
    together = run.members.trainable().train()
    rows = [units(run)[place] for place in (0, 60, 1, 61, 62)]
    optimiser = torch.optim.SGD(together.parameters(), lr=0.1)
    with opened(run):
        together(**collated(run, rows))["loss"].backward()
    for number in range(len(run.members)):
        torch.nn.utils.clip_grad_norm_(together.weights_of(number), 0.1)
    optimiser.step()
    for number, (own, weights) in enumerate(zip(run.members.tasks, together.tensors(), strict=True)):
        alone = run_of(own.plan, tmp_path / own.name)
        single = alone.members.trainable().train()
        features = [feature for task, unit in rows if task == number for feature in unit]
        labels = [collate_labels(features, backbone.device)]
        step = torch.optim.SGD(single.parameters(), lr=0.1)
        with opened(alone):
            single(labels=labels, **collate(backbone, features))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(single.parameters(), 0.1)
        step.step()
        (start,) = alone.members.trainable().tensors()
        assert any(not torch.equal(weights[name], start[name]) for name in weights)
        for name, tensor in single.tensors()[0].items():
            torch.testing.assert_close(weights[name], tensor, atol=1e-6, rtol=1e-4, msg=name)


def test_no_gradient_reaches_an_adapter_without_a_row(
    backbone: Backbone, data: Path, topics: Path, tmp_path: Path
) -> None:
    run = make_run(backbone, data, topics, tmp_path, "passes")
    together = run.members.trainable().train()
    with opened(run):
        together(**collated(run, units(run)[:2]))["loss"].backward()
    mine, other = [together.weights_of(number) for number in range(2)]
    assert all(parameter.grad is not None for parameter in mine)
    assert all(parameter.grad is None for parameter in other)


def test_the_loss_of_a_shared_adapter_is_the_mean_over_rows(
    backbone: Backbone, data: Path, topics: Path, tmp_path: Path
) -> None:
    run = make_run(backbone, data, topics, tmp_path, "adapter")
    together = run.members.trainable().eval()
    rows = [units(run)[place] for place in (0, 60, 61)]
    with opened(run), torch.no_grad():
        whole, ner, topic = (float(together(**collated(run, part))["loss"]) for part in (rows, rows[:1], rows[1:]))
    assert whole == pytest.approx(ner / 3 + topic * 2 / 3, abs=1e-5)


def test_own_adapters_learn_and_each_keeps_its_own_best_epoch(
    backbone: Backbone, data: Path, topics: Path, tmp_path: Path
) -> None:
    options = {"epochs": 4, "patience": 0, "head_start": "random"}  # a fitted head may be better than every epoch
    results = make_run(backbone, data, topics, tmp_path, "passes", **options)()
    assert not same(acting(results[0]), acting(results[1]))
    for name, metric, result in zip(TASKS, ("f1", "accuracy"), results, strict=True):
        values = [entry[f"eval_{metric}"] for entry in result.history if f"eval_{metric}" in entry]
        losses = [entry["eval_loss"] for entry in result.history if "eval_loss" in entry]
        worths = [(value, -loss) for value, loss in zip(values, losses, strict=True)]
        assert result.adapter.card.training["best_epoch"] == 1 + worths.index(max(worths)), name
        assert losses[-1] < losses[0]
        assert [entry for entry in result.history if "loss" in entry]
    assert not any(module._forward_hooks for module in backbone.model.modules())


def test_an_epoch_draws_tasks_by_their_shares(backbone: Backbone, data: Path, topics: Path, tmp_path: Path) -> None:
    def drawn(epoch: int, **options: object) -> Counter[int]:
        run = make_run(backbone, data, topics, tmp_path, "adapter", **options)
        (member,) = run.members.members
        return Counter(member.units[place][0] for place in member.draw(epoch))

    assert drawn(0) == drawn(1) == {0: 60, 1: 32}
    assert drawn(0, sampling="uniform") == {0: 46, 1: 46}
    powers = [60**0.2, 32**0.2]
    expected = round(92 * powers[0] / sum(powers))
    assert drawn(2, sampling="temperature") == {0: expected, 1: 92 - expected}


def test_a_run_that_was_interrupted_is_resumed_to_the_weights_of_one_that_was_not(
    backbone: Backbone, data: Path, topics: Path, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step >= 17:
            raise KeyboardInterrupt

    options = {"sampling": "uniform", "epochs": 3, "checkpoint_steps": 4}
    for sharing in ("adapter", "passes"):
        straight = make_run(backbone, data, topics, tmp_path / f"{sharing}-straight", sharing, **options)()
        folder = tmp_path / f"{sharing}-broken"
        broken = make_run(backbone, data, topics, folder, sharing, **options)(interrupt)
        assert [result.ending for result in broken] == ["interrupted", "interrupted"]
        assert all(read_file(folder / name / "best.safetensors").tensors for name in TASKS)
        resumed = make_run(backbone, data, topics, folder, sharing, **options)(resume=True)
        for one, other in zip(straight, resumed, strict=True):
            assert same(one.adapter.tensors, other.adapter.tensors)
            assert one.adapter.card.metrics == other.adapter.card.metrics
        assert not (folder / "checkpoints").exists()


def test_a_run_is_resumed_only_with_the_tasks_and_shares_it_was_begun_with(
    backbone: Backbone, data: Path, topics: Path, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    make_run(backbone, data, topics, tmp_path, "adapter")(interrupt)
    with pytest.raises(UsageError, match="begun with other tasks and their shares"):
        make_run(backbone, data, topics, tmp_path, "adapter", sampling="uniform")(resume=True)
    with pytest.raises(UsageError, match="other training options of ner and training options of topic"):
        make_run(backbone, data, topics, tmp_path, "adapter", epochs=5)(resume=True)


def test_the_same_seed_gives_the_same_weights(backbone: Backbone, data: Path, topics: Path, tmp_path: Path) -> None:
    one, again, other = (
        make_run(backbone, data, topics, tmp_path / str(n), "adapter", epochs=1, seed=seed)()[0].adapter.tensors
        for n, seed in enumerate((1, 1, 2))
    )
    assert same(one, again)
    assert not same(one, other)


def test_what_cannot_be_trained_together_is_refused(backbone: Backbone, data: Path) -> None:
    entry = TaskSettings("ner", source=Source(data=str(data)))
    with pytest.raises(UsageError, match=r"the name '\.\./a' of a task"):
        plan_run(backbone, {"../a": entry, "b": entry})
    cached = replace(entry, training={"cache": True})
    with pytest.raises(UsageError, match="--cache"):
        plan_run(backbone, {"a": cached, "b": cached})


def test_a_task_alone_is_planned_as_before(backbone: Backbone, data: Path) -> None:
    single = plan(backbone, "ner", "lora", Source(data=str(data)), {"epochs": 1})
    entries = {name: TaskSettings("ner", source=Source(data=str(data)), training={"epochs": 1}) for name in ("a", "b")}
    members = plan_run(backbone, entries, SharingOptions(sharing="passes"))
    assert members.plans["a"].identity() == single.identity()
    made = plan_run(backbone, entries)
    assert made.trained_parameters() == 2 * single.trained_parameters() - made.plans["b"].assembly.count() + 3 * 33
    alone = plan_run(backbone, {"a": entries["a"]})
    assert alone.plans["a"].identity() == single.identity()
    assert alone.summary() == single.summary()
