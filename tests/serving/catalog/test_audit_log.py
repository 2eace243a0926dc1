"""The audit log: each change of what is served, by whom, from where, with what was served before and after."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from served import Client, labelled, serving, until

from adaptdock.errors import AdaptError
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.catalog.audit_log import FOLDER, Actor, AuditLog
from adaptdock.serving.errors import StoreError
from adaptdock.serving.http.access_tokens import new_token, read_tokens


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_change_is_recorded_with_who_and_what_was_served_before_and_after(
    tmp_path: Path, backbone: Backbone
) -> None:
    secret = new_token(tmp_path / "tokens", "admin", "deploy")
    watched, audit = tmp_path / "watched", tmp_path / "audit" / "log.jsonl"
    watched.mkdir()
    write_file(watched / "red.safetensors", labelled(backbone, "RED"))
    write_file(tmp_path / "blue", labelled(backbone, "BLUE"))
    options = {"adapters": str(watched), "audit": str(audit)}
    with serving(backbone, known=read_tokens(tmp_path / "tokens"), **options) as client:
        client.headers["authorization"] = f"Bearer {secret}"
        acts(client, (tmp_path / "blue").read_bytes())
        (watched / "red.safetensors").unlink()
        until(lambda: client.service.catalog.names == [])
    found = lines(audit)
    assert [(line["via"], line["action"]) for line in found] == [
        ("folder", "add"),
        ("http", "add"),
        ("http", "rollback"),
        ("http", "set alias"),
        ("http", "delete alias"),
        ("http", "activate"),
        ("folder", "remove"),
    ]
    assert found[0]["before"] == {"red": None}
    assert found[1]["token"] == "deploy"
    assert found[1]["address"] == "testclient"
    assert found[1]["request_id"] == "push-1"
    assert found[1]["before"]["red"]["split"] == {"1": 1.0}
    assert found[1]["after"]["red"]["split"] == {"2": 1.0}
    assert found[2]["after"]["red"]["split"] == {"1": 1.0}
    assert (found[3]["before"], found[3]["after"]) == ({"mood": None}, {"mood": "red"})
    assert "unknown version" in found[5]["error"]
    assert found[6]["after"] == {"red": None}
    assert stat.S_IMODE(audit.stat().st_mode) == 0o600
    assert secret not in audit.read_text()


def acts(client: Client, blue: bytes) -> None:
    headers = {"content-type": "application/octet-stream", "x-request-id": "push-1"}
    assert client.put("/v1/adapters/red/file", content=blue, headers=headers).status_code == 200
    assert client.post("/v1/adapters/red/rollback").status_code == 200
    assert client.put("/v1/aliases/mood", json={"target": "red"}).status_code == 200
    assert client.delete("/v1/aliases/mood").status_code == 204
    assert client.put("/v1/adapters/red", json={"version": 9}).status_code == 404
    assert client.get("/v1/adapters/red").status_code == 200


def test_a_change_that_cannot_be_recorded_is_not_made(tmp_path: Path) -> None:
    served = {"a": 1}
    with pytest.raises(StoreError):
        AuditLog(tmp_path, served.get)
    audit = AuditLog(tmp_path / "log", served.get)
    (tmp_path / "log").unlink()
    (tmp_path / "log").mkdir()
    with pytest.raises(StoreError):
        audit.act(FOLDER, "remove", ["a"], served.clear)
    assert served == {"a": 1}


def test_a_line_holds_no_hidden_characters_and_nothing_is_written_without_an_effect(tmp_path: Path) -> None:
    served: dict[str, Any] = {}
    audit = AuditLog(tmp_path / "log", served.get)
    audit.act(FOLDER, "add", ["a"], lambda: None)
    assert not lines(tmp_path / "log")
    audit.act(Actor("http", "t\u202e\u2028"), "add", ["a"], lambda: served.update(a="\x1b[2J"))

    def fail() -> None:
        raise AdaptError("no\x9b room")

    with pytest.raises(AdaptError):
        audit.act(FOLDER, "add", ["a"], fail)
    assert (tmp_path / "log").read_text(encoding="utf-8").replace("\n", "").isprintable()
    assert [line.get("error") for line in lines(tmp_path / "log")] == [None, "no\x9b room"]
    AuditLog(None, served.get).act(FOLDER, "clear", ["a"], served.clear)
    assert served == {}
