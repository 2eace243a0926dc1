"""Folders of texts by class: a folder per class with a text per file, or a file per class with a text per line."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptdock.engine.data.folders import NAMES
from adaptdock.engine.data.tables import plain
from adaptdock.engine.data.text_files import Texts
from adaptdock.plugins.contracts import ClassLabelled, Record, Task
from adaptdock.plugins.toolkit.stored import stored

TEXTS = (".txt", ".text", "")
"""Suffixes of texts; the files of 20 newsgroups have none."""
UNLABELLED = frozenset({"unsup", "unsupervised", "unlabelled", "unlabeled"})
NO_CLASSES = frozenset({"readme", "license", "licence", "notice", "changelog"})


@dataclass(frozen=True)
class ClassFolder:
    """The files of each class, and folders without a class.

    ``whole`` says that each file is one text, and ``by_path`` that a record holds its path.
    """

    files: Mapping[str, list[Path]]
    whole: bool
    unlabelled: tuple[str, ...] = ()
    by_path: bool = False

    def rows(self, texts: Texts) -> Iterator[tuple[str, str, str]]:
        """Yield the place, text and class of each record."""
        for name, files in self.files.items():
            for file in files:
                if self.whole:
                    yield str(file), str(file) if self.by_path else texts.whole(file), name
                    continue
                for number, line in texts.lines(file):
                    if line.strip():
                        yield f"{file}:{number}", line, name

    def notes(self, folder: Path) -> list[str]:
        """Say how the folder is read."""
        unit = "file per class, a text per line"
        if self.whole:
            unit = f"folder per class, a {'record' if self.by_path else 'text'} per file"
        notes = [f"{folder}: read as a {unit}: {', '.join(self.files)}"]
        if self.unlabelled:
            notes.append(f"{folder}: {', '.join(self.unlabelled)} holds texts without a label, which are not read")
        return notes


def class_records(
    folder: Path, task: type[Task], known: Collection[str], split: str, texts: Texts, notes: list[str]
) -> Sequence[Record]:
    """Return the records of a folder with texts by class, and add how it was read to ``notes``; none of any other."""
    reader: Any = task
    field, suffixes = next(iter(task.files.items()), ("", ()))
    fewest = 2 if split == "train" else 1
    classes = class_folder(folder, known, fewest, suffixes) if isinstance(reader, ClassLabelled) else None
    if classes is None:
        return []
    notes += classes.notes(folder)
    field, label = field or task.texts[0], reader.class_field
    return stored({"where": place, field: value, label: name} for place, value, name in classes.rows(texts))


def class_folder(
    folder: Path, known: Collection[str], fewest: int = 2, suffixes: Sequence[str] = ()
) -> ClassFolder | None:
    """Return the files of each class of a folder; None where it has fewer than ``fewest`` classes.

    ``known`` are names of fields, which are no classes: ``text.txt`` and ``labels.txt`` belong together line by line.
    With ``suffixes`` each file is a record (an image, a sound), and only a folder per class is one.
    """
    parts = sorted(part for part in folder.iterdir() if not part.name.startswith("."))
    folders = {part.name: files for part in parts if part.is_dir() and (files := _files(part, suffixes or TEXTS))}
    classes = {name: files for name, files in folders.items() if plain(name) not in UNLABELLED}
    if len(classes) >= fewest:
        return ClassFolder(classes, True, tuple(name for name in folders if name not in classes), bool(suffixes))
    if suffixes:
        return None
    by_stem = {file.stem: [file] for file in _files(folder, TEXTS) if plain(file.stem) not in NO_CLASSES}
    is_split = any(name.match(stem.lower()) for stem in by_stem for name in NAMES.values())
    unlabelled = tuple(stem for stem in by_stem if plain(stem) in UNLABELLED)
    labelled = {stem: paths for stem, paths in by_stem.items() if stem not in unlabelled}
    if len(labelled) < fewest or is_split or any(plain(stem) in known for stem in by_stem):
        return None
    return ClassFolder(labelled, False, unlabelled)


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.startswith(".") and file.suffix.lower() in suffixes
    ]
