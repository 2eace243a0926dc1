"""The watcher: what appears, changes or goes in a folder is docked, replaced or undocked.

It looks at sizes and times, which works on every file system. A file is read when two looks in succession saw it
unchanged, so that one that is being copied is left alone; one that cannot be used is refused once, until it changes.
"""

from pathlib import Path

from adaptdock.errors import AdaptError, BudgetError, UnknownNameError
from adaptdock.plugins.regular import irregular
from adaptdock.serving.catalog.catalog import Catalog
from adaptdock.serving.errors import StoreError
from adaptdock.serving.json_logs import log, log_error
from adaptdock.serving.versions import checked_name

SUFFIX = ".safetensors"
Mark = tuple[int, int, int]
"""Size, time of the last change, and number of a file."""


class Watcher:
    """Looks at a folder when it is told to; one look at a time, by any thread."""

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self._folder, self._catalog = folder, catalog
        self._seen: dict[str, Mark] = {}
        self._settled: dict[str, Mark] = {}
        self._unreadable = False

    def look(self, first: bool = False) -> None:
        """Compare the folder with what is served; at the ``first`` look files are read at once."""
        found = self._marks()
        if found is None:
            return
        for name, mark in found.items():
            if self._settled.get(name) != mark and (first or self._seen.get(name) == mark):
                self._take(name, mark)
        for name in self._missing(found, first):
            self._drop(name)
        self._seen = found

    def _missing(self, found: dict[str, Mark], first: bool) -> list[str]:
        """Return names whose files were gone at the last look too: one that is replaced may be gone for a moment."""
        if first:
            return [name for name in self._catalog.of_folder() if name not in found]
        return [name for name in self._settled if name not in found and name not in self._seen]

    def file(self, name: str) -> Path:
        """Return the file of an adapter in the folder."""
        return self._folder / f"{checked_name(name)}{SUFFIX}"

    def _take(self, name: str, mark: Mark) -> None:
        try:
            path = self.file(name)
            if self._catalog.unchanged(name, path):
                self._settled[name] = mark
                return
            self._catalog.add(name, path, of_folder=True)
            self._settled[name] = mark
        except AdaptError as error:
            log("refused", adapter=name, reason=str(error))
            if not isinstance(error, StoreError | BudgetError):  # those may find room at the next look
                self._settled[name] = mark
        except Exception as error:
            log_error("refused", error, adapter=name)
            self._settled[name] = mark

    def _drop(self, name: str) -> None:
        self._settled.pop(name, None)
        try:
            self._catalog.remove(name, forget_file=True)
        except UnknownNameError:
            return  # it never was served, or is unloaded already
        except AdaptError as error:
            log("not removed", adapter=name, reason=str(error))

    def _marks(self) -> dict[str, Mark] | None:
        try:
            paths = [path for path in self._folder.iterdir() if path.suffix == SUFFIX and not path.name.startswith(".")]
        except OSError as error:
            if not self._unreadable:
                log("folder unreadable", folder=str(self._folder), reason=error.strerror or str(error))
            self._unreadable = True
            return None
        self._unreadable = False
        marks = {path.name.removesuffix(SUFFIX): self._marks_of(path) for path in paths}
        return {name: mark for name, mark in marks.items() if mark is not None}

    def _marks_of(self, path: Path) -> Mark | None:
        try:
            found = path.stat()
        except OSError:
            return None  # gone between two calls
        if irregular(found.st_mode):
            return 0, 0, found.st_ino  # refused once, whatever is done to it
        return found.st_size, found.st_mtime_ns, found.st_ino
