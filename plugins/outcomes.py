"""Outcomes: how one prediction compares with its labelled record, as reports draw and count it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """A labelled span of a passage, in characters; ``wrong`` if the other side has no such span."""

    start: int
    end: int
    label: str
    wrong: bool = False


@dataclass(frozen=True)
class Passage:
    """A text of a report with its role (``expected``, ``predicted``, ``question``), and marked spans."""

    title: str
    text: str
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a prediction compares with its record.

    ``error`` is 0.0 for a right answer and greater for worse ones, on any scale. ``pairs`` are the expected and the
    predicted label of each answer, for the confusion matrix. ``scores`` are probabilities of answers, each with
    whether the answer is right, for the calibration. ``values`` are the expected and the predicted number.
    """

    error: float
    passages: tuple[Passage, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    scores: tuple[tuple[float, bool], ...] = ()
    values: tuple[float, float] | None = None


@dataclass(frozen=True)
class Decision:
    """An answer of an adapter that can be explained: its label, its span of the text, and the words of this span.

    ``first`` and ``last`` count the words of :meth:`Occludable.word_spans`, ``last`` exclusive; both are 0 for an
    answer on the whole text.
    """

    label: str
    start: int
    end: int
    first: int = 0
    last: int = 0
