"""Tokens that come and go while a process serves."""

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Client, serving

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.http import access_tokens
from adaptdock.serving.http.access_tokens import Tokens, new_token, read_tokens
from adaptdock.serving.http.reloading import HangUp

PATH = "/v1/adapters"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.txt"


@pytest.fixture
def first(file: Path) -> str:
    return new_token(file, "predict", "first")


@pytest.fixture
def client(backbone: Backbone, file: Path, first: str, tmp_path: Path) -> Iterator[Client]:
    with serving(backbone, read_tokens(file), state=str(tmp_path / "state"), tokens=str(file)) as client:
        yield client


def status(client: Client, secret: str) -> int:
    return client.get(PATH, headers={"authorization": f"Bearer {secret}"}).status_code


def test_a_token_counts_from_when_it_is_in_the_file_until_it_is_not(client: Client, file: Path, first: str) -> None:
    assert status(client, first) == 200
    second = new_token(file, "admin", "second")
    assert status(client, second) == 200
    file.write_text("".join(line for line in file.read_text().splitlines(True) if "first" not in line))
    assert (status(client, first), status(client, second)) == (401, 200)
    replaced = file.with_name("new")
    third = new_token(replaced, "predict", "third")
    replaced.replace(file)
    assert (status(client, second), status(client, third)) == (401, 200)


def test_a_change_of_the_same_length_at_the_same_time_is_seen(client: Client, file: Path, first: str) -> None:
    replacement = file.with_name("other")
    second = new_token(replacement, "predict", "other")
    assert status(client, first) == 200
    times = file.stat()
    file.write_text(replacement.read_text())
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (status(client, first), status(client, second)) == (401, 200)


@pytest.mark.parametrize("how", ["gone", "empty", "a folder"])
def test_without_a_file_of_tokens_nobody_is_let_in(
    client: Client, file: Path, first: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "adaptdock.serving")
    content = file.read_text()
    file.unlink()
    if how == "empty":
        file.write_text("\n")
    elif how == "a folder":
        file.mkdir()
    assert [status(client, first) for _ in range(3)] == [401] * 3
    client.refused(401, "a token is needed", method="get", path=PATH)
    assert [record.message for record in caplog.records].count("tokens refused") == 1
    if how == "a folder":
        file.rmdir()
    file.write_text(content)
    assert status(client, first) == 200


def test_a_line_that_is_no_token_changes_nothing_and_is_logged(
    client: Client, file: Path, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "adaptdock.serving")
    content = file.read_text()
    for broken in ("half a", "first root " + "0" * 64, "\udcff"):
        file.write_bytes(content.encode() + broken.encode("utf-8", "surrogateescape"))
        assert status(client, first) == 200
    (line, *rest) = [record.fields for record in caplog.records if record.message == "tokens refused"]  # type: ignore[attr-defined]
    assert "tokens.txt:2: a line of tokens" in line["reason"]
    assert ["scope 'root'" in str(rest[0]), "cannot be read" in str(rest[1])] == [True, True]


def test_a_file_that_has_not_changed_is_not_read_again(file: Path, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(file, (1, 1))
    known = read_tokens(file)
    monkeypatch.setattr(access_tokens, "_tokens_of", lambda path: pytest.fail("it is read"))
    assert known.find(first) is not None


def test_tokens_of_another_user_are_refused_with_who_has_to_make_them(
    file: Path, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)  # root may read every file
    with pytest.raises(DataError, match=rf"only the owner .* runs as {os.geteuid()}\. Make the tokens as that user"):
        read_tokens(file)


def test_a_token_is_added_on_a_line_of_its_own(file: Path, first: str) -> None:
    file.write_text(file.read_text().rstrip("\n"))
    second = new_token(file, "admin")
    known = read_tokens(file)
    assert known.find(first) is not None
    assert known.find(second) is not None


@pytest.fixture
def hang_up() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up")
def test_a_hang_up_reads_the_tokens_and_ends_nothing(file: Path, first: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "adaptdock.serving")
    known = read_tokens(file)
    HangUp(known, ServingOptions(adapters="a"), None).install()
    os.kill(os.getpid(), signal.SIGHUP)
    assert [json.dumps(record.message) for record in caplog.records] == ['"hang-up"', '"tokens read"']
    HangUp(Tokens(), ServingOptions(adapters="a"), None).install()
    os.kill(os.getpid(), signal.SIGHUP)


@pytest.mark.usefixtures("hang_up")
def test_a_hang_up_of_the_terminal_ends_a_process_without_tokens_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[int] = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    HangUp(Tokens(), ServingOptions(adapters="a"), None).install()
    os.kill(os.getpid(), signal.SIGHUP)
    assert raised == [signal.SIGTERM]
