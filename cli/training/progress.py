"""The progress of a training run: a bar on a terminal, lines elsewhere, and lines in the run's log."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from adaptdock.cli.common.output import console, note
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.plugins.escapes import escaped

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

LINES = 10
"""Lines with the training loss in a run whose progress goes to a file or pipe."""
TIMED = 3
"""Steps that are timed before the length of the run is estimated; the first one also warms the machine up."""
LONG = 30
"""Seconds; a shorter run is not announced."""


class Watch:
    """Shows the progress of a run, which calls it with each :class:`Progress`."""

    def __init__(self, log: TextIO, bar: "Bar | None", silent: bool = False) -> None:
        self.log, self.bar, self.silent = log, bar, silent
        self.task = bar.add_task("", total=None, epoch="", loss="", metric="") if bar else None
        self.first: tuple[float, int] | None = None
        self.shown = self.newest = 0
        self.stage = ""
        self.announced = False

    def __call__(self, progress: Progress) -> None:
        """Show one report."""
        if self.first is None or progress.step < self.newest or progress.stage != self.stage:  # another round begins
            self.first, self.shown = (time.monotonic(), progress.step), 0
        self.newest, self.stage = progress.step, progress.stage
        line = self._line(progress)
        self.log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")
        self.log.flush()
        if self.silent:
            return
        if self.bar is not None:
            self._advance(progress)
        elif progress.shown is not None or progress.step * LINES >= (self.shown + 1) * progress.steps:
            self.shown = progress.step * LINES // max(1, progress.steps)
            note(f"{line}{self._left(progress)}")
        elif not self.announced and progress.step - self.first[1] >= TIMED:
            self.announced = True
            seconds = self._seconds_left(progress)
            if seconds > LONG:
                stage = f"{progress.stage}: " if progress.stage else ""
                note(f"{stage}{progress.steps} steps, about {_duration(seconds)}, without validations")

    def _line(self, progress: Progress) -> str:
        line = f"{progress.stage}: " if progress.stage else ""
        line += f"epoch {progress.epoch:.2f} step {progress.step}/{progress.steps}"
        if progress.loss is not None:
            line += f" loss {progress.loss:.4f}"
        if progress.shown is not None:
            line += f" validation {_named(progress.shown)}"
        return line

    def _left(self, progress: Progress) -> str:
        if progress.step <= (self.first or (0.0, 0))[1] or progress.step >= progress.steps:
            return ""
        return f" ({_duration(self._seconds_left(progress))} left)"

    def _seconds_left(self, progress: Progress) -> float:
        start, first = self.first or (0.0, 0)
        return (time.monotonic() - start) / (progress.step - first) * (progress.steps - progress.step)

    def _advance(self, progress: Progress) -> None:
        assert self.bar is not None
        assert self.task is not None
        fields = {"epoch": f"epoch {progress.epoch:.1f}"}
        if progress.loss is not None:
            fields["loss"] = f"loss {progress.loss:.3f}"
        if progress.shown is not None:
            fields["metric"] = _named(progress.shown)
            self.bar.console.print(escaped(self._line(progress)), markup=False)
        self.bar.update(self.task, total=progress.steps, completed=progress.step, **fields)  # type: ignore[arg-type]


@contextmanager
def watching(log: Path, silent: bool = False) -> Iterator[Watch]:
    """Show progress while the context is open, unless ``silent``, and append it to ``log``."""
    with log.open("a", encoding="utf-8") as stream:
        if silent or not sys.stderr.isatty():
            yield Watch(stream, None, silent)
            return
        with _bar() as bar:
            yield Watch(stream, bar)


def _bar() -> "Bar":
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[metric]}", style="green"),
        TimeRemainingColumn(),
        console=console(sys.stderr),
    )


def _named(shown: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in shown.items())


def _duration(seconds: float) -> str:
    minutes, seconds_left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds_left} s" if minutes else f"{seconds_left} s"
