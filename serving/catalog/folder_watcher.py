"""The watcher: a new file in a folder is docked, a changed file becomes a new version, a deleted file is unloaded.

The watcher compares sizes and times, which works on every file system. A file is read after two equal looks in
succession, so that a copy in progress is left alone. An unusable file is refused once, until it changes. A link to a
file outside the folder is refused unless links may be followed: whoever may write into the folder could otherwise have
any file of this machine served.
"""

from contextlib import suppress
from pathlib import Path

from adaptdock.errors import AdaptError, BudgetError, FileError, UnknownNameError
from adaptdock.plugins.regular import irregular
from adaptdock.serving.catalog.audit_log import FOLDER, AuditLog
from adaptdock.serving.catalog.catalog import Catalog
from adaptdock.serving.errors import StoreError
from adaptdock.serving.json_logs import log, log_error
from adaptdock.serving.versions import checked_name

SUFFIX = ".safetensors"
Mark = tuple[int, int, int]
"""Size in bytes, modification time in ns, and inode of a file."""


class Watcher:
    """Compares a folder with the catalog at each :meth:`look`. Looks may come from any thread, but not concurrently."""

    def __init__(self, folder: Path, catalog: Catalog, audit: AuditLog, follow_links: bool = False) -> None:
        self._folder, self._catalog, self._audit, self._follow_links = folder, catalog, audit, follow_links
        self.refused: dict[str, str] = {}
        """The reason for each refused file in the folder, by its name without the suffix."""
        self._seen: dict[str, Mark] = {}
        self._settled: dict[str, Mark] = {}
        self._unreadable = False

    def look(self, first: bool = False) -> None:
        """Compare the folder with the catalog. The ``first`` look reads all files at once."""
        marks = self._marks()
        if marks is None:
            return
        for name, mark in marks.items():
            if self._settled.get(name) != mark and (first or self._seen.get(name) == mark):
                self._take(name, mark)
        for name in self._missing(marks, first):
            self._drop(name)
        self._seen = marks

    def _missing(self, marks: dict[str, Mark], first: bool) -> list[str]:
        """Return names whose files are gone for two looks: a file that is being replaced may be gone for a moment."""
        if first:
            return [name for name in self._catalog.of_folder() if name not in marks]
        return [name for name in self._settled if name not in marks and name not in self._seen]

    def file(self, name: str) -> Path:
        """Return the file of an adapter in the folder; raise :class:`FileError` for a link out of the folder."""
        path = self._folder / f"{checked_name(name)}{SUFFIX}"
        if not self._follow_links:
            check_link(path)
        return path

    def _take(self, name: str, mark: Mark) -> None:
        try:
            path = self.file(name)
            with self._catalog.changing():  # another process of a shared state may look at the same file
                if not self._catalog.unchanged(name, path):
                    self._audit.act(FOLDER, "add", [name], lambda: self._catalog.add(name, path, of_folder=True))
            self._accept(name, mark)
        except AdaptError as error:
            log("refused", adapter=name, reason=str(error))
            self.refused[name] = str(error)
            if not isinstance(error, StoreError | BudgetError):  # the next look may have disk space or memory
                self._settled[name] = mark
        except Exception as error:
            log_error("refused", error, adapter=name)
            self.refused[name] = "an unexpected error; the log of the process has the details"
            self._settled[name] = mark

    def _accept(self, name: str, mark: Mark) -> None:
        self._settled[name] = mark
        self.refused.pop(name, None)

    def _drop(self, name: str) -> None:
        self._settled.pop(name, None)
        self.refused.pop(name, None)
        try:
            with suppress(UnknownNameError):  # a file that was never served, or an adapter that is unloaded already
                self._audit.act(FOLDER, "remove", [name], lambda: self._catalog.remove(name, forget_file=True))
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
            status = path.stat()
        except OSError:
            return None  # deleted between iterdir and stat
        if irregular(status.st_mode):
            return 0, 0, status.st_ino  # a mark without size and time: refused once, however it changes
        return status.st_size, status.st_mtime_ns, status.st_ino


def check_link(path: Path) -> None:
    """Raise :class:`FileError` for a link to a regular file outside its folder. No other file can be read anyway."""
    try:
        outside = path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve())
        regular = irregular(path.stat().st_mode) is None
    except (OSError, RuntimeError):  # nothing there, or a loop of links
        return
    if outside and regular:
        raise FileError(
            f"the file of {path.name.removesuffix(SUFFIX)!r}",
            "it is a link to a file outside the folder: put a copy there, or allow such links with --follow-links",
        )
