"""The report of a sweep: every trial as JSON, and a picture of the metric by trial and by setting."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

from adaptdock.engine.search.sweep import Dimension, Trial

COLUMNS = 3


def write_sweep(
    folder: Path, trials: Sequence[Trial], dimensions: Sequence[Dimension], metric: str, lower_is_better: bool
) -> None:
    """Write trials.json into a folder and, if any trial has a metric, sweep.png."""
    rows = [{**asdict(trial), "folder": str(trial.folder) if trial.folder else None} for trial in trials]
    (folder / "trials.json").write_text(json.dumps({"metric": metric, "trials": rows}, indent=2, default=str) + "\n")
    scored = [trial for trial in trials if trial.score is not None and trial.state in ("complete", "pruned")]
    if scored:
        _draw(folder / "sweep.png", scored, dimensions, metric, lower_is_better)


def _draw(
    path: Path, trials: Sequence[Trial], dimensions: Sequence[Dimension], metric: str, lower_is_better: bool
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-(len(dimensions) + 1) // COLUMNS)
    columns = min(COLUMNS, len(dimensions) + 1)
    figure = Figure(figsize=(4 * columns, 3.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    _draw_trials(axes[0], trials, metric, lower_is_better)
    for place, dimension in zip(axes[1:], dimensions, strict=False):
        _draw_setting(place, trials, dimension, metric)
    for place in axes[len(dimensions) + 1 :]:
        place.set_visible(False)
    figure.savefig(path, dpi=120)


def _draw_trials(axes: Any, trials: Sequence[Trial], metric: str, lower_is_better: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    for state, marker in (("complete", "o"), ("pruned", "x")):
        in_state = [trial for trial in trials if trial.state == state]
        axes.plot([trial.number for trial in in_state], [trial.score for trial in in_state], marker, label=state)
    complete = sorted((trial for trial in trials if trial.state == "complete"), key=lambda trial: trial.number)
    best = list(accumulate((trial.score or 0.0 for trial in complete), min if lower_is_better else max))
    axes.step([trial.number for trial in complete], best, where="post", color="grey", label="best so far")
    axes.set(xlabel="trial", ylabel=f"validation {metric}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def _draw_setting(axes: Any, trials: Sequence[Trial], dimension: Dimension, metric: str) -> None:
    with_setting = [trial for trial in trials if dimension.key in trial.values]
    for state, marker in (("complete", "o"), ("pruned", "x")):
        values = [trial.values[dimension.key] for trial in with_setting if trial.state == state]
        places = [dimension.choices.index(value) for value in values] if dimension.choices else values
        axes.plot(places, [trial.score for trial in with_setting if trial.state == state], marker)
    if dimension.choices:
        axes.set_xticks(range(len(dimension.choices)), dimension.choices)
    elif dimension.log:
        axes.set_xscale("log")
    axes.set(xlabel=dimension.key.replace("_", " "), ylabel=f"validation {metric}")
