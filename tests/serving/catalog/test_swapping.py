"""Adapters come, change and go while they are asked; what answers is always a complete version that was asked for."""

import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from builders import build_adapter
from served import TEXT, Client, labelled, serving, until

from adaptdock.engine.inference.residency import Residency
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.catalog.version_store import Store


def put(client: Client, path: str, body: Any) -> Any:
    answer = client.put(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def send(client: Client, name: str, adapter: Any, tmp_path: Path) -> Any:
    write_file(tmp_path / "sent.safetensors", adapter)
    return client.put(
        f"/v1/adapters/{name}/file",
        content=(tmp_path / "sent.safetensors").read_bytes(),
        headers={"content-type": "application/octet-stream"},
    )


def test_a_file_that_appears_changes_and_goes_is_docked_replaced_and_undocked(
    client: Client, backbone: Backbone, folder: Path
) -> None:
    write_file(folder / "new.safetensors", labelled(backbone, "NEW"))
    until(lambda: "new" in client.service.catalog.names)
    assert client.label("new") == "NEW"
    write_file(folder / "new.safetensors", labelled(backbone, "NEWER"))
    until(lambda: client.label("new") == "NEWER")
    assert client.label("new@1") == "NEW"
    (folder / "new.safetensors").unlink()
    until(lambda: "new" not in client.service.catalog.names)
    client.refused(404, "unknown adapter 'new'", json={"adapter": "new", "inputs": [TEXT]})
    until(lambda: not [key for key in client.service.residency.names if key.startswith("new@")])


def test_a_file_that_is_being_copied_is_not_read_until_it_is_complete(
    client: Client, backbone: Backbone, folder: Path, tmp_path: Path
) -> None:
    write_file(tmp_path / "whole", labelled(backbone, "WHOLE"))
    content = (tmp_path / "whole").read_bytes()
    with (folder / "slow.safetensors").open("wb") as stream:
        for start in range(0, len(content), len(content) // 6):
            stream.write(content[start : start + len(content) // 6])
            stream.flush()
            threading.Event().wait(0.12)
            assert client.label("red") == "RED"
            if start + len(content) // 6 < len(content):
                assert "slow" not in client.service.catalog.names
    until(lambda: "slow" in client.service.catalog.names)
    assert client.label("slow") == "WHOLE"


@pytest.mark.parametrize("poison", ["truncated", "flipped", "pickle", "empty", "numbers", "backbone", "window"])
def test_a_poisoned_file_is_refused_and_the_running_version_stays(
    client: Client, backbone: Backbone, folder: Path, tmp_path: Path, poison: str, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = labelled(backbone, "BAD")
    if poison == "numbers":
        adapter.tensors["head.bias"][0] = float("nan")
    if poison == "backbone":
        entry = adapter.card.backbone.model_copy(update={"fingerprint": "blocks1:another"})
        adapter = type(adapter)(adapter.card.model_copy(update={"backbone": entry}), adapter.tensors)
    if poison == "window":
        entry = adapter.card.preprocessing.model_copy(update={"max_length": 2})
        adapter = type(adapter)(adapter.card.model_copy(update={"preprocessing": entry}), adapter.tensors)
    write_file(tmp_path / "bad", adapter)
    content = (tmp_path / "bad").read_bytes()
    content = {
        "truncated": content[:-7],
        "flipped": content[:-1] + bytes([content[-1] ^ 1]),
        "pickle": b"\x80\x04" + content,
        "empty": b"",
    }.get(poison, content)
    with caplog.at_level("INFO", "adaptdock.serving"):
        (folder / "red.safetensors").write_bytes(content)
        until(lambda: any(record.message == "refused" for record in caplog.records))
    assert client.label("red") == "RED"
    problem = client.refused(
        422,
        method="put",
        path="/v1/adapters/red/file",
        content=content,
        headers={"content-type": "application/octet-stream"},
    )
    assert str(folder) not in problem["message"]
    assert client.get("/v1/adapters/red").json()["version"] == 1
    assert len(list((folder / ".serving" / "versions").iterdir())) == 3
    write_file(folder / "red.safetensors", labelled(backbone, "CURED"))
    until(lambda: client.label("red") == "CURED")


def test_a_version_is_sent_rolled_back_and_chosen_again(client: Client, backbone: Backbone, tmp_path: Path) -> None:
    etag = client.get("/v1/adapters/red").headers["etag"]
    answer = send(client, "red", labelled(backbone, "SECOND"), tmp_path)
    warnings = ["labels that answers no longer have: RED", "new labels: SECOND"]
    assert answer.json() == {"adapter": "red", "version": 2, "etag": answer.headers["etag"], "warnings": warnings}
    assert answer.headers["etag"] == client.get("/v1/adapters/red").headers["etag"] != etag
    assert client.label("red") == "SECOND"
    assert client.post("/v1/adapters/red/rollback").json()["version"] == 1
    assert client.label("red") == "RED"
    client.refused(422, "no earlier version", path="/v1/adapters/red/rollback")
    assert put(client, "/v1/adapters/red", {"version": 2})["version"] == 2
    assert client.label("red") == "SECOND"
    client.refused(404, "version 'red@9'", method="put", path="/v1/adapters/red", json={"version": 9})


def test_a_version_can_wait_until_it_is_asked_for_by_number(client: Client, backbone: Backbone, tmp_path: Path) -> None:
    write_file(tmp_path / "sent.safetensors", labelled(backbone, "WAITS"))
    client.put(
        "/v1/adapters/red/file?activate=false",
        content=(tmp_path / "sent.safetensors").read_bytes(),
        headers={"content-type": "application/octet-stream"},
    )
    assert (client.label("red"), client.label("red@2")) == ("RED", "WAITS")


def test_a_split_divides_the_answers_and_a_mirror_only_listens(
    client: Client, backbone: Backbone, tmp_path: Path
) -> None:
    send(client, "red", labelled(backbone, "SECOND"), tmp_path)
    put(client, "/v1/adapters/red/split", {"weights": {"1": 1, "2": 3}})
    labels = [client.label("red") for _ in range(80)]
    assert set(labels) == {"RED", "SECOND"}
    assert labels.count("SECOND") > labels.count("RED")
    shares = {version["version"]: version["weight"] for version in client.get("/v1/adapters/red").json()["versions"]}
    assert shares == {1: 0.25, 2: 0.75}
    put(client, "/v1/adapters/red/split", {"weights": {"1": 1}, "mirror": 2})
    assert {client.label("red") for _ in range(10)} == {"RED"}
    until(lambda: 'adaptdock_mirrored_differently_total{adapter="red"} 10.0' in client.get("/metrics").text)
    client.refused(422, "above 0", method="put", path="/v1/adapters/red/split", json={"weights": {"1": 0}})
    client.refused(404, method="put", path="/v1/adapters/red/split", json={"weights": {"1": 1}, "mirror": 8})


def test_an_alias_stands_for_an_adapter_or_one_version(client: Client, backbone: Backbone, tmp_path: Path) -> None:
    put(client, "/v1/aliases/colour", {"target": "red"})
    put(client, "/v1/aliases/old", {"target": "red@1"})
    send(client, "red", labelled(backbone, "SECOND"), tmp_path)
    assert (client.label("colour"), client.label("old")) == ("SECOND", "RED")
    assert client.get("/v1/adapters").json()["aliases"] == {"colour": "red", "old": "red@1"}
    client.refused(422, "is an adapter", method="put", path="/v1/aliases/green", json={"target": "red"})
    client.refused(404, method="put", path="/v1/aliases/x", json={"target": "redd"})
    assert client.delete("/v1/aliases/colour").status_code == 204
    client.refused(404, json={"adapter": "colour", "inputs": [TEXT]})


def test_an_adapter_that_was_unloaded_comes_back_when_its_file_changes_or_by_request(
    client: Client, backbone: Backbone, folder: Path
) -> None:
    assert client.delete("/v1/adapters/red").status_code == 204
    client.refused(404, json={"adapter": "red", "inputs": [TEXT]})
    client.refused(404, method="delete", path="/v1/adapters/red")
    threading.Event().wait(0.3)
    assert "red" not in client.service.catalog.names
    put(client, "/v1/adapters/red", {})
    assert client.label("red") == "RED"
    client.delete("/v1/adapters/red")
    write_file(folder / "red.safetensors", labelled(backbone, "AGAIN"))
    until(lambda: "red" in client.service.catalog.names)
    assert client.label("red") == "AGAIN"


def test_a_restart_goes_on_with_versions_aliases_splits_and_pins(
    backbone: Backbone, folder: Path, tmp_path: Path
) -> None:
    with serving(backbone, adapters=str(folder)) as client:
        send(client, "red", labelled(backbone, "SECOND"), tmp_path)
        send(client, "red", labelled(backbone, "THIRD"), tmp_path)
        client.post("/v1/adapters/red/rollback")
        send(client, "green", labelled(backbone, "GREENER"), tmp_path)
        put(client, "/v1/adapters/green/split", {"weights": {"1": 1, "2": 1}, "mirror": None})
        client.post("/v1/adapters/blue/pin")
        put(client, "/v1/aliases/old", {"target": "red@1"})
        client.delete("/v1/adapters/blue")
        before = client.get("/v1/adapters").json()
    with serving(backbone, adapters=str(folder)) as client:
        after = client.get("/v1/adapters").json()
        assert (client.label("red"), client.label("old"), client.label("red@3")) == ("SECOND", "RED", "THIRD")
        assert {client.label("green") for _ in range(40)} == {"GREEN", "GREENER"}
    for state in (before, after):
        for adapter in state["adapters"]:
            adapter.pop("counters")
            for version in adapter["versions"]:
                version.pop("tier")
                version.pop("resident_bytes")
    assert before == after


def test_few_versions_are_kept_and_their_files_leave_with_them(
    backbone: Backbone, folder: Path, tmp_path: Path
) -> None:
    with serving(backbone, adapters=str(folder), keep_versions=2) as client:
        for number in range(2, 8):
            assert send(client, "red", labelled(backbone, f"V{number}"), tmp_path).json()["version"] == number
        assert [version["version"] for version in client.get("/v1/adapters/red").json()["versions"]] == [5, 6, 7]
        assert len(list((folder / ".serving" / "versions").iterdir())) == 5


def test_no_request_fails_while_versions_change_and_each_is_answered_by_one_that_was_there(
    client: Client, backbone: Backbone, folder: Path, tmp_path: Path
) -> None:
    for number in range(2):
        write_file(tmp_path / f"{number}", labelled(backbone, f"V{number}"))
    wrong: list[Any] = []
    going = True

    def ask() -> None:
        while going:
            answers = client.ask(["red", "green"], TEXT, TEXT)
            labels = [answer["prediction"]["entities"][0]["label"] for answer in answers]
            if labels[0] != ("RED" if answers[0]["version"] == 1 else f"V{answers[0]['version'] % 2}"):
                wrong.append(answers)
            if labels[1] != "GREEN":
                wrong.append(answers)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2, 14):
        adapter = labelled(backbone, f"V{number % 2}", seed=number)
        assert send(client, "red", adapter, tmp_path).json()["version"] == number
    going = False
    for thread in threads:
        thread.join()
    assert wrong == []
    tally = client.service.metrics.tally("red")
    assert (tally.errors, tally.requests > 12) == (0, True)


def test_a_full_disk_refuses_the_new_version_and_leaves_the_running_one(
    client: Client, backbone: Backbone, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    write_file(tmp_path / "sent.safetensors", labelled(backbone, "FULL"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        client.refused(
            507,
            "No space left",
            method="put",
            path="/v1/adapters/red/file",
            content=(tmp_path / "sent.safetensors").read_bytes(),
            headers={"content-type": "application/octet-stream"},
        )
    assert client.label("red") == "RED"
    assert not list((folder / ".serving" / "versions").glob(".*"))
    assert send(client, "red", labelled(backbone, "LATER"), tmp_path).json()["version"] == 2
    assert client.label("red") == "LATER"


def test_a_clock_that_is_set_back_keeps_back_no_version(
    backbone: Backbone, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    with serving(backbone, adapters=str(folder)) as client:
        monkeypatch.setattr(time, "time", lambda: now - 2 * 86_400)
        assert send(client, "red", labelled(backbone, "SENT"), tmp_path).json()["version"] == 2
        write_file(tmp_path / "blue.safetensors", labelled(backbone, "OLDER"))
        os.utime(tmp_path / "blue.safetensors", (now - 10 * 86_400,) * 2)
        (tmp_path / "blue.safetensors").replace(folder / "blue.safetensors")
        until(lambda: client.label("blue") == "OLDER")
    with serving(backbone, adapters=str(folder)) as client:
        assert (client.label("red"), client.label("blue")) == ("SENT", "OLDER")
        assert client.get("/v1/adapters/red").json()["version"] == 2


@pytest.mark.parametrize("step", ["keep", "prepare", "present", "write_adapter"])
def test_a_failure_at_any_step_of_a_change_leaves_what_was(
    client: Client, backbone: Backbone, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    owner = {"prepare": client.service.dock, "present": client.service.residency}.get(step, client.service.store)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("injected")

    before = client.get("/v1/adapters/red").json()["versions"]
    with monkeypatch.context() as patched:
        patched.setattr(owner, step, fail)
        assert send(client, "red", labelled(backbone, "LOST"), tmp_path).status_code == 500
    assert client.label("red") == "RED"
    assert client.get("/v1/adapters/red").json()["versions"][0]["version"] == before[0]["version"]
    assert send(client, "red", labelled(backbone, "KEPT"), tmp_path).json()["version"] == 2
    assert client.label("red") == "KEPT"


def test_a_process_that_was_killed_during_a_change_goes_on_with_a_complete_version(
    backbone: Backbone, folder: Path, tmp_path: Path
) -> None:
    """As SIGKILL leaves it: a half-written copy, and a complete one that the state does not know yet."""
    with serving(backbone, adapters=str(folder)):
        pass
    versions = folder / ".serving" / "versions"
    whole = next(versions.glob("*.safetensors"))
    (versions / ".abc.partial").write_bytes(whole.read_bytes()[:50])
    write_file(tmp_path / "other", build_adapter(backbone, "lora", seed=5))
    shutil.copy(tmp_path / "other", versions / f"{'0' * 64}.safetensors")
    (folder / ".serving" / "versions" / whole.name).write_bytes(b"")  # and one that the disk lost
    with serving(backbone, adapters=str(folder)) as client:
        assert {name: client.label(name) for name in ("red", "green", "blue")} == {
            "red": "RED",
            "green": "GREEN",
            "blue": "BLUE",
        }
        assert len(list(versions.iterdir())) == 3


def test_within_a_budget_the_least_recently_used_make_room(backbone: Backbone, folder: Path) -> None:
    with serving(backbone, adapters=str(folder)) as client:
        sizes = [
            client.get(f"/v1/adapters/{name}").json()["versions"][0]["resident_bytes"] for name in ("red", "green")
        ]
    with serving(backbone, adapters=str(folder), device_bytes=sum(sizes)) as client:
        for name in ("red", "green", "blue", "red", "green"):
            assert client.label(name) == name.upper()
        assert client.post("/v1/adapters/red/pin").status_code == 200
        residency: Residency = client.service.residency
        assert residency.resident_bytes <= sum(sizes)
        assert residency.tier("red@1") == "device"
        # more of them in one request than there is room for are computed one after the other
        answers = client.ask(["red", "green", "blue", "green"], TEXT, TEXT, TEXT, TEXT)
        assert [answer["prediction"]["entities"][0]["label"] for answer in answers] == ["RED", "GREEN", "BLUE", "GREEN"]


def test_a_store_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="cannot be kept there"):
        Store(tmp_path / "file")
