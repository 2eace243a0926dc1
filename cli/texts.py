"""The inputs of ``adapt predict``: texts and JSON objects, each with the place it came from."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adaptdock.plugins.errors import DataError

Format = Literal["auto", "text", "jsonl"]


@dataclass(frozen=True)
class Item:
    """One input, and where it stands."""

    place: str
    value: Any


def from_arguments(texts: Sequence[str]) -> Iterator[Item]:
    """Yield the texts given on the command line."""
    for number, text in enumerate(texts, 1):
        _check_characters(f"text {number}", text)
        yield Item(f"text {number}", text)


def from_lines(lines: Iterable[bytes], name: str, layout: Format = "auto") -> Iterator[Item]:
    """Yield a text or a JSON object for each line, as it is read.

    A line of text that is empty gives an empty text, so that answers stay beside their lines; in
    JSON lines it is left out. Raises :class:`DataError` with the line for what cannot be read.
    """
    for number, raw in enumerate(lines, 1):
        place = f"{name}:{number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not valid UTF-8 ({error.reason} at byte {error.start} of the line)") from None
        if layout == "jsonl" or (layout == "auto" and line.lstrip().startswith("{")):
            if line.strip():
                yield Item(place, _parsed(place, line, layout))
        else:
            yield Item(place, line)


def _parsed(place: str, line: str, layout: Format) -> Any:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        hint = "; --format text reads lines that begin with { as text" if layout == "auto" else ""
        raise DataError(f"{place}: not JSON: {error}{hint}") from None
    if "\\u" in line:
        _check_characters(place, json.dumps(value, ensure_ascii=False))
    return value


def _check_characters(place: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: not valid Unicode: {error.reason} at character {error.start}") from None
