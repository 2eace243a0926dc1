"""Text files: lines with their numbers, in the encoding that was named or that a byte order mark tells."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

from adaptdock.engine.data.packed import opened
from adaptdock.errors import DataError

AUTO = "auto"
LEGACY = "cp1252"
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark is the first half of it
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
BINARY = {
    b"PK\x03\x04": "a ZIP archive in another one: unpack it",
    b"\x1f\x8b": "compressed twice by gzip: unpack it",
    b"PAR1": "a Parquet file: read it with --format parquet",
}
LOOKED_AT = 4096
"""Bytes at the start of a file that are searched for NUL bytes."""


class Texts:
    """Opens text files in one encoding; with ``auto``, lines that are not UTF-8 are Windows-1252, and counted.

    A byte order mark wins over the encoding that was named.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        self.encoding = encoding
        self.legacy: list[str] = []
        self.marked: list[str] = []
        try:
            "".encode("utf-8" if encoding == AUTO else encoding)
        except LookupError:
            raise DataError(f"--encoding {encoding!r}: there is no such encoding; use utf-8, latin-1 or auto") from None

    def lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """Yield the lines of a file with their numbers; raise :class:`DataError` where one cannot be decoded."""
        for number, line in self.lines_or_errors(path):
            if isinstance(line, DataError):
                raise line
            yield number, line

    def lines_or_errors(self, path: Path) -> Iterator[tuple[int, str | DataError]]:
        """Yield the lines of a file with their numbers, and an error in place of a line that cannot be decoded.

        Raises :class:`DataError` where the rest of the file cannot be divided into lines.
        """
        with opened(path, self.marked.append) as stream:
            encoding = self._encoding(stream, path)
            if "\n".encode(encoding) != b"\n":
                yield from self._wide(stream, encoding, path)
                return
            for number, raw in enumerate(stream, 1):
                try:
                    line: str | DataError = raw.decode(encoding).rstrip("\r\n")
                except UnicodeDecodeError as error:
                    line = self._legacy_line(raw, error, encoding, f"{path}:{number}")
                yield number, line

    def whole(self, path: Path) -> str:
        """Return a file as one text, its line breaks as they are; raise :class:`DataError` if it cannot be decoded."""
        with opened(path, self.marked.append) as stream:
            encoding = self._encoding(stream, path)
            content = stream.read()
            try:
                return content.decode(encoding)
            except UnicodeDecodeError as error:
                return self._legacy_text(content, error, encoding, str(path))

    def notes(self) -> list[str]:
        """Return what was found out: byte order marks, and how many lines were not UTF-8."""
        notes = list(dict.fromkeys(self.marked))
        legacy = list(dict.fromkeys(self.legacy))  # a file may be looked at before it is read
        if legacy:
            files = len({place.rpartition(":")[0] for place in legacy})
            some = ", ".join(legacy[:5]) + (", ..." if len(legacy) > 5 else "")
            notes.append(f"{len(legacy)} lines in {files} files are not UTF-8 and were read as Windows-1252: {some}")
        return notes

    def _encoding(self, stream: io.BufferedReader, path: Path) -> str:
        """Return the encoding of a file, and skip its byte order mark."""
        head = stream.peek(LOOKED_AT)[:LOOKED_AT]
        binary = next((kind for magic, kind in BINARY.items() if head.startswith(magic)), None)
        if binary:
            raise DataError(f"{path}: not a text file but {binary}")
        encoding = "utf-8" if self.encoding == AUTO else codecs.lookup(self.encoding).name
        mark = next((mark for mark in MARKS if head.startswith(mark)), b"")
        if mark:
            stream.read(len(mark))
            if MARKS[mark] == "utf-8":  # some writers put it before lines of another encoding
                return encoding
            if MARKS[mark][:6] != encoding[:6]:
                name = MARKS[mark][:6].upper()
                self.marked.append(f"{path.name}: read as {name}, as its byte order mark says")
            return MARKS[mark]
        if encoding in ("utf-16", "utf-32"):  # without a mark Python takes the byte order of the machine
            return f"{encoding}-{'be' if _first_of_pair_is_nul(head) else 'le'}"
        if b"\0" in head and "\n".encode(encoding) == b"\n":
            raise DataError(f"{path}: {_binary(head)}")
        return encoding

    def _wide(self, stream: io.BufferedReader, encoding: str, path: Path) -> Iterator[tuple[int, str]]:
        """Yield lines of an encoding in which a line break is not the byte that it is in ASCII."""
        number = 0
        try:
            with io.TextIOWrapper(stream, encoding, newline="\n") as wrapped:
                for number, line in enumerate(wrapped, 1):
                    yield number, line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: not valid {encoding.upper()} after line {number} ({error.reason}). --encoding names another, "
                f"such as utf-8"
            ) from None

    def _legacy_line(self, raw: bytes, error: UnicodeDecodeError, encoding: str, place: str) -> str | DataError:
        """Return a line that its encoding cannot decode, or its error."""
        try:
            return self._legacy_text(raw, error, encoding, place).rstrip("\r\n")
        except DataError as refusal:
            return refusal

    def _legacy_text(self, raw: bytes, error: UnicodeDecodeError, encoding: str, place: str) -> str:
        """Return a text as Windows-1252, and count it; raise :class:`DataError` unless the encoding is ``auto``."""
        if self.encoding != AUTO:
            raise DataError(
                f"{place}: not valid {encoding.upper()} ({error.reason} at byte {error.start}). --encoding names "
                f"another, such as latin-1; --encoding auto reads such lines as Windows-1252 and counts them"
            ) from None
        self.legacy.append(place)
        return raw.decode(LEGACY, errors="replace")


def _first_of_pair_is_nul(head: bytes) -> bool:
    """Tell big-endian UTF-16: of Latin letters the first byte of each pair is 0."""
    return head[0::2].count(0) > head[1::2].count(0)


def _binary(head: bytes) -> str:
    """Say what a file with NUL bytes is: UTF-16 where nearly each letter has one, and else not text."""
    pairs = max(1, len(head) // 2)
    share = max(head[0::2].count(0), head[1::2].count(0)) / pairs
    if share < 0.5 or head.count(0) > 0.6 * len(head):
        return "not a text file: it has NUL bytes. If it is a text in an encoding of its own, --encoding names it"
    order = "be" if _first_of_pair_is_nul(head) else "le"
    return f"it has NUL bytes, as UTF-16 without a byte order mark has. Read it with --encoding utf-16-{order}"
