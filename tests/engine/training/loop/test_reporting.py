"""Losses and metrics of a run reach experiment trackers through transformers' own callbacks."""

import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.train import train
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Backbone

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the packages of the trackers."""
    for name in (*TRACKERS, "tensorboardX"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    places = [place for place in sys.path if not any((Path(place) / name).exists() for name in TRACKERS)]
    monkeypatch.setattr(sys, "path", places)


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.usefixtures("absent")
def test_a_tracker_without_its_package_is_refused_in_one_sentence(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / tracker).mkdir()  # as earlier runs leave it where they log
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=f"^--report-to {tracker} needs the package {tracker}, which is not installed"):
        train("ner", backbone="no backbone is loaded before", report_to=[tracker])


def test_a_tracker_gets_every_loss_and_validation_with_the_name_of_the_run(
    backbone: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs: list[dict[str, Any]] = []
    names: list[str] = []

    class Recorder(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            names.append(args.run_name)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            recorded(dict(logs))

    recorded = logs.append
    (tmp_path / "packages" / "trackio").mkdir(parents=True)
    (tmp_path / "packages" / "trackio" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "trackio", Recorder)
    seen: list[Progress] = []
    folder = tmp_path / "people"
    result = train(
        "ner", backbone=backbone, data=data, folder=folder, epochs=2, report_to=["trackio"], progress=seen.append
    )
    assert names == ["people"]
    assert [entry["loss"] for entry in logs if "loss" in entry] == [report.loss for report in seen if report.loss]
    assert [entry["eval_f1"] for entry in logs if "eval_f1" in entry] == [
        report.metrics["f1"] for report in seen if report.metrics
    ]
    assert "report_to" not in result.adapter.card.training["options"]


def test_tensorboard_reads_the_events_in_the_folder_of_the_run(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    result = train("ner", backbone=backbone, data=data, folder=tmp_path, epochs=2, report_to=["tensorboard"])
    events = accumulators.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    measured = [entry["eval_f1"] for entry in result.history if "eval_f1" in entry]
    assert [event.value for event in events.Scalars("eval/f1")] == pytest.approx(measured)
