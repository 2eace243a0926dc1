"""Large inputs in chunks of rows: Parquet by record batches, JSON lines, CSV, TSV and plain text by lines.

A file is divided into ranges of rows that depend on the file and the size of a range alone, so that processes
divide the work without talking. The memory in use does not grow with the file.
"""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.engine.data.content import layout_of_content
from adaptdock.engine.data.formats import FORMATS, check_columns, first_cause, parsed
from adaptdock.engine.data.tables import Say, rows_or_errors
from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError
from adaptdock.plugins.escapes import json_text

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

LAYOUTS = ("parquet", "jsonl", "csv", "tsv", "text")
SAMPLED = 1000
"""First rows of a file of JSON lines, which decide the columns and their types."""
REST = "rest"
"""Column for the JSON values that fit no column of the sampled rows."""
BUFFER = 1 << 20
"""Bytes of a column that are read at a time."""


@dataclass(frozen=True)
class RowChunk:
    """Consecutive rows of a file: their values, or the error of a row, and the columns to keep beside an answer."""

    start: int
    values: Sequence[Any]
    columns: "pyarrow.RecordBatch"
    lines: Sequence[int] | None = None
    """The line of each row in a text file."""

    @property
    def end(self) -> int:
        """The number of the row after the last."""
        return self.start + len(self.values)

    def part(self, start: int, end: int) -> "RowChunk":
        """Return the rows of the chunk from ``start`` to ``end`` of the file."""
        first, last = max(0, start - self.start), min(end, self.end) - self.start
        lines = None if self.lines is None else self.lines[first:last]
        return RowChunk(
            self.start + first, self.values[first:last], self.columns.slice(first, max(0, last - first)), lines
        )


class RowFile(ABC):
    """A file whose rows are read forwards, in ranges."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rest: RowChunk | None = None
        self._chunks: Iterator[RowChunk] | None = None

    @property
    @abstractmethod
    def schema(self) -> "pyarrow.Schema":
        """The columns to keep, without metadata."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """The number of rows, of a text file an estimate."""

    @abstractmethod
    def ranges(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of at most ``size`` rows; those of a text file do not end."""

    @abstractmethod
    def _open(self, start: int, size: int) -> Iterator[RowChunk]:
        """Yield chunks of ``size`` rows from a row that is not behind ``start``."""

    def take(self, start: int, end: int, size: int) -> Iterator[RowChunk]:
        """Yield the rows of a range in chunks of at most ``size``; none behind the end of the file.

        Ranges are taken in rising order. Raises :class:`DataError` where the file cannot be read any further.
        """
        if self._chunks is None:
            self._chunks = self._open(start, size)
        while True:
            chunk = self._rest or next(self._chunks, None)
            if chunk is None:
                return
            self._rest = chunk if chunk.end > end else None
            if chunk.end > start and chunk.start < end:
                yield chunk.part(start, end)
            if chunk.end >= end:
                return


class _LazyRow(Mapping[str, Any]):
    """A row of a record batch; a column is converted to Python when a row is asked for it."""

    def __init__(self, columns: "_Converted", number: int) -> None:
        self._columns, self._number = columns, number

    def __getitem__(self, name: str) -> Any:
        return self._columns[name][self._number]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.names)

    def __len__(self) -> int:
        return len(self._columns.names)


class _Converted(dict[str, list[Any]]):
    """The columns of a record batch as Python values."""

    def __init__(self, batch: "pyarrow.RecordBatch") -> None:
        super().__init__()
        self.names, self._batch = batch.schema.names, batch

    def __missing__(self, name: str) -> list[Any]:
        if name not in self.names:
            raise KeyError(name)
        self[name] = self._batch.column(name).to_pylist()
        return self[name]


class ParquetRows(RowFile):
    """The rows of a Parquet file; ranges end where row groups end, if these are not larger."""

    @cached_property
    def _file(self) -> "ParquetFile":
        from pyarrow.parquet import ParquetFile

        try:
            file = ParquetFile(self.path, buffer_size=BUFFER)
            check_columns(file.schema_arrow.names, self.path)
        except DataError:
            raise
        except Exception as error:  # pyarrow raises several kinds
            raise DataError(
                f"{self.path}: not a Parquet file that can be read ({first_cause(error)}). A file that was not written "
                f"to its end lacks its footer: write or copy it again"
            ) from error
        return file

    @property
    def schema(self) -> "pyarrow.Schema":
        """The columns of the file."""
        return self._file.schema_arrow.remove_metadata()

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self._file.metadata.num_rows)

    @cached_property
    def _groups(self) -> list[int]:
        """The first row of each row group."""
        starts, total = [], 0
        for number in range(self._file.metadata.num_row_groups):
            starts.append(total)
            total += self._file.metadata.row_group(number).num_rows
        return starts

    def ranges(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield whole row groups, as many as fit into ``size`` rows, or pieces of a larger row group."""
        start = 0
        for first, end in pairwise([*self._groups, self.rows]):
            if end - start > size and start < first:
                yield start, first
                start = first
            while end - start > size:
                yield start, start + size
                start += size
        if start < self.rows:
            yield start, self.rows

    def take(self, start: int, end: int, size: int) -> Iterator[RowChunk]:
        """Yield the rows of a range; row groups between two ranges are not read."""
        if self._chunks is not None and self._group(start) > self._group(max(0, self._position)):
            self._chunks = self._rest = None
        for chunk in super().take(start, end, size):
            self._position = chunk.end
            yield chunk

    _position = 0

    def _group(self, row: int) -> int:
        return sum(first <= row for first in self._groups) - 1

    def _open(self, start: int, size: int) -> Iterator[RowChunk]:
        group = self._group(start)
        row = self._groups[group]
        try:
            batches = self._file.iter_batches(size, range(group, len(self._groups)))
            for batch in batches:
                columns = _Converted(batch)
                values = [_LazyRow(columns, number) for number in range(batch.num_rows)]
                yield RowChunk(row, values, batch.replace_schema_metadata(None))
                row += batch.num_rows
        except Exception as error:  # pyarrow raises several kinds
            raise DataError(
                f"{self.path}: the rows from {row} on cannot be read ({first_cause(error)}): the file is damaged. "
                f"Write or copy it again"
            ) from error
        if row < self.rows:
            raise DataError(f"{self.path}: it ends after row {row} of {self.rows}: the file is damaged")


class TextRows(RowFile):
    """The rows of JSON lines, CSV, TSV or plain text; empty lines are skipped, except in plain text."""

    def __init__(self, path: Path, layout: str, texts: Texts, known: Collection[str], numbered: bool, say: Say) -> None:
        super().__init__(path)
        self.layout, self._texts = layout, texts
        self._known, self._numbered, self._say = known, numbered, say

    @cached_property
    def _sample(self) -> tuple["pyarrow.Schema", int]:
        """The schema by the first rows, and the number of rows, estimated by their length."""
        import pyarrow

        sample = list(islice(self._entries(), SAMPLED + 1))
        rows = [value for value, _ in sample[:SAMPLED] if isinstance(value, Mapping)]
        rows = [{"text": value} for value, _ in sample[:1]] if self.layout == "text" else rows
        names = dict.fromkeys(name for row in rows for name in row)
        types = {name: _type([row.get(name) for row in rows]) for name in names}
        total = len(sample)
        if total > SAMPLED:
            with self.path.open("rb") as stream:
                size = sum(len(line) for line in islice(stream, sample[-1][1]))
            total = round(self.path.stat().st_size / max(1, size) * len(sample))
        return pyarrow.schema(types.items()), total

    @property
    def schema(self) -> "pyarrow.Schema":
        """The columns of a table, or the keys of the first JSON lines."""
        return self._sample[0]

    @property
    def rows(self) -> int:
        """The number of rows, estimated by the length of the first."""
        return self._sample[1]

    def ranges(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield ranges without end."""
        return ((start, start + size) for start in count(0, size))

    def _open(self, start: int, size: int) -> Iterator[RowChunk]:
        entries, row = self._entries(), 0
        while rows := list(islice(entries, size)):
            values, lines = [value for value, _ in rows], [line for _, line in rows]
            yield RowChunk(row, values, self._columns(values), lines)
            row += len(rows)

    def _entries(self) -> Iterator[tuple[Any, int]]:
        """Yield the value of each row, or its error, and its line."""
        if self.layout in ("csv", "tsv"):
            rows = rows_or_errors(self.path, self._texts, self.layout, self._numbered, self._known, self._say)
            yield from ((value, int(place.rpartition(":")[2])) for value, place in rows)
            return
        for number, line in self._texts.lines_or_errors(self.path):
            if isinstance(line, DataError) or self.layout == "text":
                yield line, number
            elif line.strip():
                yield _parsed(line, f"{self.path}:{number}"), number

    def _columns(self, values: Sequence[Any]) -> "pyarrow.RecordBatch":
        import pyarrow

        schema = self.schema
        rows = [_row(value, self.layout) for value in values]
        arrays = []
        for field in schema:
            cells = [_cell(row.get(field.name), field.type) for row in rows]
            arrays.append(pyarrow.array(cells, field.type))
        if self.layout == "jsonl":
            rests = [_rest(row, schema) for row in rows]
            schema = schema.append(pyarrow.field(REST, pyarrow.string()))
            arrays.append(pyarrow.array(rests, pyarrow.string()))
        return pyarrow.RecordBatch.from_arrays(arrays, schema=schema)


def row_file(
    path: Path,
    layout: str,
    texts: Texts,
    known: Collection[str] = (),
    numbered: bool = False,
    say: Say = lambda line: None,
) -> RowFile:
    """Open a file to read its rows in ranges; ``auto`` follows the suffix, without a known suffix a line is a text.

    ``known``, ``numbered`` and ``say`` are those of :func:`adaptdock.engine.data.tables.table`. Raises
    :class:`DataError` for a format that has to be read as a whole.
    """
    usual = FORMATS.get(path.suffix.lower(), "text") if layout == "auto" else layout
    if layout == "auto" and usual != "parquet" and layout_of_content(path, texts, usual) == "fasttext":
        usual = "fasttext"
    if usual == "parquet":
        return ParquetRows(path)
    if usual not in LAYOUTS:
        raise DataError(
            f"{path}: a file of the format {usual} is read as a whole. Many rows are labelled in chunks from "
            f"{', '.join(LAYOUTS)}: convert it, or give --output a file instead of a folder"
        )
    return TextRows(path, usual, texts, known, numbered, say)


# ------------------------------------------------------------------------------- columns of text files


def _parsed(line: str, place: str) -> Any:
    """Return the value of a line of JSON, or its error."""
    try:
        value = parsed(line, place)
        if "\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()
    except DataError as error:
        return error
    except UnicodeEncodeError as error:
        return DataError(f"{place}: not valid Unicode: {error.reason}")
    return value


def _type(values: Iterable[Any]) -> "pyarrow.DataType":
    """Return the type of a column of JSON values: that of most values. Lists and objects are JSON texts."""
    import pyarrow

    counts = Counter(type(value) for value in values if value is not None)
    if float in counts:
        counts[float] += counts.pop(int, 0)
    types = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    return types.get(max(counts, key=lambda kind: counts[kind], default=str), pyarrow.large_string())


def _row(value: Any, layout: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, DataError):
        return {}
    return {"text" if layout == "text" else "": value}


def _fits(value: Any, kind: "pyarrow.DataType") -> bool:
    from pyarrow import types

    if value is None or types.is_large_string(kind):  # JSON
        return True
    if types.is_boolean(kind):
        return isinstance(value, bool)
    if types.is_string(kind):
        return isinstance(value, str)
    numbers = int if types.is_int64(kind) else (int, float)
    return isinstance(value, numbers) and not isinstance(value, bool) and abs(value) < 2**63


def _cell(value: Any, kind: "pyarrow.DataType") -> Any:
    from pyarrow import types

    if not _fits(value, kind):
        return None
    return json_text(value) if types.is_large_string(kind) and value is not None else value


def _rest(row: Mapping[str, Any], schema: "pyarrow.Schema") -> str | None:
    names = set(schema.names)
    rest = {
        name: value for name, value in row.items() if name not in names or not _fits(value, schema.field(name).type)
    }
    return json.dumps(rest, ensure_ascii=False) if rest else None
