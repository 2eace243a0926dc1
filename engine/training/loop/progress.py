"""Progress reports of a run, and its possible endings."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Ending = Literal["complete", "early", "interrupted"]


@dataclass
class Progress:
    """The progress of a run: ``metrics`` has all metrics of a validation, ``shown`` the main ones.

    ``stage`` names a run that is part of a longer one, such as a fold.
    """

    step: int
    steps: int
    epoch: float
    loss: float | None = None
    metrics: Mapping[str, Any] | None = None
    shown: Mapping[str, float] | None = None
    stage: str = ""


Judge = Callable[[Mapping[str, Progress]], Collection[str]]
"""Called with the newest validation of members, by their labels; returns the labels of those that end early."""


@dataclass(frozen=True)
class Validated:
    """A validation: numbers for the history (with ``eval_loss``), and metrics for the card."""

    numbers: Mapping[str, float]
    metrics: Mapping[str, Any]
    shown: Mapping[str, float]
