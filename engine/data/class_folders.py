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
    """The files of each class, and folders without a class; ``whole`` says that each file is one text."""

    files: Mapping[str, list[Path]]
    whole: bool
    unlabelled: tuple[str, ...] = ()

    def rows(self, texts: Texts) -> Iterator[tuple[str, str, str]]:
        """Yield the place, text and class of each record."""
        for name, files in self.files.items():
            for file in files:
                if self.whole:
                    yield str(file), texts.whole(file), name
                    continue
                for number, line in texts.lines(file):
                    if line.strip():
                        yield f"{file}:{number}", line, name

    def notes(self, folder: Path) -> list[str]:
        """Say how the folder is read."""
        unit = "folder per class, a text per file" if self.whole else "file per class, a text per line"
        notes = [f"{folder}: read as a {unit}: {', '.join(self.files)}"]
        if self.unlabelled:
            notes.append(f"{folder}: {', '.join(self.unlabelled)} holds texts without a label, which are not read")
        return notes


def class_records(
    folder: Path, task: type[Task], known: Collection[str], split: str, texts: Texts, notes: list[str]
) -> Sequence[Record]:
    """Return the records of a folder with texts by class, and add how it was read to ``notes``; none of any other."""
    reader: Any = task
    classes = class_folder(folder, known, 2 if split == "train" else 1) if isinstance(reader, ClassLabelled) else None
    if classes is None:
        return []
    notes += classes.notes(folder)
    text, label = task.texts[0], reader.class_field
    return stored({"where": place, text: value, label: name} for place, value, name in classes.rows(texts))


def class_folder(folder: Path, known: Collection[str], fewest: int = 2) -> ClassFolder | None:
    """Return the files of each class of a folder; None where it has fewer than ``fewest`` classes.

    ``known`` are names of fields, which are no classes: ``text.txt`` and ``labels.txt`` belong together line by line.
    """
    parts = sorted(part for part in folder.iterdir() if not part.name.startswith("."))
    folders = {part.name: files for part in parts if part.is_dir() and (files := _texts(part))}
    classes = {name: files for name, files in folders.items() if plain(name) not in UNLABELLED}
    if len(classes) >= fewest:
        return ClassFolder(classes, True, tuple(name for name in folders if name not in classes))
    by_stem = {file.stem: [file] for file in _texts(folder) if plain(file.stem) not in NO_CLASSES}
    is_split = any(name.match(stem.lower()) for stem in by_stem for name in NAMES.values())
    unlabelled = tuple(stem for stem in by_stem if plain(stem) in UNLABELLED)
    labelled = {stem: paths for stem, paths in by_stem.items() if stem not in unlabelled}
    if len(labelled) < fewest or is_split or any(plain(stem) in known for stem in by_stem):
        return None
    return ClassFolder(labelled, False, unlabelled)


def _texts(folder: Path) -> list[Path]:
    return [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.startswith(".") and file.suffix.lower() in TEXTS
    ]
