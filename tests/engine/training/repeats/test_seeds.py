"""Seeds: runs that differ in the seed alone, the spread of their metrics, and the one that is saved."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.engine.training.repeats import joint_run
from adaptdock.engine.training.repeats.seeds import _choice, train_seeds
from adaptdock.engine.training.train import train
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone


class Killed(BaseException):
    """What a test raises in place of a signal."""


def names(backbone: Backbone, data: Path, **options: Any) -> Plan:
    defaults = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2, "head_start": "random", "store": "float32"}
    return plan(backbone, "ner", "lora", Source(data=str(data)), {**defaults, **options})


def few_texts(backbone: Backbone, folder: Path, **options: Any) -> Plan:
    rows = [{"text": f"{word} {letter}", "label": word} for letter in "abcdefghij" for word in ("ada", "bob")]
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"epochs": 1, "batch_size": 8, **options}
    return plan(backbone, "classification", "lora", Source(train=str(folder / "few.jsonl")), settings)


def metric_by_seed(result: Result, split: str, metric: str) -> list[float]:
    values: list[float] = result.adapter.card.training["seeds"][split][metric]["values"]
    return values


def test_each_seed_ends_with_the_weights_that_it_gets_alone_and_the_best_is_saved(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    result = train_seeds(names(backbone, data, seed=4), 3, tmp_path / "run")
    alone = {seed: train_plan(names(backbone, data, seed=seed), tmp_path / str(seed)) for seed in (4, 5, 6)}
    scores = {seed: entry.adapter.card.metrics["validation"]["f1"] for seed, entry in alone.items()}
    assert len(set(scores.values())) > 1
    assert metric_by_seed(result, "validation", "f1") == list(scores.values())
    assert metric_by_seed(result, "test", "f1") == [run.adapter.card.metrics["test"]["f1"] for run in alone.values()]
    best = max(scores, key=scores.__getitem__)
    training = result.adapter.card.training
    assert training["seeds"]["seeds"] == [4, 5, 6]
    assert training["seeds"]["saved"] == training["options"]["seed"] == best
    for name, tensor in alone[best].adapter.tensors.items():
        torch.testing.assert_close(result.adapter.tensors[name], tensor, atol=1e-5, rtol=0, msg=name)
    verdict = result.report(tmp_path / "run", names(backbone, data, seed=4))
    assert verdict[0].startswith("f1 over 3 seeds, mean and 95 % interval (Student's t): validation ")
    assert f"the adapter of seed {best}, the best on validation" in verdict[0]
    assert json.loads((tmp_path / "run/metrics.json").read_text())["training"]["seeds"] == training["seeds"]
    assert "f1 over 3 seeds" in (tmp_path / "run/report.html").read_text()


def with_validation(result: Result, f1: float, loss: float) -> Result:
    card = result.adapter.card.model_copy(update={"metrics": {"validation": {"f1": f1}}})
    history = [{"epoch": 1.0, "eval_f1": f1, "eval_loss": loss}]
    return replace(result, adapter=AdapterFile(card, {}), history=history)


def test_among_equal_seeds_the_lower_loss_decides_then_the_lower_seed(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    own = names(backbone, data, epochs=1)
    result = train_plan(own, tmp_path / "run")

    def saved(**validations: tuple[float, float]) -> int:
        return _choice(own, {int(seed[1:]): with_validation(result, *pair) for seed, pair in validations.items()})[0]

    assert saved(s7=(50.0, 0.1), s8=(60.0, 0.9), s9=(60.0, 0.3)) == 9
    assert saved(s7=(60.0, 0.3), s8=(60.0, 0.3), s9=(math.nan, 0.1)) == 7


def test_seeds_without_a_gain_from_training_are_counted(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    still = names(backbone, data, epochs=1, learning_rate=1e-12, head_start="fitted")
    verdict = train_seeds(still, 2, tmp_path / "run").adapter.card.training["seeds"]["verdict"]
    assert "For 2 of the seeds the fitted head alone is saved" in verdict


def test_the_seeds_share_one_division_of_the_data(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    whole = plan(
        *(backbone, "ner", "lora", Source(train=str(data / "train.conll"))),
        {"epochs": 1, "seed": 3, "hold_out": "always", "head_start": "random"},
    )
    held_out = {record["where"] for record in whole.records["validation"]}
    other = plan(
        *(backbone, "ner", "lora", Source(train=str(data / "train.conll"))),
        {"epochs": 1, "seed": 4, "hold_out": "always", "head_start": "random"},
    )
    assert held_out != {record["where"] for record in other.records["validation"]}
    result = train_seeds(whole, 2, tmp_path / "run")
    splits = [json.loads((tmp_path / f"run/seed-{seed}/metrics.json").read_text())["plan"] for seed in (3, 4)]
    assert splits[0]["data"] == splits[1]["data"] == whole.summary()["data"]
    assert result.adapter.card.training["splits"] == {"train": 54, "validation": 6}


def test_with_few_labels_the_first_seed_is_saved_and_the_folds_have_a_spread(
    backbone: Backbone, tmp_path: Path
) -> None:
    result = train_seeds(few_texts(backbone, tmp_path, seed=2, head_start="random"), 2, tmp_path / "run")
    seeds = result.adapter.card.training["seeds"]
    assert seeds["saved"] == result.adapter.card.training["options"]["seed"] == 2
    assert "seed 2, the first, as no validation data can choose a seed" in seeds["verdict"]
    assert len(seeds["folds"]["accuracy"]["values"]) == 2
    assert "validation" not in seeds


def killing(at: int) -> Callable[[Progress], None]:
    """Return a progress callback that ends the process in the ``at``-th validation that it hears of."""
    validations: list[Progress] = []

    def heard(progress: Progress) -> None:
        if progress.metrics is not None:
            validations.append(progress)
            if len(validations) == at:
                raise Killed

    return heard


@pytest.mark.parametrize("at", [1, 3])
def test_a_killed_run_is_resumed_with_the_same_bits_and_repeats_no_complete_pass(
    backbone: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(joint_run, "MOST", 2)
    straight = train_seeds(names(backbone, data), 3, tmp_path / "straight")
    with pytest.raises(Killed):
        train_seeds(names(backbone, data), 3, tmp_path / "killed", progress=killing(at))
    monkeypatch.setattr(joint_run, "MOST", 8)  # a resumed run keeps its passes, whatever fits by then
    heard: list[Progress] = []
    resumed = train_seeds(names(backbone, data), 3, tmp_path / "killed", progress=heard.append, resume=True)
    assert {"seed-0" in progress.metrics for progress in heard if progress.metrics} <= (
        {True, False} if at < 3 else {False}
    )
    assert resumed.adapter.card.training["seeds"] == straight.adapter.card.training["seeds"]
    for seed in range(3):
        tensors = [(tmp_path / run / f"seed-{seed}/best.safetensors") for run in ("straight", "killed")]
        assert_same_bits(*tensors)
    assert not (tmp_path / "killed/seed-passes").exists()


def assert_same_bits(first: Path, second: Path) -> None:
    from safetensors.torch import load_file

    expected, tensors = load_file(first), load_file(second)
    assert expected.keys() == tensors.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_ctrl_c_saves_the_best_so_far_without_a_spread_and_the_run_continues(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.metrics is not None:
            raise KeyboardInterrupt

    cut = train_seeds(names(backbone, data), 2, tmp_path / "run", progress=interrupt)
    assert cut.ending == cut.adapter.card.training["ending"] == "interrupted"
    assert "seeds" not in cut.adapter.card.training
    again = train_seeds(names(backbone, data), 2, tmp_path / "run", resume=True)
    straight = train_seeds(names(backbone, data), 2, tmp_path / "straight")
    assert again.ending == "complete"
    assert again.adapter.card.training["seeds"] == straight.adapter.card.training["seeds"]


def test_seeds_are_an_argument_of_train(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"epochs": 1, "head_start": "random"}
    result = train("ner", backbone=backbone, data=data, folder=tmp_path / "run", seeds=2, **common)
    assert result.file == tmp_path / "run/best.safetensors"
    assert result.adapter.card.training["seeds"]["seeds"] == [0, 1]
    with pytest.raises(UsageError, match="--seeds and --unlabelled each repeat the training"):
        train("classification", backbone=backbone, seeds=2, unlabelled="more.txt")
    with pytest.raises(UsageError, match="greater than or equal to 2"):
        train("ner", backbone=backbone, seeds=1)
