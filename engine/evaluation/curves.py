"""The picture of a run: losses and the validation metric by epoch."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE_LENGTH = 60


def title(task: str, methods: Sequence[str], backbone: str) -> str:
    """Return a line such as "ner, lora on minilm"; a backbone in a folder appears by the folder's name."""
    if Path(backbone).is_absolute() or len(backbone) > TITLE_LENGTH:
        backbone = Path(backbone).name
    return f"{task}, {' + '.join(methods)} on {backbone}"


def draw(
    path: Path,
    heading: str,
    history: Sequence[Mapping[str, Any]],
    points: Sequence[Mapping[str, float]],
    best: Mapping[str, float],
    metric: str,
    lower_is_better: bool,
) -> None:
    """Write the picture as a PNG; ``points`` are the validations, ``best`` is the validation of the kept weights."""
    figure(heading, history, points, best, metric, lower_is_better).savefig(path, dpi=120)


def figure(
    heading: str,
    history: Sequence[Mapping[str, Any]],
    points: Sequence[Mapping[str, float]],
    best: Mapping[str, float],
    metric: str,
    lower_is_better: bool,
) -> "Figure":
    """Return the picture: the losses on the left, the metric on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Figure and canvas instead of pyplot, which keeps figures in global state and may open a display.
    picture = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(picture)
    picture.suptitle(heading)
    losses, scores = picture.subplots(1, 2)
    steps = [entry for entry in history if "loss" in entry]
    epochs = [point["epoch"] for point in points]
    losses.plot([entry["epoch"] for entry in steps], [entry["loss"] for entry in steps], label="training", alpha=0.7)
    losses.plot(epochs, [point["validation_loss"] for point in points], marker="o", label="validation", clip_on=False)
    losses.set(ylabel="loss", ylim=(0, None))
    scores.plot(epochs, [point[metric] for point in points], marker="o", color="tab:green", clip_on=False)
    scores.axvline(best["epoch"], color="grey", linestyle=":", label=f"best: {best[metric]:g}")
    scores.set(ylabel=f"validation {metric}")
    if not lower_is_better and _is_percentage([point[metric] for point in points]):
        scores.set(ylim=(0, 100))
    for axes in (losses, scores):
        _whole_epochs(axes, epochs[-1])
        axes.legend()
    return picture


def _is_percentage(values: Sequence[float]) -> bool:
    """Return whether an axis from 0 to 100 fits the values: it hides fractions and negative correlations."""
    return all(0 <= value <= 100 for value in values) and max(values) > 1


def _whole_epochs(axes: "Axes", last: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="epoch", xlim=(0, max(1, math.ceil(last))))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
