"""Adapter files: distributions with trained adapters, whose code is never run.

An entry point of the group ``adaptdock.files`` names a folder like a package: ``acme_adapters`` or
``acme_adapters.files`` (also written ``acme_adapters:files``). The folder is found by the records of the distribution;
nothing in it is imported.
"""

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

from adaptdock.errors import PluginError

SUFFIX = ".safetensors"


def folder_of(point: EntryPoint) -> Path:
    """Return the folder that an entry point of adapter files names; raise :class:`PluginError` if there is none."""
    parts = point.value.replace(":", ".").split(".")
    if not all(part.isidentifier() for part in parts):
        raise PluginError(
            f"the entry point {point.name!r} of the group {point.group} names {point.value!r}; it has to name a folder "
            f"like a package, such as acme_adapters.files"
        )
    folders = [folder for folder in _candidates(point, parts) if folder.is_dir()]
    if not folders:
        raise PluginError(f"the entry point {point.name!r} names {point.value!r}, and there is no such folder")
    return folders[0]


def adapter_files(folder: Path) -> list[Path]:
    """Return the adapter files in a folder, sorted by name, without symbolic links."""
    return sorted(file for file in folder.glob(f"*{SUFFIX}") if file.is_file() and not file.is_symlink())


def _candidates(point: EntryPoint, parts: list[str]) -> Iterator[Path]:
    if point.dist is not None:
        yield Path(str(point.dist.locate_file("/".join(parts))))
    spec = find_spec(parts[0])  # of an editable install; finding a top-level package does not run it
    for place in (spec.submodule_search_locations or []) if spec else []:
        yield Path(place).joinpath(*parts[1:])
