"""Data: records of a task from files, folders and hub data sets.

Text formats are read line by line, so that an error can name the line; Parquet, Arrow and the hub
go through the datasets library.
"""

import csv
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptdock.plugins.contracts import Record, Task
from adaptdock.plugins.errors import DataError, UnknownNameError

SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test", "eval")}
FORMATS = {
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".conllu": "conllu",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
HELD_OUT = 0.1
"""Share of the training data that becomes the validation data where none is given."""


@dataclass(frozen=True)
class Source:
    """Where data comes from: a folder or hub name, or a file a split; how it is laid out."""

    data: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        """Return the source in words, for the card."""
        named = [Path(name).name for name in (self.train, self.validation, self.test) if name]
        return self.data or ", ".join(named) or "the sample data of the task"


def load_splits(source: Source, task: type[Task], seed: int = 0) -> tuple[dict[str, list[Record]], list[str]]:
    """Return the records of each split, and notes on what was decided.

    Raises :class:`DataError` naming file and line for whatever cannot be read.
    """
    notes: list[str] = []
    given = {"train": source.train, "validation": source.validation, "test": source.test}
    if any(given.values()):
        splits = {split: read_file(path, task, source) for split, path in given.items() if path}
    elif source.data is None:
        splits = _read_folder(task.sample(), task, source)
    elif Path(source.data).is_dir():
        splits = _read_folder(Path(source.data), task, source)
    elif Path(source.data).exists():
        splits = {"train": read_file(source.data, task, source)}
    else:
        splits = _read_hub(source.data, task, source)
    for split, records in splits.items():
        if not records:
            raise DataError(f"the {split} split is empty")
    if "train" in splits and "validation" not in splits:
        splits |= _hold_out(splits["train"], seed)
        share = f"{len(splits['validation'])} of {len(splits['validation']) + len(splits['train'])}"
        notes.append(f"no validation data given: {share} training records held out for it (seed {seed})")
    return splits, notes


def read_file(path: str | Path, task: type[Task], source: Source) -> list[Record]:
    """Return the records of one file, with the fields that the task reads."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    layout = source.format or FORMATS.get(path.suffix.lower()) or task.layout
    if layout == "conll":
        return list(_read_conll(path, task, source))
    if layout == "conllu":
        return list(_read_conllu(path, task, source))
    if layout == "parquet":
        return _read_parquet(path, task, source)
    readers = {"jsonl": _read_jsonl, "csv": _read_csv}
    if layout not in readers:
        raise UnknownNameError("format", layout, {*FORMATS.values()})
    rows = readers[layout](path)
    return [_fields(row, place, task, source) for row, place in rows]


def _read_folder(folder: Path, task: type[Task], source: Source) -> dict[str, list[Record]]:
    splits = {}
    for split, names in SPLITS.items():
        files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.stem.lower().startswith(names)]
        if len(files) > 1:
            raise DataError(f"{folder}: several files could be {split}: {', '.join(file.name for file in files)}")
        if files:
            splits[split] = read_file(files[0], task, source)
    if "train" not in splits:
        found = ", ".join(sorted(file.name for file in folder.iterdir())[:10]) or "nothing"
        raise DataError(f"{folder}: no file is named train.*; there is {found}. Name the files one by one instead.")
    return splits


def _hold_out(records: list[Record], seed: int) -> dict[str, list[Record]]:
    shuffled = random.Random(seed).sample(records, len(records))
    count = max(1, int(len(records) * HELD_OUT))
    if count >= len(records):
        raise DataError(f"{len(records)} training records are too few to hold any out for validation")
    return {"train": shuffled[count:], "validation": shuffled[:count]}


# ------------------------------------------------------------------------------------------ formats


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}:{number}: not valid UTF-8 ({error.reason} at byte {error.start})") from None
            yield number, line.rstrip("\r\n")


def _sentences(path: Path) -> Iterator[list[tuple[int, list[str]]]]:
    """Yield sentences as lists of (line number, cells); comments and document marks are left out."""
    sentence: list[tuple[int, list[str]]] = []
    width = 0
    for number, line in _lines(path):
        cells = line.split("\t") if "\t" in line else line.split()
        if not line.strip():
            if sentence:
                yield sentence
            sentence = []
        elif cells[0] != "-DOCSTART-" and not _is_comment(line, cells, width):
            width = width or len(cells)
            if len(cells) != width:
                raise DataError(f"{path}:{number}: {len(cells)} columns, where the lines before have {width}: {line!r}")
            sentence.append((number, [cell.strip() for cell in cells]))
    if sentence:
        yield sentence


def _is_comment(line: str, cells: Sequence[str], width: int) -> bool:
    """Tell a comment from a token that begins with #: it has other columns, or is of the form ``# key = value``."""
    if not line.startswith("#") or "\t" in line:
        return False
    return len(cells) == 1 or (line[1:2] == " " and (len(cells) != width or "=" in cells))


def _read_conll(path: Path, task: type[Task], source: Source) -> Iterator[Record]:
    for sentence in _sentences(path):
        first, cells = sentence[0]
        record: Record = {"where": f"{path}:{first}"}
        for name, accepted in task.columns.items():
            wanted = source.columns.get(name) or next((c for c in accepted if c.lstrip("-").isdigit()), "0")
            if not wanted.lstrip("-").isdigit() or not -len(cells) <= int(wanted) < len(cells):
                raise DataError(f"{path}:{first}: no column {wanted!r} for {name}; columns are 0 to {len(cells) - 1}")
            record[name] = [row[int(wanted)] for _, row in sentence]
        if len(cells) < 2 and len(task.columns) > 1:
            raise DataError(f"{path}:{first}: one column only; the task reads {', '.join(task.columns)}")
        yield record


def _read_conllu(path: Path, task: type[Task], source: Source) -> Iterator[Record]:
    for sentence in _sentences(path):
        words = [(number, cells) for number, cells in sentence if cells[0].isdigit()]
        if not words:
            continue
        first = words[0][0]
        if len(words[0][1]) != len(CONLLU):
            raise DataError(f"{path}:{first}: CoNLL-U has {len(CONLLU)} columns, this line {len(words[0][1])}")
        record: Record = {"where": f"{path}:{first}"}
        for name, accepted in task.columns.items():
            known = [column for column in accepted if column.partition(":")[0] in CONLLU]
            wanted = source.columns.get(name) or (known[0] if known else "")
            if wanted.partition(":")[0] not in CONLLU:
                raise UnknownNameError("CoNLL-U column", wanted or name, [*CONLLU, "misc:KEY"])
            record[name] = [_conllu_cell(cells, wanted) for _, cells in words]
        yield record


def _conllu_cell(cells: Sequence[str], wanted: str) -> str:
    column, _, key = wanted.partition(":")
    cell = cells[CONLLU.index(column)]
    if not key:
        return cell
    pairs = dict(pair.partition("=")[::2] for pair in cell.split("|"))
    return pairs.get(key, "O")


def _read_jsonl(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    for number, line in _lines(path):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: a line holds one JSON object, this one a {type(row).__name__}")
            yield row, f"{path}:{number}"


def _read_csv(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    reader = csv.reader(f"{line}\n" for _, line in _lines(path))
    try:
        header = next(reader, None)
        if header is None:
            return
        for row in reader:
            if row and len(row) != len(header):
                raise DataError(f"{path}:{reader.line_num}: {len(row)} columns, the header has {len(header)}")
            if row:
                yield dict(zip(header, row, strict=True)), f"{path}:{reader.line_num}"
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def _read_parquet(path: Path, task: type[Task], source: Source) -> list[Record]:
    import datasets

    try:
        table = datasets.Dataset.from_parquet(str(path))
    except Exception as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error
    return list(_from_dataset(table, str(path), task, source))


def _read_hub(name: str, task: type[Task], source: Source) -> dict[str, list[Record]]:
    import datasets

    identifier, _, configuration = name.partition(":")
    try:
        found = datasets.load_dataset(identifier, configuration or None)
    except Exception as error:  # the library raises many kinds, all of them about this name
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name!r} is no folder or file here, and no data set that the hub gives: {reason}") from error
    splits = {}
    for split, names in SPLITS.items():
        key = next((key for key in found if key in names), None)
        if key is not None:
            splits[split] = list(_from_dataset(found[key], f"{name}[{key}]", task, source))
    if "train" not in splits:
        raise DataError(f"the data set {name!r} has no train split; it has {', '.join(found)}")
    return splits


def _from_dataset(table: Any, name: str, task: type[Task], source: Source) -> Iterator[Record]:
    import datasets

    classes: dict[str, Any] = {}
    for column, feature in table.features.items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, datasets.ClassLabel):
            classes[column] = inner
    for number, row in enumerate(table):
        named = {
            column: _class_names(classes[column], value) if column in classes else value
            for column, value in row.items()
        }
        yield _fields(named, f"{name}:{number}", task, source)


def _class_names(label: Any, value: Any) -> Any:
    return [label.int2str(number) for number in value] if isinstance(value, list) else label.int2str(value)


def _fields(row: Mapping[str, Any], place: str, task: type[Task], source: Source) -> Record:
    record: Record = {"where": place}
    for name, accepted in task.columns.items():
        named = tuple(column for column in accepted if column.isidentifier())  # the others are CoNLL's
        wanted = (source.columns[name],) if name in source.columns else named
        column = next((column for column in wanted if column in row), None)
        if column is None:
            raise DataError(
                f"{place}: no column for {name}: looked for {', '.join(wanted)}, there is {', '.join(row) or 'none'}. "
                f"Say which with --columns {name}=COLUMN."
            )
        record[name] = row[column]
    return record


def parse_columns(pairs: Iterable[str]) -> dict[str, str]:
    """Turn ``tokens=0`` and the like into a mapping; raise :class:`DataError` for anything else."""
    parsed = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not equals or not name or not column:
            raise DataError(f"--columns {pair!r}: write FIELD=COLUMN, such as tokens=0 or tags=ner")
        parsed[name] = column
    return parsed
