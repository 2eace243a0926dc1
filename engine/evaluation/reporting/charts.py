"""Charts of the report as coordinates of SVG: learning curves, reliability, expected against predicted numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptdock.engine.evaluation.label_curve import LabelCurve
from adaptdock.engine.evaluation.reporting.calibration import Calibration

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40
TICKS = 5
DOTS = 500
"""Most dots of a chart."""
STEPS = (1, 2, 2.5, 5, 10)
EPOCH = "epoch"

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A named line through points; lines differ by their dashes and by the shape of their dots, not by colour alone."""

    name: str
    points: Sequence[Point]
    kind: str = "first"
    dots: bool = True
    joined: bool = True


@dataclass(frozen=True)
class DrawnLine:
    """A line in the pixels of the chart."""

    name: str
    kind: str
    path: str
    dots: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Chart:
    """A chart in pixels: ticks with their places, and lines; ``description`` says in words what it shows."""

    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: tuple[tuple[str, str], ...]
    y_ticks: tuple[tuple[str, str], ...]
    lines: tuple[DrawnLine, ...]


def chart(title: str, description: str, labels: tuple[str, str], lines: Sequence[Line], zero: bool = False) -> Chart:
    """Return a chart of lines with at least one point; ``zero`` makes the vertical axis begin at 0.

    The ticks of epochs are whole numbers.
    """
    points = [point for line in lines for point in line.points]
    x_axis = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT, least_step=1.0 if labels[0] == EPOCH else 0.0)
    y_axis = _Axis([y for _, y in points] + ([0.0] if zero else []), HEIGHT - BOTTOM, TOP)
    drawn = tuple(
        DrawnLine(
            line.name,
            line.kind,
            " ".join(f"{x_axis.place(x)},{y_axis.place(y)}" for x, y in line.points) if line.joined else "",
            tuple((x_axis.place(x), y_axis.place(y)) for x, y in line.points) if line.dots else (),
        )
        for line in lines
    )
    return Chart(title, description, *labels, x_axis.ticks(), y_axis.ticks(), drawn)


class _Axis:
    """A linear scale from values to pixels, from a round number to a round number."""

    def __init__(self, values: Sequence[float], start: float, end: float, least_step: float = 0.0) -> None:
        low, high = min(values), max(values)
        if low == high:
            low, high = low - 0.5, high + 0.5
        self.step = max(least_step, _round_step((high - low) / TICKS))
        self.low, self.high = math.floor(low / self.step) * self.step, math.ceil(high / self.step) * self.step
        self.start, self.end = start, end

    def place(self, value: float) -> str:
        """Return the pixel of a value."""
        share = (value - self.low) / (self.high - self.low)
        return f"{self.start + share * (self.end - self.start):.1f}"

    def ticks(self) -> tuple[tuple[str, str], ...]:
        """Return the pixel and the text of each tick."""
        count = round((self.high - self.low) / self.step)
        values = [self.low + number * self.step for number in range(count + 1)]
        return tuple((self.place(value), f"{round(value, 6):g}") for value in values)


def _round_step(step: float) -> float:
    """Return the next number of the form 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in STEPS if factor * power >= step * (1 - 1e-9))


def learning_curves(points: Sequence[Mapping[str, float]], metric: str) -> list[Chart]:
    """Return the charts of losses and of the metric by epoch, from finite values of validations."""
    charts = []
    names = (("train_loss", "training", "first"), ("validation_loss", "validation", "second"))
    losses = [Line(name, _finite(points, key), kind) for key, name, kind in names]
    losses = [line for line in losses if line.points]
    if losses:
        ends = "; ".join(f"{line.name} {_from_to([value for _, value in line.points], '.3f')}" for line in losses)
        several = any(len(line.points) > 1 for line in losses)
        text = f"{'From the first to the last validation' if several else 'At the only validation'}: {ends}."
        charts.append(chart("Loss by epoch", text, (EPOCH, "loss"), losses, True))
    values = _finite(points, metric)
    if values:
        text = f"Validation {metric}: {_from_to([value for _, value in values], 'g')}."
        title = f"Validation {metric} by epoch"
        charts.append(chart(title, text, (EPOCH, metric), [Line(metric, values, "second")]))
    return charts


def _from_to(values: Sequence[float], form: str) -> str:
    """Return the first and the last of several numbers in a format."""
    ends = [format(value, form) for value in (values[0], values[-1])]
    return " to ".join(ends) if len(values) > 1 else ends[0]


def label_curve(curve: LabelCurve) -> Chart:
    """Return the metric by the number of training records, with the interval of the mean over the folds."""
    means = curve.means()
    lines = [
        Line("mean of the folds", [(records, mean) for records, mean, _, _ in means]),
        Line("95 %, low", [(records, low) for records, _, low, _ in means], "second", dots=False),
        Line("95 %, high", [(records, high) for records, _, _, high in means], "second", dots=False),
    ]
    first, last = means[0], means[-1]
    text = f"From {first[1]:.2f} on {first[0]:.0f} records to {last[1]:.2f} on {last[0]:.0f}."
    return chart(f"{curve.metric} by labelled records", text, ("records", curve.metric), lines)


def _finite(points: Sequence[Mapping[str, float]], key: str) -> list[Point]:
    return [(point["epoch"], point[key]) for point in points if math.isfinite(point[key])]


def reliability(calibration: Calibration) -> Chart:
    """Return the share of right answers by score, beside the line of calibrated scores."""
    lines = [
        Line("calibrated", [(0.0, 0.0), (1.0, 1.0)], "second", dots=False),
        Line("measured", [(part.score, part.right) for part in calibration.bins], "first"),
    ]
    text = (
        f"Mean distance of score and share of right answers: {calibration.error:.3f}, over {calibration.count} scores."
    )
    return chart("Share of right answers by score", text, ("score", "share right"), lines)


def scatter(values: Sequence[Point]) -> Chart:
    """Return the predicted numbers by the expected ones, beside the line of equal numbers."""
    step = max(1, len(values) // DOTS)
    low, high = min(map(min, values)), max(map(max, values))
    lines = [
        Line("equal", [(low, low), (high, high)], "second", dots=False),
        Line("records", list(values)[::step], "first", joined=False),
    ]
    text = f"{len(values)} records; numbers from {low:g} to {high:g}."
    return chart("Predicted by expected number", text, ("expected", "predicted"), lines)
