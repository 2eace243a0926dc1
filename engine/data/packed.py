"""Packed data files, which are read as if they were unpacked: gzip, a ZIP archive of one data file, and Excel tables.

An Excel table is read as the CSV that Excel would save of its first sheet.
"""

import csv
import gzip
import io
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import IO, Any

from adaptdock.errors import DataError

GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
WORKBOOK = "xl/workbook.xml"
DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error, zipfile.BadZipFile)
IN_MEMORY = 2**20
"""Bytes of an Excel table, as CSV, from which it is in a temporary file."""


@contextmanager
def opened(path: Path, say: Callable[[str], None] | None = None) -> Iterator[io.BufferedReader]:
    """Open a file for reading, unpacked; ``say`` hears what was chosen of an Excel file.

    Raises :class:`DataError` for a damaged file, for an archive of several data files, and without the library for
    Excel files.
    """
    with path.open("rb") as stream:
        head = stream.read(len(ZIP))
        stream.seek(0)
        try:
            if head.startswith(GZIP):
                with gzip.GzipFile(fileobj=stream) as unpacked:
                    yield io.BufferedReader(unpacked)
            elif head == ZIP:
                with zipfile.ZipFile(stream) as archive, _content(archive, path, say or _nothing) as unpacked:
                    yield io.BufferedReader(unpacked)  # type: ignore[arg-type]
            else:
                yield stream
        except DAMAGED as error:
            raise DataError(f"{path}: it cannot be unpacked, and is damaged or incomplete: {error}") from None


def data_suffix(path: Path) -> str:
    """Return the suffix of a data file in lower case; of a packed file the suffix of its content."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return Path(path.stem).suffix.lower()
    if suffix not in (".zip", ".xlsx", ".xlsm") or not path.is_file():
        return suffix
    try:
        with zipfile.ZipFile(path) as archive:
            return ".csv" if WORKBOOK in archive.namelist() else Path(_member(archive, path)).suffix.lower()
    except (zipfile.BadZipFile, DataError):  # which opened() explains
        return suffix


@contextmanager
def _content(archive: zipfile.ZipFile, path: Path, say: Callable[[str], None]) -> Iterator[IO[bytes]]:
    if WORKBOOK in archive.namelist():
        with _as_csv(path, say) as table:
            yield table
        return
    with archive.open(_member(archive, path)) as member:
        yield member


def _member(archive: zipfile.ZipFile, path: Path) -> str:
    """Return the name of the only data file of an archive."""
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    names = [name for name in names if not Path(name).name.startswith(".")]
    data = [name for name in names if not Path(name).stem.lower().startswith(("readme", "license", "licence"))]
    if len(data) != 1:
        shown = ", ".join(data[:5]) + (", ..." if len(data) > 5 else "")
        raise DataError(
            f"{path}: a ZIP archive with {len(data)} data files ({shown or 'none'}); one is read as it is. Unpack the "
            f"archive, and name a file or the folder"
        )
    return data[0]


@contextmanager
def _as_csv(path: Path, say: Callable[[str], None]) -> Iterator[IO[bytes]]:
    """Open the first sheet of an Excel file as CSV."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise DataError(
            f"{path}: an Excel file needs openpyxl: pip install 'adaptdock[excel]'; or save the table as CSV"
        ) from None
    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except Exception as error:
        raise DataError(f"{path}: an Excel file that cannot be read: {error}. Save the table as CSV") from None
    sheet, others = book.worksheets[0], book.sheetnames[1:]
    if others:
        say(f"{path.name}: the first sheet, {sheet.title!r}, is read, and not {', '.join(map(repr, others))}")
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as table:
        text = io.TextIOWrapper(table, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([_cell(value) for value in row] for row in sheet.iter_rows(values_only=True))
        text.flush()
        text.detach()
        book.close()
        table.seek(0)
        yield table


def _cell(value: Any) -> str:
    """Return a cell as Excel saves it in CSV; a whole number has no fraction."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value)


def _nothing(_: str) -> None:
    """Hear nothing."""
