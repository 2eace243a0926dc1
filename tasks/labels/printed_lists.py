"""Lists and objects that were printed into a cell of a table: JSON's, Python's and NumPy's."""

import ast
import json
import re
import warnings
from typing import Any

BRACKETS = {"[": "]", "(": ")", "{": "}"}
QUOTED = r"""(?:'[^']*'|"[^"]*")"""
NUMPY = re.compile(rf"\[\s*(?:{QUOTED}(?:\s+{QUOTED})+|[-+]?[\d.]+(?:\s+[-+]?[\d.]+)+)\s*\]")
"""A printed array has no commas; as a Python literal, its texts would be concatenated."""
ELEMENT = re.compile(rf"{QUOTED}|[^\s\[\]]+")


def printed(text: str) -> Any:
    """Return the list or object that was printed as this text, or None.

    ``['a', 'b']``, ``["a", "b"]``, ``('a', 'b')``, ``{'a', 'b'}`` and ``['a' 'b']`` are the same list.
    """
    text = text.strip()
    if len(text) < 2 or BRACKETS.get(text[0]) != text[-1]:
        return None
    if NUMPY.fullmatch(text):
        return [part.strip("'\"") for part in ELEMENT.findall(text)]
    for read in (json.loads, _python):
        try:
            value = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(value, set | frozenset):
            return sorted(value, key=str)
        return list(value) if isinstance(value, list | tuple) else value if isinstance(value, dict) else None
    return None


def printed_list(text: str) -> list[Any] | None:
    """Return the list that was printed as this text, or None."""
    value = printed(text)
    return value if isinstance(value, list) else None


def _python(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # invalid escapes in user text
        return ast.literal_eval(text)
