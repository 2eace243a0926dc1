"""Data: records of a task from files, folders and hub data sets, divided into splits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from adaptdock.engine.data.annotations import AnnotatedFile, annotated_file, has_nested_texts
from adaptdock.engine.data.class_columns import with_labels
from adaptdock.engine.data.class_folders import class_records
from adaptdock.engine.data.columns import Columns, is_number, located, position
from adaptdock.engine.data.confirmation import confirmed_rows
from adaptdock.engine.data.content import layout_of_content
from adaptdock.engine.data.file_fields import in_folder
from adaptdock.engine.data.file_lists import file_list
from adaptdock.engine.data.folders import SPLITS as SPLITS
from adaptdock.engine.data.folders import is_saved, named_splits, saved_splits, split_files, split_folders
from adaptdock.engine.data.formats import CONLLU, FORMATS, json_splits, of_dataset, parallel, parquet, parsed, rows
from adaptdock.engine.data.holdout import hold_out
from adaptdock.engine.data.hub_names import hub_dataset
from adaptdock.engine.data.missing_columns import missing_column
from adaptdock.engine.data.objects import Table
from adaptdock.engine.data.packed import data_suffix
from adaptdock.engine.data.record_ids import repeated_ids
from adaptdock.engine.data.spans.reading import IN_MEMORY, NAMES, Export
from adaptdock.engine.data.tables import Row, header_of, plain
from adaptdock.engine.data.text_files import Texts
from adaptdock.engine.data.word_rows import SENTENCE, reads_words, with_sentences
from adaptdock.errors import DataError, UnknownNameError
from adaptdock.plugins.contracts import Annotatable, Record, Task
from adaptdock.plugins.toolkit.stored import stored

NOT_GIVEN = "no validation data given"
DOCUMENTS = (".txt", ".text", ".md")
TABLES = ("csv", "tsv", "parquet")
ROW_FORMATS = (*TABLES, "json", "jsonl")
"""Formats in whose rows annotation tools write."""
LOOKED_AT = 1000
"""Lines of a tab-separated file by which it is a table or words line by line."""
IDENTIFIERS = (str, int)
COMPARED = 20_000
"""Sentences whose values decide the columns of words and tags."""


@dataclass(frozen=True)
class Input:
    """What a task is asked of a row without labels: the place of the row, and what to say if it cannot be read."""

    value: Any
    place: str
    hint: str = ""


@dataclass(frozen=True)
class Source:
    """Where data comes from: a folder or hub name, or a file a split; how it is laid out.

    A file may be several, divided by commas, that belong together line by line: a field of the task each. A
    :class:`Table` of a Python program can replace a file.
    """

    data: str | Table | None = None
    train: str | Table | None = None
    validation: str | Table | None = None
    test: str | Table | None = None
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str = "utf-8"

    def describe(self) -> str:
        """Return the source in words, for the card."""
        if self.data is not None:
            return self.data.describe() if isinstance(self.data, Table) else self.data
        splits = [name for name in (self.train, self.validation, self.test) if name is not None]
        parts = [part.describe() if isinstance(part, Table) else Path(part).name for part in splits]
        return ", ".join(parts) or "the sample data of the task"


def load_splits(
    source: Source, task: type[Task], seed: int = 0, labeller: Task | None = None
) -> tuple[dict[str, Sequence[Record]], list[str]]:
    """Return the records of each split, and notes on what was decided. Large splits are in temporary files.

    ``labeller`` is the task with its options: the last training example of a label that it knows is never held out.
    Raises :class:`DataError` naming file and line for whatever cannot be read.
    """
    reader = Reader(task, source)
    splits = reader.splits()
    notes = reader.notes()
    for split, records in splits.items():
        notes += repeated_ids(split, records)
    if "train" in splits and "validation" not in splits:
        whole = len(splits["train"])
        parts, lacking = hold_out(splits["train"], seed, task, labeller)
        splits |= parts
        notes.append(
            f"{NOT_GIVEN}: {len(parts['validation'])} of {whole} training records held out for it (seed {seed})"
        )
        notes += lacking
    return splits, notes


@dataclass(frozen=True)
class FileRead:
    """What a file or table was read as: its format, and the column of each field where it has columns."""

    name: str
    format: str
    columns: Mapping[str, str] = field(default_factory=dict)


class Reader:
    """Reads what a source names as records of a task."""

    def __init__(self, task: type[Task], source: Source) -> None:
        self.task, self.source = task, source
        self.texts = Texts(source.encoding)
        self.files: list[FileRead] = []
        """What was read so far, and how."""
        self._notes: list[str] = []
        for name in source.columns:
            joins_words = name == SENTENCE and reads_words(task)
            if name not in task.columns and name not in task.asks and not joins_words:
                raise UnknownNameError("field in --columns", name, self._askable)

    def notes(self) -> list[str]:
        """Return what was decided while reading."""
        return list(dict.fromkeys([*self._notes, *self.texts.notes()]))

    def splits(self) -> dict[str, Sequence[Record]]:
        """Return the records of each split that the source has.

        Raises :class:`DataError` where one is empty, and naming file and line for whatever cannot be read.
        """
        source = self.source
        files = {"train": source.train, "validation": source.validation, "test": source.test}
        if any(part is not None for part in files.values()):
            splits = {split: self.file(part, split) for split, part in files.items() if part is not None}
        elif source.data is None:
            splits = self.folder(self.task.sample)
        elif isinstance(source.data, Table):
            splits = {"train": self.file(source.data)}
        elif Path(source.data).is_dir():
            splits = self.folder(Path(source.data))
        elif Path(source.data).exists() or "," in source.data or file_list(source.data):
            path = Path(source.data)
            parts = json_splits(path, self.texts) if path.is_file() and self.layout(path, "") == "json" else []
            splits = {split: self.file(path, split) for split in parts or ["train"]}
        else:
            splits = self.hub(source.data)
        empty = next((split for split, records in splits.items() if not records), None)
        if empty is not None:
            raise DataError(f"the {empty} split is empty")
        return splits

    def file(self, name: str | Path | Table, split: str = "train") -> Sequence[Record]:
        """Return the records of one file or table, or of several files that belong together line by line.

        Of a JSON document with splits by name, those of ``split``.
        """
        if isinstance(name, Table):
            return self.table(name)
        path = Path(name)
        annotated = self.annotated(path, self.source.format) if self._learns_from_annotations else None
        if annotated is not None:
            self.files.append(FileRead(str(path), f"{annotated.tool.title} ({annotated.tool.name})"))
            return annotated.records(self.task, self._notes.append)
        if path.is_dir():
            records = self._classes(path, split)
            if not records:
                raise DataError(f"{path} is a folder: --data reads one, with a file for each split")
            return records
        several = file_list(str(name))
        if several:
            self._notes.append(f"{name}: {len(several)} files, one after the other: {', '.join(map(str, several))}")
            return stored(chain.from_iterable(self.file(file, split) for file in several))
        if not path.is_file():
            parts = [Path(part.strip()) for part in str(name).split(",")]
            missing = next((part for part in parts if not part.is_file()), None)
            if missing is not None:
                raise DataError(f"{missing}: there is no such file")
            return self._records(self._parallel(parts), self._columns(), str(name), "parallel lines")
        layout = self.layout(path, self.task.layout)
        return self._records(*self._rows(path, layout, self.task.columns, split), str(path), layout)

    def _classes(self, folder: Path, split: str) -> Sequence[Record]:
        """Return the records of a folder that has a file or a folder for each class; none of any other folder."""
        records = class_records(folder, self.task, self._known(self.task.columns), split, self.texts, self._notes)
        if records:
            self.files.append(FileRead(str(folder), "texts by class"))
        return records

    def table(self, table: Table) -> Sequence[Record]:
        """Return the records of a table in memory."""
        if self._learns_from_annotations:
            export = Export(Path(table.name), IN_MEMORY, self.texts, table.numbered, self._named)
            annotated = annotated_file(export, self.source.format if self.source.format in NAMES else None)
            if annotated is not None:
                self.files.append(FileRead(table.name, f"{annotated.tool.title} ({annotated.tool.name})"))
                return annotated.records(self.task, self._notes.append)
        return self._records(table.by_column(), self._columns(), table.name, table.kind)

    @property
    def _learns_from_annotations(self) -> bool:
        return isinstance(self.task, Annotatable) or self.source.format in NAMES

    def annotated(self, path: Path, layout: str | None = None) -> AnnotatedFile | None:
        """Return a file or folder as the export of an annotation tool; None where it is not one.

        ``layout`` is the name of the tool, or the format of the rows; else the content and the suffix tell.
        """
        tool_name = layout if layout in NAMES else None
        if not path.exists() or (layout is not None and tool_name is None and layout not in ROW_FORMATS):
            return None
        usual = FORMATS.get(data_suffix(path), "") if path.is_file() else ""
        rows_as = usual if layout is None or tool_name is not None else layout
        if path.is_file() and rows_as not in TABLES:
            rows_as = layout_of_content(path, self.texts, usual) or rows_as
        export = Export(path, rows_as, self.texts, lambda: self._rows(path, rows_as, self.task.columns)[0], self._named)
        return annotated_file(export, tool_name)

    @property
    def _named(self) -> list[str]:
        return [column for column in self.source.columns.values() if not is_number(column)]

    def input_layout(self, path: Path) -> str:
        """Return how the inputs of a file are read: as the export of a tool that hides its texts, or by its suffix.

        Without a telling suffix each line is an input, ``text``.
        """
        annotated = self.annotated(path)
        if annotated is not None and has_nested_texts(annotated):
            return annotated.tool.name
        return self.suffix_layout(path, "text")

    def unlabelled(self, name: str, task: Task) -> list[Record]:
        """Return what the task reads of each row of a file without labels; its suffix tells the format.

        Without a telling suffix each line is a text. Raises :class:`DataError` naming the place.
        """
        path = Path(name)
        if not path.is_file():
            raise DataError(f"{path}: there is no such file (--unlabelled)")
        records = []
        for item in self.inputs(path, self.suffix_layout(path, "lines")):
            try:
                records.append({**task.read(item.value), "where": item.place})
            except DataError as error:
                raise DataError(f"{item.place}: {error}{item.hint}") from None
        if not records:
            raise DataError(f"{path}: there is no text in it (--unlabelled)")
        return records

    def inputs(self, path: Path, layout: str) -> Iterator[Input]:
        """Yield what a task is asked of each row of a file; labels are left out where they are no field of it.

        A line of JSON may hold what is no object, and is taken as it is.
        """
        annotated = self.annotated(path, layout) if layout in NAMES else None
        if annotated is not None:
            for value, place in annotated.inputs(self.task, self._notes.append):
                yield Input(value, place)
            return
        if layout == "lines":
            self.note_table(path)
        if layout == "jsonl":
            columns = self._columns(self._askable)
            for number, line in self.texts.lines(path):
                if line.strip():
                    yield self.input(parsed(line, f"{path}:{number}"), f"{path}:{number}", columns, path)
            return
        entries, columns = self._rows(path, layout, self._askable)
        for row, place in with_sentences(entries, columns):
            yield self.input(row, place, columns, path)

    def input(self, row: Any, place: str, columns: Columns, path: Path | str = "") -> Input:
        """Return what a task is asked of one row, or of a value that is none.

        Raises :class:`DataError` for a field that a person fills in whose column was named and is not there.
        """
        if not isinstance(row, Mapping):
            return Input(row, place)
        resolved = columns.of(row, place)
        if any(field in self.source.columns for field in self.task.asks):  # a text, not the words that a column 0 holds
            resolved = {
                field: column
                for field, column in resolved.items()
                if field in self.task.asks or field in self.source.columns
            }
        for name in self.task.asks:
            if name in self.source.columns and name not in resolved:
                raise DataError(missing_column(row, place, name, columns))
        values = in_folder({field: row[column] for field, column in resolved.items()}, self.task, path)
        fields = " or ".join(f"--columns {field}=COLUMN" for field in dict.fromkeys([*self.task.asks, *values]))
        number = " (a number where the first line is not a header)" if columns.headed else ""
        hint = f". The columns are {', '.join(row) or 'none'}: say which to read with {fields}{number}"
        return Input(values, place, hint)

    @property
    def _askable(self) -> list[str]:
        """The fields of a record, and those that a person fills in."""
        return list(dict.fromkeys([*self.task.columns, *self.task.asks]))

    def layout(self, path: Path, default: str) -> str:
        """Return the format of a file: the one that was named, that of its suffix, or a default."""
        return self.source.format or self.suffix_layout(path, default)

    def suffix_layout(self, path: Path, default: str) -> str:
        """Return the format that a suffix tells, or a default; words with their tags line by line are CoNLL."""
        layout = self._by_content(path, default)
        if layout != "tsv" or self.task.layout != "conll":
            return layout
        lines = [line for _, line in islice(self.texts.lines(path), LOOKED_AT)]
        first = next((line for line in lines if line.strip()), "")
        if header_of(first, self._known(self._askable)):
            return "tsv"
        words = [line for line in lines if line.strip() and not line.startswith("#")]
        divided = any(not line.strip() for line in lines[:-1])
        if not divided and any(" " in cell.strip() for line in words for cell in line.split("\t")):
            return layout
        self._notes.append(f"{path}: read as CoNLL, a word a line, as it has no header with {self._fields()}")
        return "conll"

    def _by_content(self, path: Path, default: str) -> str:
        """Return the format that a suffix tells, or a default, unless the content is surely JSON or Parquet."""
        usual = FORMATS.get(data_suffix(path), default)
        if usual in ("json", "parquet") or not path.is_file():
            return usual
        layout = layout_of_content(path, self.texts, usual) or usual
        if usual == "text" and layout != "fasttext":  # each line is a text or JSON, as the reader of inputs finds
            return usual
        if layout != usual and usual:
            self._notes.append(f"{path}: read as {layout}, as its content is (--format {usual} reads it as {usual})")
        return layout

    def _known(self, fields: Iterable[str]) -> set[str]:
        """Return the names that a header may have for these fields, in plain form."""
        accepted = [name for field in fields for name in self.task.columns.get(field, (field,))]
        return {plain(name) for name in (*accepted, *self.source.columns.values()) if not is_number(name)}

    def _fields(self) -> str:
        return " or ".join(name for name in self.task.columns if name not in self.task.optional)

    def note_table(self, path: Path) -> None:
        """Say where a file that is read line by line begins like a table."""
        first = next((line for _, line in self.texts.lines(path)), "")
        header = header_of(first, self._known(self._askable))
        if header:
            self._notes.append(
                f"{path}: it is read line by line, but begins like a table with the columns {', '.join(header)}: "
                f"give it the suffix .csv or .tsv if it is one"
            )

    def _columns(
        self, fields: Iterable[str] | None = None, by_values: Mapping[str, str] | None = None, layout: str = ""
    ) -> Columns:
        names = self.task.columns if fields is None else fields
        headed = layout in ("csv", "tsv")
        return Columns(self.task, names, self.source.columns, by_values or {}, self._notes.append, headed)

    def _rows(
        self, path: Path, layout: str, fields: Iterable[str], split: str = "train"
    ) -> tuple[Iterable[Row], Columns]:
        """Return the rows of a file, and where they hold these fields."""
        if layout == "parquet":
            return parquet(path), self._columns(fields)
        requested = self.source.columns.values()
        if layout == "conllu":
            self._check_conllu(requested)
        numbered = any(is_number(column) for column in requested)
        file_rows = rows(path, layout, self.texts, self._notes.append, numbered, self._known(fields), split)
        if layout != "conll":
            return file_rows, self._columns(fields, layout=layout)
        sentences = stored(file_rows)
        columns = self._columns(fields, located(self.task, (row for row, _ in sentences[:COMPARED])))
        if sentences:
            self._note_numbers(path, sentences[0], columns)
        return sentences, columns

    def _note_numbers(self, path: Path, sentence: Row, columns: Columns) -> None:
        """Say which columns of a file without a header are read, where there was a choice."""
        row, place = sentence
        width = sum(not name.startswith("-") for name in row)
        in_use = columns.of(row, place)
        usual = in_use | self._columns(columns.fields).of(row, place)
        if width > 2 or any(position(in_use[field], width) != position(usual[field], width) for field in in_use):
            listing = ", ".join(f"{field} from column {position(column, width)}" for field, column in in_use.items())
            self._notes.append(f"{path}: {width} columns, of which the first is 0: {listing} (--columns names others)")

    def folder(self, folder: Path) -> dict[str, Sequence[Record]]:
        """Return the records of the splits that a folder's files are named after, or that it was saved with.

        Where the task reads whole documents, a folder without such names is training data as a whole.
        """
        if is_saved(folder):
            return self._tables(saved_splits(folder), str(folder))
        if self.annotated(folder) is not None:
            return {"train": self.file(folder)}
        parts = split_folders(folder)
        if "train" in parts and all(self.annotated(part) is not None for part in parts.values()):
            return {split: self.file(part) for split, part in parts.items()}
        splits = {split: records for split, part in parts.items() if (records := self._classes(part, split))}
        if "train" in splits:
            return splits
        splits = {
            split: stored(chain.from_iterable(map(self.file, files))) for split, files in split_files(folder).items()
        }
        files = [file for file in sorted(folder.iterdir()) if file.is_file()]
        if not splits and self.task.layout == "document":
            texts = (self.file(file) for file in files if file.suffix.lower() in DOCUMENTS)
            documents = stored(chain.from_iterable(texts))
            splits |= {"train": documents} if documents else {}
        if not splits and (records := self._classes(folder, "train")):
            splits["train"] = records
        if "train" not in splits:
            listing = ", ".join(file.name for file in files[:10]) or "nothing"
            raise DataError(
                f"{folder}: no file is named train.*; there is {listing}. Name the files one by one instead "
                f"(--train FILE)."
            )
        return splits

    def hub(self, name: str) -> dict[str, Sequence[Record]]:
        """Return the records of a hub data set's splits."""
        return self._tables(named_splits(hub_dataset(name), name), name)

    def _tables(self, splits: Iterable[tuple[str, Any]], name: str) -> dict[str, Sequence[Record]]:
        """Return the records of the data sets of a library, one a split."""
        tables = {split: (of_dataset(table, f"{name}[{split}]"), f"{name}[{split}]") for split, table in splits}
        return {
            split: self._records(table, self._columns(), place, "data set") for split, (table, place) in tables.items()
        }

    def _parallel(self, paths: list[Path]) -> Iterable[Row]:
        fields = [name for name in self.task.columns if name not in self.task.optional]
        if len(paths) != len(fields):
            raise DataError(
                f"{len(paths)} parallel files ({', '.join(map(str, paths))}): the task reads {len(fields)}, for "
                f"{' and '.join(fields)}"
            )
        accepted = [self.source.columns.get(name, self.task.columns[name][0]) for name in fields]
        return parallel(paths, accepted, self.texts)

    def _records(self, entries: Iterable[Row], columns: Columns, name: str, layout: str) -> Sequence[Record]:
        return stored(self._each_record(entries, columns, name, layout))

    def _each_record(self, entries: Iterable[Row], columns: Columns, name: str, layout: str) -> Iterator[Record]:
        rows_with_labels = with_labels(confirmed_rows(entries, columns.say), columns)
        for number, (row, place) in enumerate(with_sentences(rows_with_labels, columns)):
            record = in_folder(self._record(row, place, columns), self.task, name)
            if not number:
                self.files.append(FileRead(name, layout, columns.read_from(row, place)))
            yield record

    def _record(self, row: Mapping[str, Any], place: str, columns: Columns) -> Record:
        record: Record = {"where": place}
        resolved = columns.of(row, place)
        for name in self.task.columns:
            if name in resolved:
                record[name] = row[resolved[name]]
            elif name in self.source.columns or name not in self.task.optional:
                raise DataError(missing_column(row, place, name, columns))
        if "id" not in record and isinstance(row.get("id"), IDENTIFIERS):  # CoNLL-U numbers its words
            record["id"] = row["id"]
        if len(record) > 2 and len(row) == 2 and set(row) == {"0", "-1"}:  # the first column is the last
            raise DataError(
                f"{place}: one column only; the task reads {', '.join(self.task.columns)}. Columns are divided by tabs "
                f"or spaces."
            )
        return record

    @staticmethod
    def _check_conllu(requested: Iterable[str]) -> None:
        for column in requested:
            if column.partition(":")[0] not in CONLLU:
                raise UnknownNameError("CoNLL-U column", column, [*CONLLU, "misc:KEY"])


def parse_columns(pairs: Iterable[str]) -> dict[str, str]:
    """Turn ``tokens=0`` and the like into a mapping; raise :class:`DataError` for anything else."""
    parsed = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not equals or not name or not column:
            raise DataError(f"--columns {pair!r}: write FIELD=COLUMN, such as tokens=0 or tags=ner")
        parsed[name] = column
    return parsed
