"""One process at a time owns a folder; a dead one owns nothing."""

import os
import signal
import threading
from pathlib import Path

import pytest
from owners import owner

from adaptdock.errors import FileError, LockedError
from adaptdock.hub.artefact.locks import NAME, changing, owned
from adaptdock.hub.registry.index import Revocation
from adaptdock.hub.registry.trust import revoke, trusted


def test_a_folder_that_another_process_owns_is_refused_with_its_id_until_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    with owner(folder) as process:
        with pytest.raises(LockedError, match=f"run is in use by the process {process.pid}, ") as caught, owned(folder):
            pass
        assert caught.value.pid == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (folder / NAME).exists()  # and locks nothing
        with owned(folder):
            pass
    assert not (tmp_path / "a" / "run" / NAME).exists()


def test_a_folder_that_stays_empty_goes_with_those_above_that_were_made_for_it(tmp_path: Path) -> None:
    with owned(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with owned(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "result").write_text("1")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["result"]


def test_a_thread_owns_a_folder_twice_and_another_thread_not_at_all(tmp_path: Path) -> None:
    seen: list[BaseException] = []

    def other() -> None:
        try:
            with owned(tmp_path):
                pass
        except LockedError as error:
            seen.append(error)

    with owned(tmp_path):
        with owned(tmp_path / "." / ".." / tmp_path.name):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"in use by the process {os.getpid()}" in str(seen[0])
    other()
    assert len(seen) == 1


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(FileError), owned(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_changes_of_a_file_by_many_threads_are_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTDOCK_HOME", str(tmp_path))
    marks = [f"{number:064x}" for number in range(12)]
    threads = [threading.Thread(target=revoke, args=(Revocation(sha256=mark, reason="old"),)) for mark in marks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {revocation.sha256 for revocation in trusted().revoked} == set(marks)
    assert [path.name for path in tmp_path.iterdir()] == ["trust.json"]


def test_a_change_that_takes_too_long_is_told(tmp_path: Path) -> None:
    with owner(tmp_path), changing(tmp_path / "it", seconds=0):  # the folder and its file are locked apart
        seen: list[BaseException] = []

        def other() -> None:
            try:
                with changing(tmp_path / "it", seconds=0):
                    pass
            except LockedError as error:
                seen.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(seen) == 1
