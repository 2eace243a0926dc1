"""The worst errors as pieces of text, marked or not, ready to draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptdock.plugins.contracts import Mark, Outcome, Passage, Record
from adaptdock.plugins.escapes import JOINERS, escaped

SHOWN = 20
LONGEST = 600
"""Characters of a passage that are drawn."""
BEFORE = 150
"""Characters that are drawn before the first mark of a longer passage."""
HUES = 8


@dataclass(frozen=True)
class Piece:
    """A part of a passage; a marked one has a label, the number of its colour, and whether it is wrong."""

    text: str
    label: str = ""
    hue: int = 0
    wrong: bool = False


@dataclass(frozen=True)
class DrawnPassage:
    """The title of a passage and its pieces."""

    title: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class DrawnError:
    """A record with a wrong answer: its place in the data, and its passages."""

    place: str
    passages: tuple[DrawnPassage, ...]


def worst_errors(
    records: Sequence[Record], outcomes: Sequence[Outcome], hues: Mapping[str, int], limit: int = SHOWN
) -> list[DrawnError]:
    """Return the records with the greatest errors, the worst first."""
    wrong = {number: outcome.error for number, outcome in enumerate(outcomes) if outcome.error > 0}
    worst = sorted(wrong, key=lambda number: -wrong[number])[:limit]
    return [drawn(records[number], outcomes[number], hues) for number in worst]


def drawn(record: Record, outcome: Outcome, hues: Mapping[str, int]) -> DrawnError:
    """Return a record and its outcome as pieces."""
    passages = tuple(DrawnPassage(passage.title, pieces(passage, hues)) for passage in outcome.passages)
    return DrawnError(_visible(str(record.get("where", ""))), passages)


def hue_of_labels(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return the number of a colour for each label that is marked in a text; more than eight labels share colours."""
    labels = {mark.label for outcome in outcomes for passage in outcome.passages for mark in passage.marks}
    return {label: number % HUES for number, label in enumerate(sorted(labels))}


def pieces(passage: Passage, hues: Mapping[str, int]) -> tuple[Piece, ...]:
    """Divide a passage at its marks; of a long one, the part around the first mark. Overlapping marks are left out."""
    marks = _apart(passage.marks)
    start, end = _part(passage.text, marks)
    parts = [Piece("… ")] if start else []
    position = start
    for mark in marks:
        if mark.end > end:
            break
        parts.append(Piece(_visible(passage.text[position : mark.start])))
        text = _visible(passage.text[mark.start : mark.end])
        parts.append(Piece(text, _visible(mark.label), hues.get(mark.label, 0), mark.wrong))
        position = mark.end
    parts.append(Piece(_visible(passage.text[position:end])))
    if end < len(passage.text):
        parts.append(Piece(" …"))
    return tuple(part for part in parts if part.text)


def _apart(marks: Sequence[Mark]) -> list[Mark]:
    apart: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: (mark.start, -mark.end)):
        if not apart or mark.start >= apart[-1].end:
            apart.append(mark)
    return apart


def _part(text: str, marks: Sequence[Mark]) -> tuple[int, int]:
    if len(text) <= LONGEST:
        return 0, len(text)
    start = max(0, marks[0].start - BEFORE) if marks else 0
    end = start + LONGEST
    inside = next((mark for mark in marks if mark.start < end < mark.end), None)
    return start, min(len(text), end if inside is None else inside.end)


def _visible(text: str) -> str:
    """Return a text with its control characters written out."""
    return escaped(text, "\n\t" + JOINERS)
