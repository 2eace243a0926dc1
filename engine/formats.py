"""File formats: each reader yields a file's rows, columns by name or number, each with its place.

Text is read line by line, so that an error can name the line. Layouts with words (CoNLL, CoNLL-U)
give a sentence as one row, whose columns are lists.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptdock.plugins.errors import DataError, UnknownNameError

FORMATS = {
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".conllu": "conllu",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
READERS = ("conll", "conllu", "jsonl", "json", "csv", "tsv", "lines", "document", "parquet")
CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
AUTO = "auto"
LEGACY = "cp1252"

Row = tuple[Mapping[str, Any], str]


class Texts:
    """Opens text files in one encoding; with ``auto``, lines that are not UTF-8 are Windows-1252, and counted."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self.encoding = encoding
        self.legacy: list[str] = []
        try:
            "".encode("utf-8" if encoding == AUTO else encoding)
        except LookupError:
            raise DataError(f"--encoding {encoding!r}: there is no such encoding; use utf-8, latin-1 or auto") from None

    def lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """Yield the lines of a file with their numbers; raise :class:`DataError` where one cannot be decoded."""
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                yield number, self._decoded(raw, f"{path}:{number}", first=number == 1).rstrip("\r\n")

    def notes(self) -> list[str]:
        """Say how many lines were no UTF-8."""
        if not self.legacy:
            return []
        files = len({place.rpartition(":")[0] for place in self.legacy})
        some = ", ".join(self.legacy[:5]) + (", ..." if len(self.legacy) > 5 else "")
        return [f"{len(self.legacy)} lines in {files} files are not UTF-8 and were read as Windows-1252: {some}"]

    def _decoded(self, raw: bytes, place: str, first: bool) -> str:
        encoding = "utf-8" if self.encoding == AUTO else self.encoding
        signed = "utf-8-sig" if first and encoding.replace("_", "-").lower() in ("utf-8", "utf8") else encoding
        try:
            return raw.decode(signed)
        except UnicodeDecodeError as error:
            if self.encoding != AUTO:
                raise DataError(
                    f"{place}: not valid {encoding.upper()} ({error.reason} at byte {error.start}). --encoding names "
                    f"another, such as latin-1; --encoding auto reads such lines as Windows-1252 and counts them"
                ) from None
        self.legacy.append(place)
        return raw.decode(LEGACY, errors="replace")


def rows(path: Path, layout: str, texts: Texts, numbered: bool) -> Iterator[Row]:
    """Yield the rows of a text file. ``numbered`` says that a table has no header: columns are 0, 1, ...

    Raises :class:`DataError` naming file and line for whatever cannot be read.
    """
    if layout in ("csv", "tsv"):
        return _table(path, texts, layout, numbered)
    readers = {
        "conll": _conll,
        "conllu": _conllu,
        "jsonl": _json_lines,
        "json": _json,
        "lines": _plain_lines,
        "document": _document,
    }
    if layout not in readers:
        raise UnknownNameError("format", layout, READERS)
    return readers[layout](path, texts)


def parallel(paths: Sequence[Path], names: Sequence[str], texts: Texts) -> Iterator[Row]:
    """Yield rows of files that belong together line by line, a column each.

    Raises :class:`DataError` where one has more lines than another.
    """
    columns = [[line for _, line in texts.lines(path)] for path in paths]
    if len({len(column) for column in columns}) > 1:
        sizes = ", ".join(f"{path} has {len(column)}" for path, column in zip(paths, columns, strict=True))
        raise DataError(f"parallel files have a line for each other's lines, but {sizes}")
    for number, cells in enumerate(zip(*columns, strict=True), 1):
        yield dict(zip(names, cells, strict=True)), f"{paths[0]}:{number}"


# ------------------------------------------------------------------------------------------ words


def _sentences(path: Path, texts: Texts) -> Iterator[list[tuple[int, list[str]]]]:
    """Yield sentences as lists of (line number, cells); comments and document marks are left out."""
    sentence: list[tuple[int, list[str]]] = []
    width = 0
    for number, line in texts.lines(path):
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


def _conll(path: Path, texts: Texts) -> Iterator[Row]:
    for sentence in _sentences(path, texts):
        columns = [list(column) for column in zip(*(cells for _, cells in sentence), strict=True)]
        yield _by_number(columns), f"{path}:{sentence[0][0]}"


def _by_number(cells: Sequence[Any]) -> dict[str, Any]:
    """Name columns 0, 1, ... and, from the last, -1, -2, ..."""
    counted = {str(number): cell for number, cell in enumerate(cells)}
    return counted | {str(number - len(cells)): cell for number, cell in enumerate(cells)}


def _conllu(path: Path, texts: Texts) -> Iterator[Row]:
    """Yield the words of sentences; multiword tokens (3-4) and empty nodes (3.1) are no words of the tree."""
    for sentence in _sentences(path, texts):
        words = [(number, cells) for number, cells in sentence if cells[0].isdigit()]
        if not words:
            continue
        first, cells = words[0]
        if len(cells) != len(CONLLU):
            raise DataError(f"{path}:{first}: CoNLL-U has {len(CONLLU)} columns, this line {len(cells)}")
        yield _Words([cells for _, cells in words]), f"{path}:{first}"


class _Words(Mapping[str, list[str]]):
    """The columns of a CoNLL-U sentence; ``misc:KEY`` and ``feats:KEY`` are columns too, O where a word has none."""

    def __init__(self, words: Sequence[Sequence[str]]) -> None:
        self.words = words

    def __getitem__(self, name: str) -> list[str]:
        column, _, key = name.partition(":")
        if column not in CONLLU:
            raise KeyError(name)
        cells = [word[CONLLU.index(column)] for word in self.words]
        if not key:
            return cells
        return [dict(pair.partition("=")[::2] for pair in cell.split("|")).get(key, "O") for cell in cells]

    def __iter__(self) -> Iterator[str]:
        return iter(CONLLU)

    def __len__(self) -> int:
        return len(CONLLU)


# ------------------------------------------------------------------------------------------ records


def _json_lines(path: Path, texts: Texts) -> Iterator[Row]:
    for number, line in texts.lines(path):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: a line holds one JSON object, this one a {type(row).__name__}")
            yield row, f"{path}:{number}"


def _json(path: Path, texts: Texts) -> Iterator[Row]:
    """Yield the rows of one document, a list or ``{"data": [...]}``; of anything else, those of its lines."""
    try:
        whole = json.loads("\n".join(line for _, line in texts.lines(path)))
    except ValueError:
        yield from _json_lines(path, texts)
        return
    found = whole.get("data", [whole]) if isinstance(whole, dict) else whole
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise DataError(f"{path}: a JSON document is a list of objects, or has one named 'data'")
    for number, row in enumerate(found):
        yield from _squad(row, path) if "paragraphs" in row else [(row, f"{path}[{number}]")]


def _squad(article: Mapping[str, Any], path: Path) -> Iterator[Row]:
    """Yield the questions of an article, SQuAD 1.1 or 2.0, in the form that the datasets library gives them."""
    try:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = question.get("answers", [])
                row = {
                    "id": question["id"],
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {
                        "text": [answer["text"] for answer in answers],
                        "answer_start": [answer["answer_start"] for answer in answers],
                    },
                }
                yield row, f"{path}: {row['title']!r}, question {question['id']}"
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not SQuAD's layout: {error!r} in {article.get('title', 'an article')!r}") from None


def _table(path: Path, texts: Texts, layout: str, numbered: bool) -> Iterator[Row]:
    lines = (f"{line}\n" for _, line in texts.lines(path))
    reader = csv.reader(lines) if layout == "csv" else csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        header: list[str] | None = None
        for row in filter(None, reader):
            if header is None:
                header = row
                if not numbered:
                    continue
            place = f"{path}:{reader.line_num}"
            if len(row) != len(header):
                first = "first line" if numbered else "header"
                raise DataError(f"{place}: {len(row)} columns, the {first} has {len(header)}")
            yield _by_number(row) if numbered else dict(zip(header, row, strict=True)), place
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from None


# -------------------------------------------------------------------------------------------- text


def _plain_lines(path: Path, texts: Texts) -> Iterator[Row]:
    for number, line in texts.lines(path):
        if line.strip():
            yield {"text": line}, f"{path}:{number}"


def _document(path: Path, texts: Texts) -> Iterator[Row]:
    content = "\n".join(line for _, line in texts.lines(path))
    if content.strip():
        yield {"text": content}, str(path)


# ---------------------------------------------------------------------------------------- data sets


def parquet(path: Path) -> Iterator[Row]:
    """Yield the rows of a Parquet file."""
    import datasets

    try:
        table = datasets.Dataset.from_parquet(str(path))
    except Exception as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error
    return of_dataset(table, str(path))


def of_dataset(table: Any, name: str) -> Iterator[Row]:
    """Yield the rows of a data set; numbers of classes become their names."""
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
        yield named, f"{name}:{number}"


def _class_names(label: Any, value: Any) -> Any:
    """Return names of class numbers; -1 stands for a label that is not given."""
    if isinstance(value, Iterable):
        return [label.int2str(number) for number in value]
    return None if value is None or value < 0 else label.int2str(value)
