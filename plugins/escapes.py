"""Escapes for external text in a terminal or log: invisible characters are replaced by their numbers.

Control characters command a terminal, marks of writing direction reverse a line, and line separators forge a line.
They are the Unicode categories Cc, Cf, Zl, Zp and Cs; letters of all scripts stay unchanged.
"""

import json
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

HIDDEN = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})
SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
JOINERS = "\u200c\u200d"
"""Zero-width joiners, which shape letters of Persian and of Indian scripts, and join emoji."""


def escaped(text: str, keep: str = "") -> str:
    r"""Return a text with an escape, such as ``\x1b`` for every hidden character not in ``keep``."""
    return text if text.isprintable() else text.translate(_table(_python, keep))


def json_text(value: Any, indent: int | None = None, ascii_only: bool = False, default: Any = None) -> str:
    """Return JSON with escapes for hidden characters; with ``ascii_only``, for all non-ASCII characters."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent, default=default)
    return text if text.isprintable() else text.translate(_table(_json, "\n"))  # which JSON has between values only


class _Table(dict[int, int | str]):
    """A table for :meth:`str.translate`, filled on demand."""

    def __init__(self, form: Callable[[str], str], keep: str) -> None:
        super().__init__({ord(letter): letter for letter in keep})
        self._form = form

    def __missing__(self, number: int) -> int | str:
        letter = chr(number)
        self[number] = self._form(letter) if unicodedata.category(letter) in HIDDEN else number
        return self[number]


@cache
def _table(form: Callable[[str], str], keep: str) -> _Table:
    return _Table(form, keep)


def _python(letter: str) -> str:
    number = ord(letter)
    if letter in SHORT:
        return SHORT[letter]
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _json(letter: str) -> str:
    return json.dumps(letter)[1:-1] if ord(letter) != 0x7F else "\\u007f"
