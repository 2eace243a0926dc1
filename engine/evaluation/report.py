"""The report of a run: metrics, log and learning curves in its folder, and a verdict on the curves."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptdock.engine.evaluation.curves import draw, title
from adaptdock.engine.evaluation.selection import Criterion
from adaptdock.hub.artefact.card import Card
from adaptdock.plugins.contracts import Task

RISING = 2
"""Validations in a row after which a rising validation loss counts as overfitting."""


def write_report(
    folder: Path,
    task: type[Task],
    card: Card,
    history: Sequence[Mapping[str, Any]],
    decisive: bool,
    size: int,
    summary: Mapping[str, Any],
) -> list[str]:
    """Write metrics.json, log.jsonl and curves.png into a run's folder; return the verdict in sentences.

    ``size`` is the adapter file's size in bytes, ``summary`` the plan's summary. ``decisive`` says whether there is
    enough validation data to choose an epoch.
    """
    points = validations(history, task.metric)
    stored, shortfall = card.training.get("best_epoch"), str(card.training.get("shortfall", ""))
    best = next(
        (number for number, point in enumerate(points) if round(point["epoch"], 3) == stored),
        best_of(points, task.metric, task.lower_is_better, decisive),
    )
    better = card.training.get("classic", {}).get("better")
    verdict = judge(points, best, card.training["ending"], task.lower_is_better, decisive, shortfall)
    of_seeds = card.training.get("seeds", {}).get("verdict")
    verdict = [sentence for sentence in (of_seeds, better) if sentence] + verdict
    report = {
        "shortfall": shortfall or None,
        "metrics": card.metrics,
        "training": card.training,
        "plan": summary,
        "file_bytes": size,
        "verdict": verdict,
        "epochs": [{key: _number(value) for key, value in point.items()} for point in points],
        "gap": _number(points[best]["validation_loss"] - points[best]["train_loss"]) if points else None,
    }
    (folder / "metrics.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    if points:
        heading = title(summary["task"], summary["methods"], summary["backbone"])
        path, scale = folder / "curves.png", (task.metric, task.lower_is_better)
        draw(path, heading, history, points, points[best], *scale)
    return verdict


def _number(value: float) -> float | None:
    """Return a rounded number, or None for NaN and inf, which JSON cannot hold."""
    return round(value, 5) if math.isfinite(value) else None


def best_of(points: Sequence[Mapping[str, float]], metric: str, lower_is_better: bool, decisive: bool = True) -> int:
    """Return the index of the best validation, whose weights are kept (:class:`Criterion`); 0 without any."""
    best = Criterion(metric, lower_is_better, "validation_loss", decisive).best(points)
    return next((number for number, point in enumerate(points) if point is best), 0)


def validations(history: Sequence[Mapping[str, Any]], metric: str) -> list[dict[str, float]]:
    """Return epoch, train loss (mean since the previous validation), validation loss and metric of each validation."""
    points: list[dict[str, float]] = []
    losses: list[float] = []
    for entry in history:
        if "loss" in entry:
            losses.append(float(entry["loss"]))
        elif "eval_loss" in entry:
            points.append(
                {
                    "epoch": float(entry["epoch"]),
                    "train_loss": sum(losses) / len(losses) if losses else float("nan"),
                    "validation_loss": float(entry["eval_loss"]),
                    metric: float(entry[f"eval_{metric}"]),
                }
            )
            losses = []
    return points


def judge(
    points: Sequence[Mapping[str, float]],
    best: int,
    ending: str,
    lower_is_better: bool,
    decisive: bool = True,
    shortfall: str = "",
) -> list[str]:
    """Return a verdict on the curves in sentences: nothing learnt, overfitting, training too short, or none of these.

    Too few validation data (not ``decisive``) give no verdict, and an adapter with a ``shortfall`` gets no praise.
    ``ending`` is how the run ended: "complete", "early" or "interrupted".
    """
    if not points:
        return ["There was no validation, so nothing can be said about overfitting."]
    if not decisive:
        sentence = (
            f"The validation data is too small to tell overfitting, or which epoch is best: the file holds the weights "
            f"of epoch {points[best]['epoch']:g}, chosen without it."
        )
        return [sentence, *_of_best(points, best)]
    sentences = _seen(points, best, ending, lower_is_better, shortfall) + _of_best(points, best)
    if ending == "early":
        metric = _metric(points)
        sentences.append(f"Training stopped early, at epoch {points[-1]['epoch']:g}, as {metric} got no better.")
    return sentences


def _seen(
    points: Sequence[Mapping[str, float]], best: int, ending: str, lower_is_better: bool, shortfall: str
) -> list[str]:
    losses = [point["validation_loss"] for point in points]
    rising = 0
    while rising + 1 < len(losses) and losses[-1 - rising] > losses[-2 - rising]:
        rising += 1
    falling = len(points) > rising and points[-1]["train_loss"] < points[-1 - rising]["train_loss"]
    metric = _metric(points)
    if not lower_is_better and points[best][metric] == 0:
        return [
            f"The best {metric} is 0: what was learnt changes no answer for the better yet. More epochs, a smaller "
            f"batch size, more labelled data or another learning rate may help."
        ]
    if rising >= RISING and falling:
        return [
            f"Overfitting: since epoch {points[-1 - rising]['epoch']:g} the validation loss has risen "
            f"({losses[-1 - rising]:.3f} to {losses[-1]:.3f}) while the training loss fell; "
            f"the file holds the weights of epoch {points[best]['epoch']:g}, the best by {metric}."
        ]
    if shortfall:
        return [f"The best epoch by {metric} was {points[best]['epoch']:g}; nothing can be said about overfitting."]
    if best == len(points) - 1 and ending == "complete" and len(points) > 1:
        return [f"The last epoch was the best by {metric}; more epochs may help. No sign of overfitting."]
    return [f"No sign of overfitting; the best epoch by {metric} was {points[best]['epoch']:g}."]


def _metric(points: Sequence[Mapping[str, float]]) -> str:
    return next(key for key in points[0] if key not in ("epoch", "train_loss", "validation_loss"))


def _of_best(points: Sequence[Mapping[str, float]], best: int) -> list[str]:
    return [_gap(points[best])] if math.isfinite(points[best]["train_loss"]) else []


def _gap(point: Mapping[str, float]) -> str:
    """Return a sentence on the gap between training and validation loss in the epoch of the kept weights."""
    training, validation = point["train_loss"], point["validation_loss"]
    apart = f"{abs(validation - training):.3f} {'above' if validation > training else 'below'}"
    return (
        f"In epoch {point['epoch']:g} the validation loss ({validation:.3f}) is {apart} the training loss "
        f"({training:.3f}, the mean of the epoch)."
    )
