"""A file of drafts whose rows a person confirms one by one: JSON lines of ``adapt label``, replaced as a whole."""

import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from adaptdock.engine.data.confirmation import CONFIRMED
from adaptdock.engine.data.drafts import BY_ADAPTER, BY_TEACHER, KIND, answer_field
from adaptdock.engine.data.formats import parsed
from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError, FileError
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.plugins.contracts import AnswerKind
from adaptdock.plugins.escapes import json_text

Row = dict[str, Any]
AUTHORS = (BY_ADAPTER, BY_TEACHER)


class DraftFile:
    """The rows of a file; each call reads it anew, so that changes by other programs stay."""

    def __init__(self, path: Path) -> None:
        """Check the file; raise :class:`DataError` naming the first row that is not one of ``adapt label``."""
        self.path = path
        self._lock = threading.Lock()
        self.rows()

    def rows(self) -> list[Row]:
        """Return all rows; they have one kind of answers."""
        if not self.path.is_file():
            raise DataError(f"{self.path}: the file does not exist; adapt label FILE --output {self.path} writes one")
        places = [(line, f"{self.path}:{number}") for number, line in Texts().lines(self.path) if line.strip()]
        rows = [(parsed(line, place), place) for line, place in places]
        if not rows:
            raise DataError(f"{self.path}: the file has no rows")
        for row, place in rows:
            is_draft = isinstance(row, dict) and isinstance(row.get("text"), str) and CONFIRMED in row
            if not is_draft or row.get(KIND) not in get_args(AnswerKind) or row[KIND] != rows[0][0][KIND]:
                raise DataError(
                    f"{place}: not a row of adapt label --output FILE: it has text, {KIND} (the same in all rows) and "
                    f"{CONFIRMED}"
                )
        return [row for row, _ in rows]

    def confirm(self, number: int, text: str, answer: Any, labels: Collection[str]) -> Row:
        """Store the answer of a row, confirmed, and return the row.

        Raises :class:`DataError` for an answer in another form or with a label that is not in ``labels``, and for a
        row that does not exist or has another text. :class:`FileError` if the file cannot be written.
        """
        with self._lock:
            rows = self.rows()
            if number >= len(rows) or rows[number]["text"] != text:
                raise DataError(f"row {number + 1} has another text now: the file was changed; load the page again")
            row = rows[number]
            check_answer(row, answer, labels)
            row |= {answer_field(row[KIND]): answer, CONFIRMED: True}
            blob = "".join(f"{json_text(each)}\n" for each in rows).encode()
            try:
                write_atomically(self.path, blob, True)
            except OSError as error:
                raise FileError(self.path, f"it could not be written: {error.strerror or error}") from None
        return row


def labels_of(rows: Sequence[Row]) -> list[str]:
    """Return the labels in the answers and drafts of rows."""
    names: set[str] = set()
    for row in rows:
        for answer in (row.get(name) for name in (answer_field(row[KIND]), *AUTHORS)):
            names |= set(_labels(row[KIND], answer))
    return sorted(names)


def check_answer(row: Mapping[str, Any], answer: Any, labels: Collection[str]) -> None:
    """Raise :class:`DataError` unless an answer has the form of the row's kind, and its labels are known."""
    kind, length = row[KIND], len(row["text"])
    is_valid = isinstance(answer, str) if kind == "label" else isinstance(answer, list)
    if kind == "spans":
        ends = 0
        for span in answer if is_valid else ():
            is_valid = is_valid and _is_span(span) and ends <= span[0] < span[1] <= length
            ends = span[1] if is_valid else length
    elif kind != "label":
        is_valid = is_valid and all(isinstance(label, str) for label in answer)
    if not is_valid or (kind == "tags" and len(answer) != len(row["tokens"])):
        raise DataError(f"the answer is not of the kind {kind!r} for this text: {answer!r:.100}")
    unknown = next((label for label in _labels(kind, answer) if label not in labels), None)
    if unknown is not None:
        raise DataError(f"the label {unknown!r:.100} is not known: there are {', '.join(sorted(labels)[:20])}")


def _is_span(span: Any) -> bool:
    return isinstance(span, list) and [type(part) for part in span] == [int, int, str]


def _labels(kind: AnswerKind, answer: Any) -> list[str]:
    if answer is None:
        return []
    if kind == "label":
        return [answer]
    return [span[2] for span in answer] if kind == "spans" else list(answer)
