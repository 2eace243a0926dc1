"""Shares of the data: nested, with the shares of each label, each trained in every fold."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptdock.engine.core.assembly import validated
from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.engine.training.repeats import label_shares
from adaptdock.engine.training.repeats.label_shares import CurveOptions, label_curve
from adaptdock.errors import DataError, UsageError
from adaptdock.plugins.contracts import Backbone


class Trained:
    """What a run of a share would return: its metric is the number of its training records."""

    ending = "complete"

    def __init__(self, share_plan: Plan) -> None:
        metrics = {"validation": {"accuracy": float(len(share_plan.records["train"]))}}
        self.adapter = type("Adapter", (), {"card": type("Card", (), {"metrics": metrics})})


def test_a_larger_share_has_the_records_of_a_smaller_one_and_all_have_each_label(
    backbone: Backbone, tmp_path: Path, monkeypatch: Any
) -> None:
    rows = [{"text": f"ada {n}", "label": "often" if n % 4 else "rare"} for n in range(64)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    runs: list[Plan] = []

    def train(share_plan: Plan, folder: Path, progress: Any) -> Trained:
        runs.append(share_plan)
        return Trained(share_plan)

    monkeypatch.setattr(label_shares, "train_plan", train)
    whole = plan(backbone, "classification", source=Source(train=str(path)), options={"epochs": 1})
    curve = label_curve(whole, (100, 50, 25), tmp_path, lambda fold, share: None)
    assert curve.records == 64
    assert [(point.fold, point.records, point.value) for point in curve.points] == [
        (fold, count, float(count)) for fold in (1, 2, 3, 4) for count in (12, 24, 48)
    ]
    for start in range(0, 12, 3):
        texts = [{record["text"] for record in run.records["train"]} for run in runs[start : start + 3]]
        assert texts[0] < texts[1] < texts[2]
        held_out = {record["text"] for record in runs[start].records["validation"]}
        assert not held_out & texts[2]
        for run in runs[start : start + 3]:
            labels = [record["label"] for record in run.records["train"]]
            assert labels.count("rare") * 4 == len(labels)
    assert json.loads((tmp_path / "label_curve.json").read_text())["verdict"] == curve.verdict()
    with pytest.raises(DataError, match="1 % of the 48 records of a fold is too few"):
        label_curve(whole, (1, 100), tmp_path, lambda fold, share: None)


@pytest.mark.parametrize("shares", ["50", "0,100", "50,50", "50,150"])
def test_shares_are_at_least_two_percentages(shares: str) -> None:
    with pytest.raises(UsageError, match="at least two shares"):
        validated(CurveOptions, {"curve": shares}, "curve")
