"""The two kinds of exports: rows of JSON or of a table, and files of a format of their own."""

import json
import warnings
from abc import ABC, abstractmethod
from ast import literal_eval
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from adaptdock.engine.data.spans.findings import Findings
from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError
from adaptdock.plugins.annotations import AnnotatedText

TEXT = ("text", "data", "content", "sentence", "document")
"""The names under which tools keep a text, in the order in which they are tried."""


class RowTool(ABC):
    """A tool whose exports have a row for each text. ``preferred`` are names of columns that a person has given."""

    name: ClassVar[str]
    title: ClassVar[str]
    """The name of the format in notes."""
    writes_empty_lists: ClassVar[bool] = False
    """Whether a text that nobody has annotated has an empty list, as one without any span does."""

    def __init__(self, preferred: Collection[str] = ()) -> None:
        self.preferred = tuple(preferred)

    @abstractmethod
    def recognises(self, row: Any) -> bool:
        """Tell a row of this tool that holds an annotation."""

    @abstractmethod
    def read(self, row: Any, place: str, findings: Findings) -> Iterator[AnnotatedText]:
        """Yield the texts of a row; offsets are as the tool counts them.

        Raises :class:`DataError` naming the place for what cannot be read.
        """

    def finish(self, texts: list[AnnotatedText], findings: Findings) -> list[AnnotatedText]:
        """Return the texts of a whole file with what only all rows together tell."""
        return texts

    def text_of(self, row: Mapping[str, Any], place: str) -> str:
        """Return the text of a row."""
        name = text_column(row, self.preferred)
        if name is None:
            raise DataError(
                f"{place}: read as {self.title}, but no column holds the text: looked for {', '.join(TEXT)}, there is "
                f"{', '.join(map(str, row)) or 'none'}"
            )
        return str(row[name])


class FileTool(ABC):
    """A tool whose exports are files, or folders, of a format of their own."""

    name: ClassVar[str]
    title: ClassVar[str]
    writes_empty_lists: ClassVar[bool] = False

    @abstractmethod
    def recognises(self, path: Path, texts: Texts) -> bool:
        """Tell a file or folder of this tool."""

    @abstractmethod
    def read(self, path: Path, texts: Texts, findings: Findings) -> Iterator[AnnotatedText]:
        """Yield the texts of a file; offsets are as the tool counts them."""


def text_column(row: Mapping[str, Any], preferred: Collection[str] = ()) -> str | None:
    """Return the name of the column with the text: one that was given, or one that tools use."""
    return next((name for name in (*preferred, *TEXT) if isinstance(row.get(name), str)), None)


def identifier_of(row: Mapping[str, Any]) -> str | int | None:
    """Return what names a row."""
    value = row.get("id")
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


def whole_number(value: Any, place: str, name: str) -> int:
    """Return an offset; Parquet and CSV may hold it as a fraction or a text."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{place}: the {name} of a span is the number of a character; found {value!r:.60}")
    return value


def label_name(value: Any, place: str) -> str:
    """Return the label of a span; raise :class:`DataError` for a number, which stands for a name elsewhere."""
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int):
        raise DataError(
            f"{place}: the label of a span is the number {value}, and the file does not say what it stands for. Export "
            f"the labels as texts"
        )
    raise DataError(f"{place}: the label of a span is a name; found {value!r:.60}")


def _python(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # invalid escapes in texts
        return literal_eval(text)


def unprinted(value: Any) -> Any:
    """Return the list or object that was printed into a cell of a table, by JSON or Python; else the value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        for read in (json.loads, _python):
            try:
                return read(value.strip())
            except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                continue
    return value
