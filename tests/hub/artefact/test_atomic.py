"""A folder is there whole or not at all."""

import pytest

from adaptdock.errors import FileError
from adaptdock.hub.artefact.atomic import atomic_folder


def fill(path, text):
    with atomic_folder(path) as place:
        (place / "one").write_text(text)
        (place / "two").write_text(text)


def contents(path):
    return {file.name: file.read_text() for file in path.iterdir()}


def test_a_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a" / "b"
    with atomic_folder(path) as place:
        (place / "one").write_text("1")
        (place / "one").chmod(0o600)
        assert not path.exists()
    assert contents(path) == {"one": "1"}
    assert (path / "one").stat().st_mode & 0o777 == 0o644
    assert path.stat().st_mode & 0o777 == 0o755
    assert [file.name for file in path.parent.iterdir()] == ["b"]


def test_a_folder_that_stood_there_is_replaced_whole(tmp_path):
    fill(tmp_path / "it", "old")
    (tmp_path / "it" / "three").write_text("old")
    fill(tmp_path / "it", "new")
    assert contents(tmp_path / "it") == {"one": "new", "two": "new"}
    assert [file.name for file in tmp_path.iterdir()] == ["it"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_nothing_behind_and_what_was_there_untouched(tmp_path, error):
    def fail(path):
        with atomic_folder(path) as place:
            (place / "one").write_text("half")
            raise error

    fill(tmp_path / "it", "old")
    for name in ("it", "other"):
        with pytest.raises(error):
            fail(tmp_path / name)
    assert contents(tmp_path / "it") == {"one": "old", "two": "old"}
    assert [file.name for file in tmp_path.iterdir()] == ["it"]


def test_when_the_exchange_fails_the_old_folder_stands_again(tmp_path, monkeypatch):
    from pathlib import Path

    fill(tmp_path / "it", "old")
    rename, calls = Path.rename, []

    def fails_at_the_second(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(5, "broken")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_at_the_second)
    with pytest.raises(FileError, match="could not be written: broken"):
        fill(tmp_path / "it", "new")
    assert contents(tmp_path / "it") == {"one": "old", "two": "old"}
    assert [file.name for file in tmp_path.iterdir()] == ["it"]


def test_a_place_where_no_folder_can_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="the folder cannot be made"):
        fill(tmp_path / "file" / "it", "new")
