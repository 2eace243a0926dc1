"""Data: records of a task from files, folders and hub data sets, divided into splits."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptdock.engine.formats import CONLLU, FORMATS, Row, Texts, of_dataset, parallel, parquet, rows
from adaptdock.engine.holdout import hold_out
from adaptdock.plugins.contracts import Record, Task
from adaptdock.plugins.errors import DataError, UnknownNameError

SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test", "eval")}
NOT_GIVEN = "no validation data given"
DOCUMENTS = (".txt", ".text", ".md")


@dataclass(frozen=True)
class Source:
    """Where data comes from: a folder or hub name, or a file a split; how it is laid out.

    A file may be several, divided by commas, that belong together line by line: a field of the task each.
    """

    data: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str = "utf-8"

    def describe(self) -> str:
        """Return the source in words, for the card."""
        named = [Path(name).name for name in (self.train, self.validation, self.test) if name]
        return self.data or ", ".join(named) or "the sample data of the task"


def load_splits(
    source: Source, task: type[Task], seed: int = 0, labeller: Task | None = None
) -> tuple[dict[str, list[Record]], list[str]]:
    """Return the records of each split, and notes on what was decided.

    ``labeller`` is the task with its options: the last training example of a label that it knows is never held out.
    Raises :class:`DataError` naming file and line for whatever cannot be read.
    """
    reader = Reader(task, source)
    given = {"train": source.train, "validation": source.validation, "test": source.test}
    if any(given.values()):
        splits = {split: reader.file(path) for split, path in given.items() if path}
    elif source.data is None:
        splits = reader.folder(task.sample())
    elif Path(source.data).is_dir():
        splits = reader.folder(Path(source.data))
    elif Path(source.data).exists() or "," in source.data:
        splits = {"train": reader.file(source.data)}
    else:
        splits = reader.hub(source.data)
    notes = reader.texts.notes()
    for split, records in splits.items():
        if not records:
            raise DataError(f"the {split} split is empty")
        notes += _repeated(split, records)
    if "train" in splits and "validation" not in splits:
        whole = len(splits["train"])
        parts, lacking = hold_out(splits["train"], seed, task, labeller)
        splits |= parts
        notes.append(
            f"{NOT_GIVEN}: {len(parts['validation'])} of {whole} training records held out for it (seed {seed})"
        )
        notes += lacking
    return splits, notes


class Reader:
    """Reads what a source names as records of a task."""

    def __init__(self, task: type[Task], source: Source) -> None:
        self.task, self.source = task, source
        self.texts = Texts(source.encoding)

    def file(self, name: str | Path) -> list[Record]:
        """Return the records of one file, or of several that belong together line by line."""
        path = Path(name)
        if not path.is_file():
            parts = [Path(part.strip()) for part in str(name).split(",")]
            missing = next((part for part in parts if not part.is_file()), None)
            if missing is not None:
                raise DataError(f"{missing}: there is no such file")
            return self._records(self._parallel(parts))
        return self._records(
            self._rows(path, self.source.format or FORMATS.get(path.suffix.lower()) or self.task.layout)
        )

    def unlabelled(self, name: str, task: Task) -> list[Record]:
        """Return what the task reads of each row of a file without labels; its suffix tells the format.

        Without a telling suffix each line is a text. Raises :class:`DataError` naming the place.
        """
        path = Path(name)
        if not path.is_file():
            raise DataError(f"{path}: there is no such file (--unlabelled)")
        records = []
        for row, place in self._rows(path, FORMATS.get(path.suffix.lower(), "lines")):
            columns = {field: self._column(row, field) for field in self.task.columns}
            named = {field: row[column] for field, column in columns.items() if column is not None}
            try:
                records.append({**task.read({**row, **named}), "where": place})
            except DataError as error:
                raise DataError(f"{place}: {error}") from None
        if not records:
            raise DataError(f"{path}: there is no text in it (--unlabelled)")
        return records

    def _rows(self, path: Path, layout: str) -> Iterable[Row]:
        if layout == "parquet":
            return parquet(path)
        wanted = self.source.columns.values()
        if layout == "conllu":
            self._check_conllu(wanted)
        return rows(path, layout, self.texts, numbered=any(_is_number(column) for column in wanted))

    def _column(self, row: Mapping[str, Any], field: str) -> str | None:
        """Return the column of a row that holds a field of the task, or None."""
        wanted = (self.source.columns[field],) if field in self.source.columns else self.task.columns[field]
        return next((column for column in wanted if column in row), None)

    def folder(self, folder: Path) -> dict[str, list[Record]]:
        """Return the records of the splits that a folder's files are named after.

        Where the task reads whole documents, a folder without such names is training data as a whole.
        """
        splits = {}
        files = [file for file in sorted(folder.iterdir()) if file.is_file()]
        for split, names in SPLITS.items():
            mine = [file for file in files if file.stem.lower().startswith(names)]
            if len(mine) > 1:
                raise DataError(f"{folder}: several files could be {split}: {', '.join(file.name for file in mine)}")
            if mine:
                splits[split] = self.file(mine[0])
        documents = [file for file in files if file.suffix.lower() in DOCUMENTS]
        if "train" not in splits and not splits and self.task.layout == "document" and documents:
            splits["train"] = [record for file in documents for record in self.file(file)]
        if "train" not in splits:
            found = ", ".join(file.name for file in files[:10]) or "nothing"
            raise DataError(f"{folder}: no file is named train.*; there is {found}. Name the files one by one instead.")
        return splits

    def hub(self, name: str) -> dict[str, list[Record]]:
        """Return the records of a hub data set's splits."""
        import datasets

        identifier, _, configuration = name.partition(":")
        try:
            found = datasets.load_dataset(identifier, configuration or None)
        except Exception as error:  # the library raises many kinds, all of them about this name
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"{name!r} is no folder or file here, and no data set that the hub gives: {reason}"
            ) from error
        splits = {}
        for split, names in SPLITS.items():
            key = next((key for key in found if key in names), None)
            if key is not None:
                splits[split] = self._records(of_dataset(found[key], f"{name}[{key}]"))
        if "train" not in splits:
            raise DataError(f"the data set {name!r} has no train split; it has {', '.join(found)}")
        return splits

    def _parallel(self, paths: list[Path]) -> Iterable[Row]:
        fields = [name for name in self.task.columns if name not in self.task.optional]
        if len(paths) != len(fields):
            raise DataError(
                f"{len(paths)} parallel files ({', '.join(map(str, paths))}): the task reads {len(fields)}, for "
                f"{' and '.join(fields)}"
            )
        accepted = [self.source.columns.get(name, self.task.columns[name][0]) for name in fields]
        return parallel(paths, accepted, self.texts)

    def _records(self, found: Iterable[Row]) -> list[Record]:
        return [self._record(row, place) for row, place in found]

    def _record(self, row: Mapping[str, Any], place: str) -> Record:
        record: Record = {"where": place}
        for name, accepted in self.task.columns.items():
            column = self._column(row, name)
            if column is not None:
                record[name] = row[column]
            elif name in self.source.columns or name not in self.task.optional:
                wanted = (self.source.columns[name],) if name in self.source.columns else accepted
                raise DataError(self._lacking(row, place, name, wanted))
        if "id" not in record and isinstance(row.get("id"), str | int):  # CoNLL-U numbers its words
            record["id"] = row["id"]
        if len(record) > 2 and set(row) == {"0", "-1"}:  # the first column is the last
            raise DataError(f"{place}: one column only; the task reads {', '.join(self.task.columns)}")
        return record

    def _lacking(self, row: Mapping[str, Any], place: str, name: str, wanted: Iterable[str]) -> str:
        numbers = [int(column) for column in row if _is_number(column)]
        if numbers:
            there = f"columns are 0 to {max(numbers)}"
            asked = self.source.columns.get(name)
            return f"{place}: no column {asked or 'known'!r} for {name}; {there}. Say which with --columns {name}=0."
        named = ", ".join(column for column in wanted if not _is_number(column))
        return (
            f"{place}: no column for {name}: looked for {named}, there is {', '.join(row) or 'none'}. "
            f"Say which with --columns {name}=COLUMN."
        )

    @staticmethod
    def _check_conllu(wanted: Iterable[str]) -> None:
        for column in wanted:
            if column.partition(":")[0] not in CONLLU:
                raise UnknownNameError("CoNLL-U column", column, [*CONLLU, "misc:KEY"])


def _is_number(column: str) -> bool:
    return column.lstrip("-").isdigit()


def _repeated(split: str, records: Iterable[Record]) -> list[str]:
    """Say which ids stand at more than one record of a split; all of them are kept."""
    counts = Counter(str(record["id"]) for record in records if record.get("id") is not None)
    twice = [name for name, count in counts.items() if count > 1]
    if not twice:
        return []
    places = [str(record["where"]) for record in records if str(record.get("id")) == twice[0]]
    return [f"{split}: {len(twice)} ids occur more than once, such as {twice[0]!r} at {' and '.join(places[:3])}"]


def parse_columns(pairs: Iterable[str]) -> dict[str, str]:
    """Turn ``tokens=0`` and the like into a mapping; raise :class:`DataError` for anything else."""
    parsed = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not equals or not name or not column:
            raise DataError(f"--columns {pair!r}: write FIELD=COLUMN, such as tokens=0 or tags=ner")
        parsed[name] = column
    return parsed
