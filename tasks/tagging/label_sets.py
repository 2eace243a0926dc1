"""The labels of each word, any number of them: lists, or texts with a separator, such as ``Case=Nom|Number=Sing``."""

from typing import Any

from adaptdock.errors import DataError
from adaptdock.tasks.labels.printed_lists import printed

SEPARATOR = "|"
NO_LABEL = frozenset({"", "_", "O", "-", "*"})
"""Cells of words without a label; CoNLL-U writes an underscore."""


def label_sets(value: Any, separator: str, where: str) -> list[list[str]]:
    """Return the sorted labels of each word; raise :class:`DataError` for a value of no known form.

    Each word has a list of labels, one text, or nothing.
    """
    if isinstance(value, str):
        parts = printed(value)
        value = value.split() if parts is None else parts
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: labels are a list with the labels of each word; found {value!r:.60}")
    return [_labels(part, separator, where) for part in value]


def _labels(part: Any, separator: str, where: str) -> list[str]:
    if isinstance(part, str):
        part = (printed(part) or []) if part.startswith("[") else part.split(separator)
    if not isinstance(part, list | tuple) or not all(isinstance(name, str) for name in part):
        raise DataError(
            f"{where}: the labels of a word are a list of names, or names divided by --label-separator; found "
            f"{part!r:.60}"
        )
    names = {name.strip() for name in part}
    return sorted(names - NO_LABEL)
