"""The output of labelling: a folder of Parquet files, each with the answers to a range of rows of an input.

A part is written atomically, and its footer says what it was made of. The files that exist are the state of the
work: a run that was killed continues with the missing ranges. Rejected rows are in files of the same names below a
folder that readers of data sets skip. They are written before the part, so that a part is never without them.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.errors import DataError, UsageError
from adaptdock.hub.artefact.atomic import atomic_file, remove_partial
from adaptdock.plugins.escapes import json_text

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

REJECTED = "_rejected"
KEY = b"adaptdock"
ROWS = re.compile(r"\.(\d{10,})-(\d{10,})\.parquet")
ANSWER, LABEL, SCORE = "answer", "label", "score"


@dataclass(frozen=True)
class Origin:
    """What a part was made of. A part of another origin is not continued."""

    size: int
    mtime_ns: int
    settings: Mapping[str, Any]
    """The options that decide the answers and the ranges."""

    def differs(self, other: "Origin") -> str:
        """Return in words how the origin of a part differs from this one; empty if it does not."""
        if (other.size, other.mtime_ns) != (self.size, self.mtime_ns):
            sizes = f" ({other.size:,} bytes then, {self.size:,} now)" if other.size != self.size else ""
            return f"the input has been changed since{sizes}"
        names = [name for name in {**self.settings, **other.settings} if self._changed(other, name)]
        pairs = [f"{name} was {other.settings.get(name)!r}, and is {self.settings.get(name)!r} now" for name in names]
        return "; ".join(pairs)

    def _changed(self, other: "Origin", name: str) -> bool:
        return bool(self.settings.get(name) != other.settings.get(name))


@dataclass
class Part:
    """The answers to the rows of an input from ``start`` to ``end``, in a file."""

    path: Path
    start: int
    end: int

    @cached_property
    def _footer(self) -> Mapping[str, Any]:
        from pyarrow.parquet import read_metadata

        try:
            return dict(json.loads((read_metadata(self.path).metadata or {})[KEY]))
        except Exception:  # pyarrow raises several kinds
            raise DataError(
                f"{self.path} is not a part that adapt predict wrote: move it away, or name another --output"
            ) from None

    @property
    def origin(self) -> Origin:
        """What the part was made of."""
        return Origin(self._footer["size"], self._footer["mtime_ns"], self._footer["settings"])

    @property
    def adapters(self) -> dict[str, str]:
        """The SHA-256 of each adapter that answered, by its name."""
        return dict(self._footer["adapters"])

    @property
    def rejected(self) -> int:
        """The number of rejected rows."""
        return int(self._footer["rejected"])


@dataclass
class PartWriter:
    """Writes a part and its rejected rows."""

    file: str
    prefix: str
    _answers: "ParquetWriter"
    _open_rejections: "Callable[[], ParquetWriter]"
    _rejections: "ParquetWriter | None" = None
    adapters: dict[str, str] = field(default_factory=dict)
    rejected: int = 0

    def write(self, columns: "pyarrow.RecordBatch", answers: list[Mapping[str, Any]]) -> None:
        """Write answers beside the columns of their rows."""
        import pyarrow

        texts = pyarrow.array([json_text(answer) for answer in answers], pyarrow.string())
        labels = pyarrow.array([_label(answer) for answer in answers], pyarrow.string())
        scores = pyarrow.array([_score(answer) for answer in answers], pyarrow.float64())
        self._answers.write_batch(
            pyarrow.RecordBatch.from_arrays(
                [*columns.columns, texts, labels, scores], schema=answer_schema(columns.schema, self.prefix)
            )
        )

    def reject(self, rows: list[tuple[int, int | None, str]]) -> None:
        """Write the number, the line and the reason of rows that were not answered."""
        import pyarrow

        numbers, lines, reasons = zip(*rows, strict=True)
        self.rejected += len(rows)
        self._rejections = self._rejections or self._open_rejections()
        self._rejections.write_batch(
            pyarrow.RecordBatch.from_arrays(
                [[self.file] * len(rows), pyarrow.array(numbers), pyarrow.array(lines, pyarrow.int64()), reasons],
                schema=_rejected_schema(),
            )
        )


class Parts:
    """The folder of parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, name: str) -> dict[int, Part]:
        """Return the parts of an input, by their first row; ``name`` is its path below the root of all inputs."""
        parent, stem = (self.folder / name).parent, Path(name).name
        parts = {}
        for path in parent.iterdir() if parent.is_dir() else ():
            match = ROWS.fullmatch(path.name.removeprefix(stem)) if path.name.startswith(stem) else None
            if match:
                parts[int(match[1])] = Part(path, int(match[1]), int(match[2]))
        return parts

    def path(self, name: str, start: int, end: int) -> Path:
        """Return the path of a part."""
        return self.folder / f"{name}.{start:010}-{end:010}.parquet"

    def rejected_path(self, part: Path) -> Path:
        """Return the path of the rejected rows of a part."""
        return self.folder / REJECTED / part.relative_to(self.folder)

    def remove(self, part: Part) -> None:
        """Remove a part and its rejected rows."""
        part.path.unlink(missing_ok=True)
        self.rejected_path(part.path).unlink(missing_ok=True)

    @contextmanager
    def written(
        self, path: Path, file: str, schema: "pyarrow.Schema", prefix: str, origin: Origin
    ) -> Iterator[PartWriter]:
        """Yield a writer, whose part is published with its rejected rows when the block ends without an error."""
        from pyarrow.parquet import ParquetWriter

        rejected_path = self.rejected_path(path)
        for leftover in (path, rejected_path):
            remove_partial(leftover)
        rejected_path.unlink(missing_ok=True)
        with atomic_file(path) as stream, ExitStack() as stack:

            def rejections() -> ParquetWriter:
                rejected_stream = stack.enter_context(atomic_file(rejected_path))
                return stack.enter_context(ParquetWriter(rejected_stream, _rejected_schema()))

            with ParquetWriter(stream, answer_schema(schema, prefix)) as answers:
                writer = PartWriter(file, prefix, answers, rejections)
                yield writer
                footer = {"size": origin.size, "mtime_ns": origin.mtime_ns, "settings": dict(origin.settings)}
                footer |= {"adapters": writer.adapters, "rejected": writer.rejected}
                answers.add_key_value_metadata({KEY.decode(): json.dumps(footer)})


def answer_schema(schema: "pyarrow.Schema", prefix: str) -> "pyarrow.Schema":
    """Return the columns of an input with those of its answers.

    Raises :class:`UsageError` where a column of the input has the name of one of them.
    """
    import pyarrow

    for name in (ANSWER, LABEL, SCORE):
        if f"{prefix}{name}" in schema.names:
            raise UsageError(
                f"the input has a column {prefix + name!r}, which is also a column of the answers: give these another "
                f"name with --answer-prefix, such as --answer-prefix predicted_"
            )
        schema = schema.append(
            pyarrow.field(f"{prefix}{name}", pyarrow.float64() if name == SCORE else pyarrow.string())
        )
    return schema


def _rejected_schema() -> "pyarrow.Schema":
    import pyarrow

    text, number = pyarrow.string(), pyarrow.int64()
    return pyarrow.schema({"file": text, "row": number, "line": number, "reason": text})


def _label(answer: Mapping[str, Any]) -> str | None:
    label = answer.get("label")
    return label if isinstance(label, str) else None


def _score(answer: Mapping[str, Any]) -> float | None:
    score = answer.get("score")
    return float(score) if isinstance(score, int | float) else None
