"""The format of a file as its content tells it, where its suffix says nothing or something else."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from adaptdock.engine.data.packed import opened
from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError

PARQUET = b"PAR1"
FASTTEXT_LABEL = "__label__"
"""What precedes the name of each label in fastText's lines."""
LOOKED_AT = 20
"""Lines of which the first with something in it tells."""


def layout_of_content(path: Path, texts: Texts, usual: str) -> str | None:
    """Return jsonl, json, parquet or fasttext where a file is surely that; else None.

    ``usual`` is the format of its suffix: a file of one object is JSON lines or a document as it says.
    """
    try:
        with opened(path) as stream:
            if stream.read(len(PARQUET)) == PARQUET:
                return "parquet"
        head = [line for _, line in islice(texts.lines(path), LOOKED_AT) if line.strip()]
    except (OSError, DataError):
        return None
    if head and head[0].lstrip().startswith(FASTTEXT_LABEL):
        return "fasttext"
    if not head or head[0].lstrip()[:1] not in ("{", "["):
        return None
    if usual == "json" and len(head) == 1:  # a document on one line, which may be long
        return "json"
    if _is_row(_value(head[0])):
        return "jsonl"
    if usual == "json":
        return None
    whole = _value("\n".join(line for _, line in texts.lines(path)))
    is_list = isinstance(whole, list) and bool(whole) and isinstance(whole[0], dict | list)
    return "json" if is_list or isinstance(whole, dict) else None


def _is_row(value: Any) -> bool:
    """Tell a row of JSON lines: an object, or a pair of a text and an object."""
    if isinstance(value, list):
        return len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict)
    return isinstance(value, dict)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
