"""File formats: each reader yields a file's rows, columns by name or number, each with its place.

Text is read line by line, so that an error can name the line. Layouts with words (CoNLL, CoNLL-U)
give a sentence as one row, whose columns are lists.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from adaptdock.engine.data.content import FASTTEXT_LABEL
from adaptdock.engine.data.json_documents import document_rows, split_parts
from adaptdock.engine.data.tables import Row, Say, by_number, table
from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError, UnknownNameError

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
READERS = ("conll", "conllu", "jsonl", "json", "csv", "tsv", "fasttext", "lines", "document", "parquet")
AT_ONCE = 1000
"""Rows of a data set that are converted at a time; one at a time takes several times as long."""
CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
MARK = "-DOCSTART-"
LABELS = re.compile(rf"(?<!\S){FASTTEXT_LABEL}(\S*)\s*")
BLANKS = re.compile(r"[ \t]+")  # no-break spaces are parts of words


def rows(
    path: Path,
    layout: str,
    texts: Texts,
    say: Say,
    numbered: bool = False,
    known: Collection[str] = (),
    split: str = "train",
) -> Iterator[Row]:
    """Yield the rows of a text file; ``say`` hears what was decided on the way.

    Of a table ``numbered`` says that it has no header (columns are 0, 1, ...), and ``known`` are names that a header
    may have; of a JSON document with splits ``split`` is read. Raises :class:`DataError` naming file and line for
    whatever cannot be read.
    """
    if layout in ("csv", "tsv"):
        return table(path, texts, layout, numbered, known, say)
    if layout in ("conll", "conllu"):
        return (_conll if layout == "conll" else _conllu)(path, texts, say)
    if layout == "json":
        return _json(path, texts, split, known, say)
    readers = {"jsonl": _json_lines, "fasttext": _fasttext, "lines": _plain_lines, "document": _document}
    if layout not in readers:
        raise UnknownNameError("format", layout, READERS)
    return readers[layout](path, texts)


def parallel(paths: Sequence[Path], names: Sequence[str], texts: Texts) -> Iterator[Row]:
    """Yield rows of files that belong together line by line, a column each.

    Raises :class:`DataError` where one has more lines than another.
    """
    for number, lines in enumerate(zip_longest(*map(texts.lines, paths)), 1):
        if None in lines:
            sizes = ", ".join(f"{path} has {sum(1 for _ in texts.lines(path))}" for path in paths)
            raise DataError(f"parallel files have a line for each other's lines, but {sizes}")
        yield {name: line for name, (_, line) in zip(names, lines, strict=True)}, f"{paths[0]}:{number}"


# ------------------------------------------------------------------------------------------ words


def _sentences(path: Path, texts: Texts, say: Say) -> Iterator[list[tuple[int, list[str]]]]:
    """Yield sentences as lists of (line number, cells); comments and document marks are left out."""
    width = _width(line for _, line in texts.lines(path))
    sentence: list[tuple[int, list[str]]] = []
    divided = []
    for number, line in texts.lines(path):
        cells = _cells(line)
        if not line.strip():
            if sentence:
                yield sentence
            sentence = []
        elif cells[0] != MARK and not _is_comment(line, cells, width, begins=not sentence):
            if len(cells) != width and len(line.split()) == width:
                cells = line.split()
                divided.append(number)
            if len(cells) != width:
                raise DataError(f"{path}:{number}: {len(cells)} columns, where the lines before have {width}: {line!r}")
            sentence.append((number, cells))
    if sentence:
        yield sentence
    if divided:
        say(f"{path}: {len(divided)} lines have no-break spaces between their columns, such as line {divided[0]}")


def _cells(line: str) -> list[str]:
    """Return the cells of a line; without a tab, spaces divide them."""
    if "\t" in line:
        return [cell.strip() or cell.strip(" ") for cell in line.split("\t")]
    return BLANKS.split(line.strip(" "))


def _width(lines: Iterable[str]) -> int:
    """Return the number of columns: that of the first line which is surely not a comment.

    Where all lines begin with #, it is that of the first one with a longer word, such as #oslo.
    """
    width = of_comments = 0
    for line in lines:
        cells = _cells(line)
        if line.strip() and cells[0] != MARK:
            wide = len(cells) if len(cells) > 1 else len(line.split())
            if not line.startswith("#"):
                return wide
            if cells[0] == "#":
                of_comments = of_comments or wide
            else:
                width = width or wide
    return width or of_comments


def _is_comment(line: str, cells: Sequence[str], width: int, begins: bool) -> bool:
    """Tell a comment from a token that begins with #: it has other columns, or is of the form ``# key = value``.

    Where a sentence ``begins``, it may be written ``# key=value``.
    """
    if not line.startswith("#"):
        return False
    if "\t" in line:
        return len(cells) != width and line[1:2] in (" ", "\t")
    return len(cells) == 1 or (
        line[1:2] == " " and (len(cells) != width or "=" in cells or (begins and "=" in cells[1]))
    )


def _conll(path: Path, texts: Texts, say: Say) -> Iterator[Row]:
    for sentence in _sentences(path, texts, say):
        columns = [list(column) for column in zip(*(cells for _, cells in sentence), strict=True)]
        yield by_number(columns), f"{path}:{sentence[0][0]}"


def _conllu(path: Path, texts: Texts, say: Say) -> Iterator[Row]:
    """Yield the words of sentences; multiword tokens (3-4) and empty nodes (3.1) are no words of the tree."""
    for sentence in _sentences(path, texts, say):
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
    name = str(path)
    for number, line in texts.lines(path):
        if not line or line.isspace():
            continue
        place = f"{name}:{number}"
        row = parsed(line, place)
        if type(row) is dict:
            yield row, place
        elif isinstance(row, list):
            yield by_number(row), place
        else:
            raise DataError(f"{place}: a line holds one JSON object or list, this one a {type(row).__name__}")


def parsed(text: str, place: str, hint: str = "") -> Any:
    """Return the value of a JSON text; raise :class:`DataError` where it is none, or an object has a key twice."""
    try:
        value = DECODER.decode(text)
        if type(value) is dict and (text.count(":") == len(value) or len(KEY_ENDS.findall(text)) == len(value)):
            return value  # one colon a key: so there is one object, and each key once
        return CHECKING_DECODER.decode(text)
    except _RepeatedKeyError as error:
        raise DataError(f"{place}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON: {error}{hint}") from None


class _RepeatedKeyError(Exception):
    """A key that an object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        first = keys.index(twice) + 1
        second = keys.index(twice, first) + 1
        raise _RepeatedKeyError(
            f"an object has the key {twice!r} twice, as number {first} and number {second} of its keys. "
            f"Rename one of them."
        )
    return content


DECODER = json.JSONDecoder()
CHECKING_DECODER = json.JSONDecoder(object_pairs_hook=_object)
"""json.loads with a hook makes a new decoder for each line."""
KEY_ENDS = re.compile(r'"[ \t\r\n]*:')
"""What ends each key of an object; a text can hold it too."""


def _json(path: Path, texts: Texts, split: str, known: Collection[str], say: Say) -> Iterator[Row]:
    """Yield the rows of one document, or of a file that holds lines of JSON those of its lines."""
    lines = [line for _, line in texts.lines(path)]
    if _is_lines(lines):
        yield from _json_lines(path, texts)
        return
    for row, place in document_rows(parsed("\n".join(lines), str(path)), str(path), split, known, say):
        yield from _squad(row, path) if "paragraphs" in row else [(row, place)]


def json_splits(path: Path, texts: Texts) -> list[str]:
    """Return the splits that one document of JSON holds by name."""
    lines = [line for _, line in texts.lines(path)]
    return [] if _is_lines(lines) else list(split_parts(parsed("\n".join(lines), str(path))))


def _is_lines(lines: Sequence[str]) -> bool:
    """Tell JSON lines from one document: there are several lines, and the first is an object by itself."""
    filled = [line for line in lines if line.strip()]
    try:
        return len(filled) != 1 and isinstance(json.loads(filled[0]), dict) if filled else True
    except (ValueError, RecursionError):
        return False


def _squad(article: Mapping[str, Any], path: Path) -> Iterator[Row]:
    """Yield the questions of an article, SQuAD 1.1 or 2.0, in the form that the datasets library gives them."""
    try:
        number = 0
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                number += 1
                answers = question.get("answers") or []
                row = {
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {
                        "text": [answer["text"] for answer in answers],
                        "answer_start": [answer.get("answer_start") for answer in answers],
                    },
                }
                extra = {name: question[name] for name in ("id", "is_impossible") if question.get(name) is not None}
                yield row | extra, f"{path}: {row['title']!r}, question {extra.get('id', number)}"
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not SQuAD's layout: {error!r} in {article.get('title', 'an article')!r}") from None


# -------------------------------------------------------------------------------------------- text


def _fasttext(path: Path, texts: Texts) -> Iterator[Row]:
    """Yield texts with the list of their labels, which are the words of a line that begin with ``__label__``."""
    name = str(path)
    for number, line in texts.lines(path):
        if line.strip():
            yield {"text": LABELS.sub("", line).strip(), "label": LABELS.findall(line)}, f"{name}:{number}"


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
    """Yield the rows of a Parquet file, which are read part by part."""
    import datasets
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path)
        check_columns(file.schema_arrow.names, path)
        has_features = b"huggingface" in (file.schema_arrow.metadata or {})
        features = datasets.Features.from_arrow_schema(file.schema_arrow) if has_features else {}
        if any(map(datasets.features.features.require_decoding, features.values())):  # images, audio
            return of_dataset(datasets.Dataset.from_parquet(str(path)), str(path))
        return _class_names_in(_readable(file, path), features, str(path))
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def _readable(file: Any, path: Path) -> Iterator[Mapping[str, list[Any]]]:
    """Yield batches of columns; raise :class:`DataError` where the file is damaged."""
    try:
        for batch in file.iter_batches(AT_ONCE):
            yield batch.to_pydict()
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> DataError:
    """Return the error of a Parquet file that the library cannot read."""
    return DataError(f"{path}: not a Parquet file that can be read: {first_cause(error)}")


def check_columns(names: Sequence[str], path: Path) -> None:
    """Raise :class:`DataError` where two columns of a Parquet file have one name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        first = names.index(twice) + 1
        second = names.index(twice, first) + 1
        raise DataError(
            f"{path}: two columns are named {twice!r}: column {first} and column {second} (the first is 1). "
            f"Rename one of them."
        )


def first_cause(error: BaseException) -> str:
    """Return what an error of the library came from, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0]


def of_dataset(table: Any, name: str) -> Iterator[Row]:
    """Yield the rows of a data set; numbers of classes become their names.

    Raises :class:`DataError` for a number that is not a class.
    """
    return _class_names_in(table.iter(AT_ONCE), table.features, name)


def _class_names_in(
    batches: Iterable[Mapping[str, Sequence[Any]]], features: Mapping[str, Any], name: str
) -> Iterator[Row]:
    """Yield the rows of batches of columns, with the names of classes in place of their numbers."""
    import datasets

    classes: dict[str, Any] = {}
    for column, feature in features.items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, datasets.ClassLabel):
            classes[column] = inner
    number = 0
    for batch in batches:
        for values in zip(*batch.values(), strict=True):
            place = f"{name}:{number}"
            row = dict(zip(batch, values, strict=True))
            for column, label in classes.items():
                row[column] = _class_names(label, row[column], f"{place}: {column}")
            yield row, place
            number += 1


def _class_names(label: Any, value: Any, place: str) -> Any:
    """Return names of class numbers; one below 0 (-1, -100) has no name and stays a number."""
    if isinstance(value, Iterable):
        return [_class_names(label, number, place) for number in value]
    if value is None or value < 0:
        return value
    if value >= len(label.names):
        raise DataError(f"{place} has the class {value}, but the data set names {len(label.names)} classes, from 0")
    return label.int2str(value)
