"""Labelling: the rows of many large files, answered by the adapter that each row names, in parts on the disk.

The work is divided into ranges of rows, a part for each. Shards take the ranges in turn. A range whose part exists is
done; so a run that was killed continues, and every row is in one part.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptdock.engine.data.chunks import RowChunk, RowFile
from adaptdock.engine.inference.parts import Origin, Part, Parts, PartWriter, answer_schema
from adaptdock.engine.inference.row_adapters import Refusal, RowAdapters
from adaptdock.errors import DataError, UsageError


@dataclass(frozen=True)
class LabellingInput:
    """A file to label; ``name`` is its path below the root of all inputs."""

    path: Path
    name: str
    open: Callable[[Path], RowFile]

    def origin(self, settings: Mapping[str, Any]) -> Origin:
        """Return what a part of this file is made of now."""
        status = self.path.stat()
        return Origin(status.st_size, status.st_mtime_ns, settings)


@dataclass(frozen=True)
class LabellingPlan:
    """How the rows are divided, and how their answers are named."""

    settings: Mapping[str, Any]
    part_rows: int
    chunk_rows: int
    adapter_column: str | None = None
    columns: Sequence[str] = ()
    """Columns that the inputs must have."""
    prefix: str = ""
    shard: int = 0
    shards: int = 1
    overwrite: bool = False

    def takes(self, file: int, number: int) -> bool:
        """Return whether this shard has a range, by the numbers of its file and of the range in the file."""
        return (file + number) % self.shards == self.shard


@dataclass
class LabellingCounts:
    """The rows of this run and of the parts that existed before it, and the inputs that could not be read."""

    rows: int = 0
    rejected: int = 0
    earlier: int = 0
    """Rejected rows of earlier parts."""
    parts: int = 0
    skipped: int = 0
    """Parts that existed before."""
    first_reason: str = ""
    unreadable: list[str] = field(default_factory=list)


class Labelling:
    """Labels files into a folder of parts. ``progress`` is called with the counts after each chunk of rows."""

    def __init__(
        self,
        inputs: Sequence[LabellingInput],
        parts: Parts,
        adapters: RowAdapters,
        plan: LabellingPlan,
        progress: Callable[[LabellingCounts], None],
    ) -> None:
        self.inputs, self.parts, self.adapters, self.plan = inputs, parts, adapters, plan
        self.counts, self._progress = LabellingCounts(), progress

    def check(self) -> int:
        """Check the inputs and the existing parts before any row is read, and return the number of rows of the shard.

        Raises :class:`UsageError` for a part that was made of something else, and :class:`DataError` for an input
        without a column that is needed. An input that cannot be opened is reported by :meth:`run`. For several shards
        and for text files the number is an estimate.
        """
        rows = 0.0
        for number, item in enumerate(self.inputs):
            try:
                file = item.open(item.path)
                schema = file.schema
            except DataError:
                continue
            answer_schema(schema, self.plan.prefix)
            if file.rows:
                self._check_columns(item, schema.names)
            rows += self._rows_left(number, item, file)
        return round(rows)

    def run(self) -> LabellingCounts:
        """Write the missing parts; an input that cannot be read any further is left, and the next is read."""
        gc.collect()
        gc.freeze()  # objects of the start live on, and full collections over them took a tenth of the time
        for number, item in enumerate(self.inputs):
            try:
                self._label(number, item)
            except DataError as error:
                self.counts.unreadable.append(str(error))
        return self.counts

    # ------------------------------------------------------------------------------------------ inputs

    def _check_columns(self, item: LabellingInput, names: Sequence[str]) -> None:
        for column in self.plan.columns:
            if column not in names:
                raise DataError(
                    f"{item.path} has no column {column!r}, which the options name. Its columns are "
                    f"{', '.join(names) or 'none'}."
                )

    def _rows_left(self, number: int, item: LabellingInput, file: RowFile) -> float:
        """Return the rows of a file that this shard has to label; refuse or mark what has changed."""
        parts, origin = self.parts.of(item.name), item.origin(self.plan.settings)
        left = 0
        for place, (start, end) in enumerate(file.ranges(self.plan.part_rows)):
            if start >= file.rows:
                break
            if self.plan.takes(number, place) and self._existing(parts, origin, start, end) is None:
                left += min(end, file.rows) - start
        if not self.plan.overwrite:
            for part in parts.values():
                self._refuse_change(part, origin)
        return left

    def _refuse_change(self, part: Part, origin: Origin) -> None:
        difference = origin.differs(part.origin) or self.adapters.changed(part.adapters)
        if difference:
            raise UsageError(
                f"{part.path} exists, and what it was made of is different now: {difference}. --overwrite writes such "
                f"parts again; another --output folder keeps them"
            )

    def _existing(self, parts: Mapping[int, Part], origin: Origin, start: int, end: int) -> Part | None:
        """Return the part of a range if it was made of the same input, options and adapters."""
        part = parts.get(start)
        if part is None or part.end != end:
            return None
        try:
            differs = origin.differs(part.origin) or self.adapters.changed(part.adapters)
        except DataError:
            if self.plan.overwrite:
                return None
            raise
        return None if differs else part

    # ------------------------------------------------------------------------------------------ rows

    def _label(self, number: int, item: LabellingInput) -> None:
        """Write the missing parts of one file, and remove parts that they replace."""
        file, origin = item.open(item.path), item.origin(self.plan.settings)
        parts = self.parts.of(item.name)
        schema, behind = None, file.rows
        for place, (start, end) in enumerate(file.ranges(self.plan.part_rows)):
            if not self.plan.takes(number, place):
                if start >= file.rows and not self._has_row(file, start):
                    behind = start
                    break
                continue
            existing = self._existing(parts, origin, start, end)
            if existing is not None:
                self.counts.skipped += 1
                self.counts.earlier += existing.rejected
                continue
            chunks = file.take(start, end, self.plan.chunk_rows)
            first = next(chunks, None)
            if first is None:
                behind = start
                break
            schema = schema or first.columns.schema
            for part in parts.values():
                if part.start < end and start < part.end:
                    self.parts.remove(part)
            path = self.parts.path(item.name, start, end)
            with self.parts.written(path, str(item.path), schema, self.plan.prefix, origin) as writer:
                for chunk in _chain(first, chunks):
                    self._answer(chunk, writer, item)
                self._check_unchanged(item, origin)
                writer.adapters |= self.adapters.used(writer.adapters)
            self.counts.parts += 1
        for part in parts.values():
            if part.start >= behind and self.plan.overwrite:
                self.parts.remove(part)

    def _has_row(self, file: RowFile, start: int) -> bool:
        """Return whether a text file, whose number of rows is an estimate, has a row at ``start``."""
        return next(file.take(start, start + 1, self.plan.chunk_rows), None) is not None

    def _check_unchanged(self, item: LabellingInput, origin: Origin) -> None:
        difference = item.origin(self.plan.settings).differs(origin)
        if difference:
            raise DataError(f"{item.path}: {difference} this run began; its last part is not written. Run again.")

    def _answer(self, chunk: RowChunk, writer: PartWriter, item: LabellingInput) -> None:
        column = self.plan.adapter_column
        outcomes = self.adapters.predict(chunk, column, str(item.path))
        answered = [number for number, outcome in enumerate(outcomes) if not isinstance(outcome, Refusal)]
        if answered:
            columns = chunk.columns if len(answered) == len(outcomes) else chunk.columns.take(answered)
            writer.write(columns, [outcomes[number].prediction for number in answered])
            writer.adapters.update((outcomes[number].adapter, "") for number in answered)
        rejected = [
            (chunk.start + number, None if chunk.lines is None else chunk.lines[number], outcome.reason)
            for number, outcome in enumerate(outcomes)
            if isinstance(outcome, Refusal)
        ]
        if rejected:
            writer.reject(rejected)
            self.counts.first_reason = (
                self.counts.first_reason or f"row {rejected[0][0]} of {item.path}: {rejected[0][2]}"
            )
        self.counts.rows += len(outcomes)
        self.counts.rejected += len(rejected)
        self._progress(self.counts)


def _chain(first: RowChunk, rest: Iterator[RowChunk]) -> Iterator[RowChunk]:
    yield first
    yield from rest
