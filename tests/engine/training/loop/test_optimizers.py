"""Optimisers by name: the one that is asked for takes the steps."""

from pathlib import Path

import pytest

from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.loop.run import Run, run_of
from adaptdock.engine.training.loop.trainer import make_trainer
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Backbone

CLASSES = {
    "adamw": ("torch", "AdamW"),
    "adafactor": ("transformers", "Adafactor"),
    "sgd": ("torch", "SGD"),
    "lion": ("bitsandbytes", "Lion"),
    "adamw_8bit": ("bitsandbytes", "AdamW"),
}
RATES = {"sgd": 1.0, "lion": 1e-3}


def made(backbone: Backbone, data: Path, folder: Path, **options: object) -> Run:
    chosen = {"epochs": 1, "learning_rate": 1e-2, **options}
    return run_of(plan(backbone, "ner", "lora", Source(data=str(data)), chosen), folder)


@pytest.mark.parametrize("name", CLASSES)
def test_the_optimizer_that_is_named_is_the_one_that_steps(
    backbone: Backbone, data: Path, tmp_path: Path, name: str
) -> None:
    if name in ("lion", "adamw_8bit"):
        pytest.importorskip("bitsandbytes")
    run = made(backbone, data, tmp_path, optimizer=name)
    trainer = make_trainer(run.members, tmp_path, run.members.trainable())
    trainer.create_optimizer()
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # accelerate wraps it
    assert (type(inner).__module__.partition(".")[0], type(inner).__name__) == CLASSES[name]
    assert name != "adamw_8bit" or inner.args.optim_bits == 8


def test_each_goes_another_way_and_lowers_the_loss(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    weights = []
    for name in CLASSES:
        options = {"optimizer": name, "learning_rate": RATES.get(name, 1e-2), "head_start": "random"}
        (result,) = made(backbone, data, tmp_path / name, **options)()
        weights.append(result.adapter.tensors["head.weight"].float())
        losses = [entry["loss"] for entry in result.history if "loss" in entry]
        assert losses[-1] < losses[0], name
    assert len({tuple(weight.flatten().tolist()) for weight in weights}) >= len(CLASSES) - 1  # small tensors: 32 bit


def test_one_that_is_not_installed_is_refused(
    backbone: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptdock.engine.training.planning.hyperparameters.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs bitsandbytes: pip install bitsandbytes"):
        made(backbone, data, tmp_path, optimizer="lion")
