"""Answers in the formats of question answering data: SQuAD's objects, lists, columns of a table, or no answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Record
from adaptdock.tasks.common.examples import Examples
from adaptdock.tasks.labels.printed_lists import printed

SHOWN = 10
"""Most places that a note lists."""
NO_PLACES = partial(Examples, most=SHOWN)
TRUE, FALSE = frozenset({"true", "1", "1.0", "yes"}), frozenset({"false", "0", "0.0", "no", ""})


@dataclass
class Places:
    """The places of questions whose answers were changed or skipped while reading, by the kind of change."""

    moved: Examples = field(default_factory=NO_PLACES)
    skipped: Examples = field(default_factory=NO_PLACES)
    located: Examples = field(default_factory=NO_PLACES)
    """Answers without an offset."""
    several: Examples = field(default_factory=NO_PLACES)
    """Answers without an offset whose text occurs several times; the first occurrence is taken."""
    near: Examples = field(default_factory=NO_PLACES)
    """One character beside the offset."""
    empty: Examples = field(default_factory=NO_PLACES)
    """With an empty text as the answer."""
    joined: Examples = field(default_factory=NO_PLACES)
    """With a list of contexts."""
    impossible: Examples = field(default_factory=NO_PLACES)
    """Marked as impossible although they have answers."""

    def nothing_left(self, split: str, repairs: bool) -> str:
        """Return the error text for a split without any usable question."""
        if not self.skipped:
            return f"{split}: there are no questions"
        way_out = "" if repairs else "; --repair moves answers whose text occurs elsewhere"
        return (
            f"{split}: no question is left of {self.skipped.count}: no answer is at its offset or in its context, "
            f"such as that of {self.skipped.first[0]}. Offsets count the characters of the context from 0{way_out}."
        )

    def notes(self, split: str, repairs: bool) -> list[str]:
        """Return a line for each kind of change that occurred."""
        notes = []
        if self.moved:
            notes.append(f"{split}: {self.moved.different} questions had answers moved to their text: {self.moved}")
        if self.skipped:
            way_out = "" if repairs else "; --repair (repair=true) moves answers whose text occurs elsewhere"
            notes.append(
                f"{split}: answers of {self.skipped.count} questions were skipped because they are not at their "
                f"offset, or not in the context; a question without any other answer was skipped too{way_out}: "
                f"{self.skipped}"
            )
        if self.near:
            notes.append(f"{split}: {self.near.count} answers were off by one character and moved: {self.near}")
        if self.empty:
            notes.append(
                f"{split}: {self.empty.count} questions have an empty text as the answer, which is read as no answer: "
                f"{self.empty}"
            )
        if self.joined:
            notes.append(
                f"{split}: {self.joined.count} questions have a list of contexts, joined by line breaks; offsets count "
                f"the joined text: {self.joined}"
            )
        if self.located:
            several = f" ({self.several.count} occur several times: the first is taken)" if self.several else ""
            notes.append(
                f"{split}: {self.located.count} answers have no offset, and were located in the context{several}: "
                f"{self.located}"
            )
        if self.impossible:
            notes.append(
                f"{split}: {self.impossible.count} questions have answers, but is_impossible is true, which "
                f"counts: {self.impossible}"
            )
        return notes


def given_answers(record: Record, where: str, places: Places) -> list[Record]:
    """Return text and start of each answer of a record; an unknown start is None.

    A question that is marked as impossible has no answer: SQuAD 2.0 lists plausible, wrong answers there.
    """
    value = record["answers"]
    if isinstance(value, str):
        value = _unprinted(value)
    if _is_impossible(record.get("impossible"), where):
        if any(map(_has_text, _parts(value, where))):
            places.impossible.add(where)
        return []
    start = _start(record.get("start"), where)
    if isinstance(value, str) and start is not None:
        value = {"text": value, "answer_start": start} if value else value
    parts = _parts(value, where)
    if parts and all(map(_is_empty, parts)):
        places.empty.add(where)
    return [_answer(part, where) for part in parts if not _is_empty(part)]


def context_of(record: Record, where: str, places: Places) -> str:
    """Return the context of a record; paragraphs in a list are joined by line breaks."""
    context = record.get("context")
    if isinstance(context, list | tuple) and context and all(isinstance(part, str) for part in context):
        places.joined.add(where)
        return required("\n".join(context), "context", where)
    return required(context, "context", where)


def required(value: Any, name: str, where: str) -> str:
    """Return a text that is not blank; raise :class:`DataError` for anything else."""
    if not isinstance(value, str) or not value.strip():
        problem = "missing" if value is None else f"not a text: {value!r:.60}"
        raise DataError(f"{where}: the {name} is {problem}")
    return value


def _unprinted(value: str) -> Any:
    """Return the objects printed into a cell of a table; any other text is itself the answer."""
    content = printed(value)
    is_list = isinstance(content, list) and all(isinstance(part, Mapping | str) for part in content)
    return content if is_list or (isinstance(content, Mapping) and "text" in content) else value


def _is_impossible(value: Any, where: str) -> bool:
    """Return a truth value, also from a number or from the text of a table."""
    text = "" if value is None else str(value).strip().casefold()
    if text in TRUE | FALSE:
        return text in TRUE
    raise DataError(f"{where}: is_impossible is true or false; found {value!r:.60}")


def _start(value: Any, where: str) -> int | None:
    """Return the character offset in a column of a table; None where it is empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    text = str(value).strip().removesuffix(".0")
    if isinstance(value, bool) or not text.lstrip("-").isdecimal():
        raise DataError(f"{where}: answer_start is the number of a character; found {value!r:.60}")
    return int(text)


def _parts(value: Any, where: str) -> Sequence[Any]:
    """Return a list of answers from any format of the known data sets."""
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


def _is_empty(part: Any) -> bool:
    """Return whether an answer has the empty text, which some data has for no answer."""
    text = part.get("text") if isinstance(part, Mapping) else part
    return isinstance(text, str) and not text.strip()


def _answer(value: Any, where: str) -> Record:
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: an answer is an object with 'text' and 'answer_start'; found {value!r:.60}")
    start = value.get("answer_start", value.get("start"))
    if isinstance(start, bool) or not isinstance(start, int | None):
        raise DataError(f"{where}: answer_start is the number of a character; found {start!r:.60}")
    return {"text": required(value.get("text"), "answer", where), "start": start}
