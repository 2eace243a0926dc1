"""Answers as data for question answering holds them: SQuAD's objects, lists, columns of a table, or none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Record
from adaptdock.tasks.printed import printed

SHOWN = 10
"""So many places stand in a note."""
TRUE, FALSE = frozenset({"true", "1", "1.0", "yes"}), frozenset({"false", "0", "0.0", "no", ""})


@dataclass
class Places:
    """Where questions are whose answers are not read as they are written."""

    moved: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    located: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)
    """Located, though the text stands at several places."""
    impossible: list[str] = field(default_factory=list)
    """They have answers, and are marked as without one."""

    def nothing_left(self, split: str, repairs: bool) -> str:
        """Say why no question of a split is left."""
        if not self.skipped:
            return f"{split}: there is no question"
        way = "" if repairs else "; --repair moves answers whose text stands elsewhere"
        return (
            f"{split}: no question is left of {len(self.skipped)}: no answer stands where its offset says, such as "
            f"that of {self.skipped[0]}. Offsets count the characters of the context from 0{way}."
        )

    def notes(self, split: str, repairs: bool) -> list[str]:
        """Return a line for each kind that there is."""
        notes = []
        if self.moved:
            count = len(dict.fromkeys(self.moved))
            notes.append(f"{split}: {count} questions had answers moved to where they stand: {_some(self.moved)}")
        if self.skipped:
            ways = "" if repairs else "; --repair (repair=true) moves those whose text stands elsewhere"
            notes.append(
                f"{split}: answers of {len(self.skipped)} questions were skipped, as they do not stand where their "
                f"offset says, and the question with the last of them{ways}: {_some(self.skipped)}"
            )
        without = [*self.located, *self.several]
        if without:
            several = f" ({len(self.several)} stand at several places: the first is taken)" if self.several else ""
            notes.append(
                f"{split}: {len(without)} answers have no offset, and were located in the context{several}: "
                f"{_some(without)}"
            )
        if self.impossible:
            notes.append(
                f"{split}: {len(self.impossible)} questions have answers, but is_impossible says that there is none, "
                f"and that holds: {_some(self.impossible)}"
            )
        return notes


def given_answers(record: Record, where: str, places: Places) -> list[Record]:
    """Return text and start of each answer of a record; a start may be None, for not known.

    A question that is marked as impossible has no answer, whatever stands beside it: those are plausible ones.
    """
    value = record["answers"]
    if isinstance(value, str):
        value = _unprinted(value)
    if _is_impossible(record.get("impossible"), where):
        if any(map(_has_text, _parts(value, where))):
            places.impossible.append(where)
        return []
    start = _start(record.get("start"), where)
    if isinstance(value, str) and start is not None:
        value = {"text": value, "answer_start": start} if value else value
    return [_answer(part, where) for part in _parts(value, where)]


def required(value: Any, name: str, where: str) -> str:
    """Return a text with something in it; raise :class:`DataError` else."""
    if not isinstance(value, str) or not value.strip():
        found = "missing" if value is None else f"no text: {value!r:.60}"
        raise DataError(f"{where}: the {name} is {found}")
    return value


def _unprinted(value: str) -> Any:
    """Return the objects that a cell of a table is the print of; else the text, which is an answer itself."""
    content = printed(value)
    is_list = isinstance(content, list) and all(isinstance(part, Mapping) for part in content)
    return content if is_list or (isinstance(content, Mapping) and "text" in content) else value


def _is_impossible(value: Any, where: str) -> bool:
    """Return a truth value that is one, a number, or what a table has for it."""
    text = "" if value is None else str(value).strip().casefold()
    if text in TRUE | FALSE:
        return text in TRUE
    raise DataError(f"{where}: is_impossible is true or false; found {value!r:.60}")


def _start(value: Any, where: str) -> int | None:
    """Return the number of a character that a column of a table holds; None where it is empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    text = str(value).strip().removesuffix(".0")
    if isinstance(value, bool) or not text.lstrip("-").isdecimal():
        raise DataError(f"{where}: answer_start is the number of a character; found {value!r:.60}")
    return int(text)


def _parts(value: Any, where: str) -> Sequence[Any]:
    """Return the answers one by one, from the forms that data sets give them in."""
    if isinstance(value, Mapping):
        texts, starts = value.get("text", []), value.get("answer_start", value.get("start"))
        texts = [texts] if isinstance(texts, str) else texts
        starts = [starts] * len(texts) if starts is None or isinstance(starts, int) else starts
        if not isinstance(texts, list | tuple) or not isinstance(starts, list | tuple) or len(texts) != len(starts):
            raise DataError(f"{where}: each answer has a text and a start; found {value!r:.80}")
        return [{"text": text, "start": start} for text, start in zip(texts, starts, strict=True)]
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) else list(value)


def _has_text(part: Any) -> bool:
    text = part.get("text") if isinstance(part, Mapping) else part
    return isinstance(text, str) and bool(text.strip())


def _answer(value: Any, where: str) -> Record:
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: an answer is an object with 'text' and 'answer_start'; found {value!r:.60}")
    start = value.get("answer_start", value.get("start"))
    if isinstance(start, bool) or not isinstance(start, int | None):
        raise DataError(f"{where}: answer_start is the number of a character; found {start!r:.60}")
    if value.get("text") == "":
        raise DataError(
            f"{where}: the answer is no text: ''. A question without an answer has an empty list of answers, or "
            f"is_impossible is true."
        )
    return {"text": required(value.get("text"), "answer", where), "start": start}


def _some(places: Sequence[str]) -> str:
    shown = list(dict.fromkeys(places))
    return ", ".join(shown[:SHOWN]) + (", ..." if len(shown) > SHOWN else "")
