"""The inputs of ``adapt predict``: texts and JSON objects with their places."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from adaptdock.cli.common.output import note
from adaptdock.engine.data.formats import READERS, parsed
from adaptdock.engine.data.sources import Input, Reader
from adaptdock.engine.data.spans.reading import NAMES as ANNOTATIONS
from adaptdock.errors import DataError

LINES = ("auto", "text", "jsonl")
"""Formats of standard input."""
LAYOUTS = (*LINES, *(name for name in (*READERS, *ANNOTATIONS) if name not in (*LINES, "lines", "document")))
"""Formats of a file."""


def from_arguments(texts: Sequence[str], layout: str = "auto") -> Iterator[Input]:
    """Yield the texts given on the command line; with ``auto`` a text that is a JSON object is read as such."""
    for number, text in enumerate(texts, 1):
        _check_characters(f"text {number}", text)
        yield Input(_object(text) or text if layout == "auto" else text, f"text {number}")


def _object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a text is, or None."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        return dict(parsed(text, "text"))
    except (DataError, TypeError, ValueError):
        return None


def from_file(path: Path, layout: str, reader: Callable[[], Reader]) -> Iterator[Input]:
    """Yield an input for each row of a file, in the given format or the format of its suffix.

    A file of another kind is read line by line, as standard input. Decisions of the reader are printed as notes.
    """
    if not path.is_file() and not path.is_dir():  # such as a pipe
        with _opened(path) as stream:
            yield from from_lines(stream, str(path), layout)
        return
    reading = reader()
    row_layout = reading.input_layout(path) if layout == "auto" else layout
    items = _of_lines(path, layout, reading) if row_layout == "text" else reading.inputs(path, row_layout)
    said: set[str] = set()
    for number, item in enumerate(items):
        if number == 0:
            _say(reading, said)
        yield item
    _say(reading, said)


def _of_lines(path: Path, layout: str, reader: Reader) -> Iterator[Input]:
    if layout == "auto":
        reader.note_table(path)
    for number, line in reader.texts.lines(path):
        yield from _read(line, f"{path}:{number}", layout)


def _say(reader: Reader, said: set[str]) -> None:
    for line in reader.notes():
        if line not in said:
            note(line)
    said.update(reader.notes())


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def from_lines(lines: Iterable[bytes], name: str, layout: str = "auto") -> Iterator[Input]:
    """Yield a text or a JSON object for each line.

    An empty line of text is an empty text, so that predictions and lines correspond; an empty JSON line is skipped.
    Raises :class:`DataError` with the place of an invalid line.
    """
    for number, raw in enumerate(lines, 1):
        place = f"{name}:{number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{place}: not valid UTF-8 ({error.reason} at byte {error.start} of the line). With --input FILE, "
                f"--encoding names another encoding"
            ) from None
        yield from _read(line, place, layout)


def _read(line: str, place: str, layout: str) -> Iterator[Input]:
    if layout != "jsonl" and not (layout == "auto" and line.lstrip().startswith("{")):
        yield Input(line, place)
    elif line.strip():
        hint = "; --format text reads lines that begin with { as text" if layout == "auto" else ""
        value = parsed(line, place, hint)
        if "\\u" in line:
            _check_characters(place, json.dumps(value, ensure_ascii=False))
        yield Input(value, place)


def _check_characters(place: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: not valid Unicode: {error.reason} at character {error.start}") from None
