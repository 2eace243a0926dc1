"""A slow disk: a folder shown at another place through FUSE, where every operation waits.

    PYTHONPATH=LIB FUSE_LIBRARY_PATH=libfuse.so.2 python benchmarks/slow_folder.py FOLDER PLACE

needs ``pip install --target LIB mfusepy`` and libfuse 2; runs until ``umount PLACE``.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mfusepy

SECONDS, SYNC_SECONDS = 0.02, 0.3
"""Wait of an operation, and of a write that has to reach the disk."""


class SlowFolder(mfusepy.Operations):
    """The operations of a folder, each after a wait."""

    use_ns = True

    def __init__(self, folder: Path, seconds: float, sync_seconds: float) -> None:
        self._folder, self._seconds, self._sync_seconds = folder, seconds, sync_seconds

    def _path(self, path: str) -> Path:
        return self._folder / path.lstrip("/")

    def _slow(self, call: Callable[..., Any], *arguments: Any, seconds: float | None = None) -> Any:
        time.sleep(self._seconds if seconds is None else seconds)
        return call(*arguments)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        status = self._slow(os.lstat, self._path(path))
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_ino", "st_blocks")
        times = {name: getattr(status, f"{name}_ns") for name in ("st_atime", "st_mtime", "st_ctime")}
        return {name: getattr(status, name) for name in names} | times

    def readdir(self, path: str, fh: int) -> Iterator[str]:
        return iter([".", "..", *self._slow(os.listdir, self._path(path))])

    def open(self, path: str, flags: int) -> int:
        return self._slow(os.open, self._path(path), flags)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return self._slow(os.open, self._path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return self._slow(os.pread, fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return self._slow(os.pwrite, fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        self._slow(os.truncate, self._path(path), length)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        self._slow(os.fsync, fh, seconds=self._sync_seconds)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def mkdir(self, path: str, mode: int) -> None:
        self._slow(os.mkdir, self._path(path), mode)

    def rmdir(self, path: str) -> None:
        self._slow(os.rmdir, self._path(path))

    def unlink(self, path: str) -> None:
        self._slow(os.unlink, self._path(path))

    def rename(self, old: str, new: str) -> None:
        self._slow(os.replace, self._path(old), self._path(new))

    def chmod(self, path: str, mode: int) -> None:
        self._slow(os.chmod, self._path(path), mode)

    def utimens(self, path: str, times: Sequence[int] | None = None) -> None:
        self._slow(lambda: os.utime(self._path(path), ns=None if times is None else (times[0], times[1])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("place", type=Path)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--sync-seconds", type=float, default=SYNC_SECONDS)
    arguments = parser.parse_args()
    slow = SlowFolder(arguments.folder.resolve(), arguments.seconds, arguments.sync_seconds)
    mfusepy.FUSE(slow, str(arguments.place), foreground=True)


if __name__ == "__main__":
    main()
