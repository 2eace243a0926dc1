"""The state of a serving process: of one process at a time, and read with suspicion."""

import hashlib
import json
import logging
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from served import TEXT, Client, labelled, serving, until

from adaptdock.errors import LockedError
from adaptdock.hub.artefact.file import write_file
from adaptdock.hub.registry.index import Revocation
from adaptdock.hub.registry.trust import revoke
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.catalog.version_store import Store
from adaptdock.serving.json_logs import JsonLines


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTDOCK_HOME", str(tmp_path / "home"))


@pytest.fixture
def red(tmp_path: Path, backbone: Backbone) -> Path:
    write_file(tmp_path / "red.safetensors", labelled(backbone, "RED"))
    return tmp_path / "red.safetensors"


def push(client: Client, name: str, content: bytes, status: int = 200) -> Any:
    headers = {"content-type": "application/octet-stream"}
    answer = client.put(f"/v1/adapters/{name}/file", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_state_that_is_served_from_is_refused_until_it_is_closed(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    seen: list[BaseException] = []

    def other() -> None:
        try:
            Store(tmp_path / "state").close()
        except LockedError as error:
            seen.append(error)

    for closing in (False, True):
        if closing:
            store.close()
        thread = Thread(target=other)
        thread.start()
        thread.join()
    assert ["state is in use by the process" in str(error) for error in seen] == [True]


def test_a_version_that_was_replaced_is_refused_and_logged_when_it_is_read_again(
    tmp_path: Path, backbone: Backbone, red: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "adaptdock.serving")
    write_file(tmp_path / "evil.safetensors", labelled(backbone, "EVIL"))
    with serving(backbone, state=str(tmp_path / "state")) as client:
        push(client, "red", red.read_bytes())
        version = client.service.catalog.served("red").current
        version.path.write_bytes((tmp_path / "evil.safetensors").read_bytes())
        assert client.label("red") == "RED"  # the one that is loaded stays
        client.service.residency.know(version.key, version.path)  # as if it had made room
        client.refused(422, "its content was replaced", json={"adapter": "red", "inputs": [TEXT]})
    with serving(backbone, state=str(tmp_path / "state")) as client:
        assert client.service.catalog.names == []
    refusals = [json.loads(JsonLines().format(record)) for record in caplog.records if record.message == "refused"]
    assert len(refusals) == 2
    assert all("its content was replaced" in line["reason"] for line in refusals)


def test_what_is_revoked_while_it_is_served_answers_no_more_and_does_not_come_back(
    tmp_path: Path, backbone: Backbone, red: Path
) -> None:
    write_file(tmp_path / "blue.safetensors", labelled(backbone, "BLUE"))
    with serving(backbone, state=str(tmp_path / "state")) as client:
        push(client, "a", red.read_bytes())
        push(client, "b", red.read_bytes())
        push(client, "b", (tmp_path / "blue.safetensors").read_bytes())
        assert client.label("b@1") == "RED"
        revoke(Revocation(sha256=hashlib.sha256(red.read_bytes()).hexdigest(), reason="backdoor"))
        until(lambda: client.service.catalog.names == ["b"])
        until(lambda: list(client.service.catalog.served("b").versions) == [2])
        client.refused(404, "unknown adapter 'a'", json={"adapter": "a", "inputs": [TEXT]})
        assert client.label("b") == "BLUE"
        assert "backdoor" in push(client, "c", red.read_bytes(), status=422)["error"]["message"]
        client.refused(422, "no earlier version", path="/v1/adapters/b/rollback")
    (tmp_path / "home" / "trust.json").unlink()
    with serving(backbone, state=str(tmp_path / "again")) as client:
        push(client, "d", (tmp_path / "blue.safetensors").read_bytes())
        push(client, "d", red.read_bytes())
    revoke(Revocation(sha256=hashlib.sha256(red.read_bytes()).hexdigest(), reason="backdoor"))
    with serving(backbone, state=str(tmp_path / "again")) as client:
        assert client.service.catalog.names == []  # no other version takes its place unasked


def test_a_damaged_policy_loads_nothing_and_is_logged_once(
    tmp_path: Path, backbone: Backbone, red: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "adaptdock.serving")
    with serving(backbone, adapters=str(tmp_path / "watched")) as client:
        push(client, "red", red.read_bytes())
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "policy.toml").write_text("=")
        until(lambda: "trust unreadable" in [record.message for record in caplog.records])
        assert client.label("red") == "RED"
        assert "policy.toml" in push(client, "blue", red.read_bytes(), status=422)["error"]["message"]
        (tmp_path / "home" / "policy.toml").unlink()
        push(client, "blue", red.read_bytes())
    messages = [record.message for record in caplog.records]
    assert messages.count("trust unreadable") == 1
    assert "watching failed" not in messages


def lock_of(*files: Path) -> str:
    named = [
        {"name": file.stem, "version": "1", "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "source": "there"}
        for file in files
    ]
    return json.dumps({"version": 1, "adapters": named})


def test_only_what_a_lock_file_names_is_pushed_watched_restored_and_goes_on_to_answer(
    tmp_path: Path, backbone: Backbone, red: Path
) -> None:
    (tmp_path / "watched").mkdir()
    write_file(tmp_path / "watched" / "blue.safetensors", labelled(backbone, "BLUE"))
    lock, state = tmp_path / "a.lock", str(tmp_path / "state")
    lock.write_text(lock_of(red))
    options = {"state": state, "locked": str(lock), "adapters": str(tmp_path / "watched")}
    with serving(backbone, **options) as client:
        push(client, "red", red.read_bytes())
        assert client.service.catalog.names == ["red"]
        blue = (tmp_path / "watched" / "blue.safetensors").read_bytes()
        assert "the lock file" in push(client, "pushed", blue, status=422)["error"]["message"]
    with serving(backbone, **options) as client:
        assert client.label("red") == "RED"
        lock.write_text(lock_of())
        until(lambda: client.service.catalog.names == [])
    with serving(backbone, state=state, require_signed=True) as client:
        assert client.service.catalog.names == []
        assert "signed" in push(client, "red", red.read_bytes(), status=422)["error"]["message"]
