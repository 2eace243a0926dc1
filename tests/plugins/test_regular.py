"""Files that are read: regular ones, and nothing that could keep the reader waiting."""

import os
import socket
import threading
from pathlib import Path

import pytest

from adaptdock.plugins.regular import open_regular, read_regular

KINDS = {"fifo": "FIFO", "socket": "socket", "folder": "directory", "device": "device", "link": "FIFO"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    Path("folder").mkdir()
    Path("device").symlink_to("/dev/zero")
    Path("link").symlink_to("fifo")
    return tmp_path


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_a_regular_file_is_refused_without_waiting_for_its_content(folder: Path, name: str) -> None:
    errors: list[OSError] = []

    def read() -> None:
        try:
            read_regular(folder / name)
        except OSError as error:
            errors.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(20)
    assert [error.strerror for error in errors] == [errors[0].strerror]
    assert KINDS[name] in str(errors[0].strerror)
    assert "not a regular file" in str(errors[0].strerror)


def test_a_fifo_that_takes_the_place_of_a_file_while_it_is_opened_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "file"
    file.write_bytes(b"content")
    before = os.open

    def swapped(path: Path, flags: int) -> int:
        file.unlink()
        os.mkfifo(file)
        return before(path, flags)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(OSError, match="FIFO"):
        open_regular(file)


def test_a_regular_file_is_read_through_a_link_too(folder: Path) -> None:
    (folder / "file").write_bytes(b"content")
    (folder / "other").symlink_to("file")
    assert read_regular(folder / "other") == b"content"
    with pytest.raises(FileNotFoundError):
        read_regular(folder / "none")
