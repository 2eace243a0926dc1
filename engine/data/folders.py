"""Folders of data: the files of each split, shards of Parquet, and folders that the datasets library saved."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptdock.errors import DataError

SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test", "eval")}
NAMES = {
    "train": re.compile(r"train(ing)?(set|data)?(?![a-z])"),
    "validation": re.compile(r"(valid(ation)?|val|dev(el|elopment)?)(set|data)?(?![a-z])"),
    "test": re.compile(r"(test(ing)?|eval(uation)?)(set|data)?(?![a-z])"),
}
"""How the name of a split's file begins: as a word, so that values.csv is not validation data."""
SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)$")
"""How the datasets library names the parts of a split: train-00000-of-00002."""
SAVED_SPLITS, SAVED = "dataset_dict.json", "state.json"
"""What save_to_disk leaves in a folder of splits, and in one of a single data set."""
INNER = "data"
"""The folder with the files of splits in the layout of hub data sets."""


def split_files(folder: Path) -> dict[str, list[Path]]:
    """Return the file of each split, or its shards in order; where a folder has none, those of its folder ``data``.

    Raises :class:`DataError` where several files could be one split, or a shard is missing.
    """
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    splits = {}
    for split, name in NAMES.items():
        candidates = [file for file in files if name.match(file.stem.lower())]
        if not candidates:
            continue
        if len(candidates) > 1 and not all(SHARD.match(file.stem) for file in candidates):
            raise DataError(
                f"{folder}: several files could be {split}: {', '.join(file.name for file in candidates)}. Name the "
                f"files one by one instead (--{split} FILE)."
            )
        splits[split] = _whole(candidates, folder) if SHARD.match(candidates[0].stem) else candidates
    inner = folder / INNER
    return split_files(inner) if not splits and inner.is_dir() else splits


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split that a folder has one for; of several for one split the first."""
    inner = [part for part in sorted(folder.iterdir()) if part.is_dir()]
    matches = {split: [part for part in inner if name.match(part.name.lower())] for split, name in NAMES.items()}
    return {split: parts[0] for split, parts in matches.items() if parts}


def _whole(shards: Sequence[Path], folder: Path) -> list[Path]:
    """Return the shards of a split; raise :class:`DataError` where one of them is missing."""
    parts = [match for shard in shards if (match := SHARD.match(shard.stem))]
    first = parts[0]
    expected = [f"{first[1]}-{number:0{len(first[2])}d}-of-{first[3]}" for number in range(int(first[3]))]
    stems = [shard.stem for shard in shards]
    missing = [name for name in expected if name not in stems]
    if missing or len(stems) != len(expected):
        reason = f"{missing[0]}{shards[0].suffix} is missing" if missing else "they are of more than one set"
        raise DataError(f"{folder}: {', '.join(shard.name for shard in shards)} are parts of a split, but {reason}")
    return list(shards)


def is_saved(folder: Path) -> bool:
    """Tell a folder that the datasets library saved (``save_to_disk``)."""
    return (folder / SAVED_SPLITS).is_file() or (folder / SAVED).is_file()


def saved_splits(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the splits of a folder that the datasets library saved; a single data set is training data."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library raises many kinds, all of them about this folder
        raise DataError(f"{folder}: a folder of the datasets library that cannot be read: {error}") from error
    if not isinstance(loaded, Mapping):
        loaded = {"train": loaded}
    yield from named_splits(loaded, str(folder))


def named_splits(tables: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """Yield the splits of a data set under the names they have here; raise :class:`DataError` without training data."""
    splits = {}
    for split, names in SPLITS.items():
        key = next((key for key in tables if key in names), None)
        if key is not None:
            splits[split] = tables[key]
    if "train" not in splits:
        raise DataError(f"the data set {name!r} has no train split; it has {', '.join(tables)}")
    yield from splits.items()
