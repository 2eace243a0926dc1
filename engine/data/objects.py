"""Data of a Python program: lists of records, data frames and data sets as tables of plain values."""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adaptdock.engine.data.formats import of_dataset
from adaptdock.engine.data.tables import Row, by_number
from adaptdock.errors import DataError, UsageError
from adaptdock.plugins.arguments import refusal

ACCEPTED = (
    "the data are a path, a list or an iterator of dicts, a pandas, polars or pyarrow table, a datasets.Dataset or "
    "DatasetDict, or a dict with one of these for train, validation and test"
)
MISSING = ("NAType", "NaTType")
"""Names of the types of missing values in pandas."""
COLUMNS_SHOWN = 8


@dataclass(frozen=True)
class Table:
    """The rows of a split from a Python program: ``kind`` is the type of the object, ``name`` the place in errors.

    A row is a mapping from columns to plain values, or a list with the text and the annotation of an example.
    """

    name: str
    kind: str
    rows: tuple[Any, ...]

    def numbered(self) -> Iterator[tuple[Any, str]]:
        """Yield each row as it is, with its place."""
        for number, row in enumerate(self.rows):
            yield row, f"{self.name}:{number}"

    def by_column(self) -> Iterator[Row]:
        """Yield each row with its place; the cells of a list have columns by number."""
        for row, place in self.numbered():
            yield row if isinstance(row, Mapping) else by_number(row), place

    def describe(self) -> str:
        """Return kind, number of rows, columns and content hash, for the card."""
        columns = list(
            dict.fromkeys(column for row, _ in self.by_column() for column in row if not column.startswith("-"))
        )
        shown = ", ".join(columns[:COLUMNS_SHOWN]) + (", ..." if len(columns) > COLUMNS_SHOWN else "")
        return f"{self.kind} of {len(self.rows)} rows ({shown}), sha256 {self.fingerprint[:16]}"

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the content; the order of rows changes it, the order of columns does not."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps(row, sort_keys=True, default=str).encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()


def table_of(data: Any, name: str = "data") -> Table:
    """Return the rows of an object; ``name`` precedes their numbers in errors.

    An iterator is read to its end. Raises :class:`UsageError` for an object of another kind, and
    :class:`DataError` for a row or column that cannot be used.
    """
    kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"
    if _is_a(data, "datasets", "Dataset", "IterableDataset"):
        features = getattr(data, "features", None)
        read = (row for row, _ in of_dataset(data.with_format(None), name)) if features else iter(data)
        return _table(read, name, kind)
    if _is_a(data, "pandas", "DataFrame"):
        return _table(_pandas_rows(data, name), name, kind)
    if _is_a(data, "polars", "LazyFrame"):
        return table_of(data.collect(), name)
    if _is_a(data, "polars", "DataFrame"):
        return _table(data.iter_rows(named=True), name, kind)
    if _is_a(data, "pyarrow", "Table"):
        return _table(data.to_pylist(), name, "pyarrow.Table")
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | bytearray | Mapping) or _is_column(data):
        raise UsageError(refusal(data, ACCEPTED))
    return _table(data, name, type(data).__name__)


def _table(rows: Iterable[Any], name: str, kind: str) -> Table:
    return Table(name, kind, tuple(_row(row, f"{name}:{number}") for number, row in enumerate(rows)))


def _row(row: Any, place: str) -> Any:
    if not isinstance(row, Mapping | list | tuple):
        raise DataError(refusal(row, f"{place}: a record is a dict with a value for each column"))
    return _plain(row)


def _pandas_rows(frame: Any, name: str) -> Iterator[Any]:
    columns = list(frame.columns)
    duplicate = next((column for column in columns if columns.count(column) > 1), None)
    if duplicate is not None:
        raise DataError(f"{name}: two columns are named {duplicate!r}. Rename one of them")
    is_numbered = columns == list(range(len(columns)))
    for cells in zip(*(frame[column] for column in columns), strict=True):
        yield list(cells) if is_numbered else dict(zip(columns, cells, strict=True))


def _plain(value: Any) -> Any:
    """Return a value of Python's own types; a missing value becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if type(value).__name__ in MISSING or (isinstance(value, float) and value != value):
        return None
    if hasattr(value, "tolist"):  # numbers and arrays of numpy, tensors of torch
        return _plain(value.tolist())
    return value


def _is_a(value: Any, module: str, *names: str) -> bool:
    """Return whether a value is of a class of a library, without importing the library."""
    library = sys.modules.get(module)
    kinds = tuple(kind for name in names if isinstance(kind := getattr(library, name, None), type))
    return isinstance(value, kinds)


def _is_column(value: Any) -> bool:
    """Return whether a value is a single column or array, whose values are not records."""
    return _is_a(value, "pandas", "Series", "Index") or _is_a(value, "polars", "Series") or hasattr(value, "tolist")
