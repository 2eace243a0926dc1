"""Several processes that share a state: each change by one of them is a change of all, at once and in one order."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from served import Client, labelled, serving, until

from adaptdock.engine.core.loading import load_backbone
from adaptdock.errors import LockedError
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone, LoadOptions
from adaptdock.serving.catalog import version_store
from adaptdock.serving.catalog.version_store import Store

HEADERS = {"content-type": "application/octet-stream"}


@pytest.fixture
def second_backbone(model_folder: Path) -> Backbone:
    return load_backbone(str(model_folder), LoadOptions(device="cpu"))


@pytest.fixture
def pair(backbone: Backbone, second_backbone: Backbone, folder: Path) -> Iterator[tuple[Client, Client]]:
    """Two processes that never look around by themselves, so that only a request makes them follow."""
    options = {"adapters": str(folder), "shared": True, "watch": 3600}
    with serving(backbone, **options) as first, serving(second_backbone, **options) as second:
        yield first, second


def content(backbone: Backbone, label: str, tmp_path: Path) -> bytes:
    write_file(tmp_path / f"{label}.safetensors", labelled(backbone, label))
    return (tmp_path / f"{label}.safetensors").read_bytes()


def push(client: Client, name: str, content: bytes) -> int:
    answer = client.put(f"/v1/adapters/{name}/file", content=content, headers=HEADERS)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["version"])


def test_a_change_that_one_process_has_acknowledged_holds_for_the_next_request_to_another(
    pair: tuple[Client, Client], backbone: Backbone, tmp_path: Path
) -> None:
    first, second = pair
    assert [client.label("red") for client in pair] == ["RED", "RED"]
    for number in range(2, 6):  # each process has changed last in turn
        changing, asked = pair if number % 2 else pair[::-1]
        assert push(changing, "red", content(backbone, f"R{number}", tmp_path)) == number
        assert (asked.label("red"), asked.ask("red", "ada")[0]["version"]) == (f"R{number}", number)
    assert first.post("/v1/adapters/red/rollback").json()["version"] == 4
    assert second.label("red") == "R4"
    assert second.put("/v1/aliases/best", json={"target": "red@5"}).status_code == 200
    assert first.label("best") == "R5"
    assert first.put("/v1/adapters/red/split", json={"weights": {"2": 0, "3": 1}}).status_code == 200
    assert second.label("red") == "R3"
    assert push(second, "new", content(backbone, "NEW", tmp_path)) == 1
    assert first.label("new") == "NEW"
    assert first.delete("/v1/adapters/new").status_code == 204
    second.refused(404, "unknown adapter 'new'", json={"adapter": "new", "inputs": ["ada"]})


def test_a_condition_on_the_state_holds_for_the_changes_of_all_processes(pair: tuple[Client, Client]) -> None:
    first, second = pair
    etag = first.get("/v1/adapters/red").headers["etag"]
    assert second.post("/v1/adapters/red/pin").status_code == 200
    assert first.post("/v1/adapters/red/unpin", headers={"if-match": etag}).status_code == 412
    etag = first.get("/v1/adapters/red").headers["etag"]
    assert second.post("/v1/adapters/red/unpin", headers={"if-match": etag}).status_code == 200


def test_the_files_of_a_folder_become_versions_once_and_all_processes_have_the_same_numbers(
    pair: tuple[Client, Client], backbone: Backbone, folder: Path
) -> None:
    catalogs = [client.service.catalog for client in pair]
    assert [catalog.names for catalog in catalogs] == [["blue", "green", "red"]] * 2
    write_file(folder / "red.safetensors", labelled(backbone, "NEXT"))
    watchers = [client.service.watcher for client in pair]
    for _ in range(3):  # two looks find the file settled
        for watcher in watchers:
            assert watcher is not None
            watcher.look()
    assert [client.ask("red", "ada")[0]["version"] for client in pair] == [2, 2]
    assert [list(catalog.served("red").versions) for catalog in catalogs] == [[1, 2], [1, 2]]
    (folder / "red.safetensors").unlink()
    for watcher in (watchers[0],) * 3:
        assert watcher is not None
        watcher.look()
    pair[1].refused(404, "unknown adapter 'red'", json={"adapter": "red", "inputs": ["ada"]})


def test_changes_at_the_same_time_each_get_a_number_of_their_own(
    pair: tuple[Client, Client], backbone: Backbone, tmp_path: Path
) -> None:
    contents = [content(backbone, f"L{number}", tmp_path) for number in range(6)]
    with ThreadPoolExecutor(2) as pool:
        pushing = [pool.submit(push, client, "red", data) for client, data in zip(pair * 3, contents, strict=True)]
        numbers = [future.result() for future in pushing]
    assert len(pair[0].ask("red", "ada")) == 1  # follows
    records = [pair[0].service.catalog.served("red").record(), pair[0].service.store.adapters()["red"]]
    assert records[0] == records[1]
    assert records[0]["next_number"] == 8
    assert max(numbers) == 7  # the answer names the version that answers now, which another change may have made


def test_a_version_out_of_use_stays_for_processes_that_are_behind_and_leaves_later(
    pair: tuple[Client, Client], backbone: Backbone, tmp_path: Path
) -> None:
    first, second = pair
    (version,) = first.service.catalog.served("red").versions.values()
    assert first.delete("/v1/adapters/red").status_code == 204
    second.refused(404, "unknown adapter 'red'", json={"adapter": "red", "inputs": ["ada"]})
    assert version.path.exists()
    retired = version.path.stat().st_mtime - version_store.RETIRED_SECONDS - 1
    os.utime(version.path, (retired, retired))
    second.service.catalog.restore()
    assert not version.path.exists()
    assert second.label("green") == "GREEN"  # a version in use is not deleted, however old


def test_a_state_is_shared_only_with_processes_that_share_it(tmp_path: Path) -> None:
    shared = [Store(tmp_path, shared=True), Store(tmp_path, shared=True)]
    for closing in shared:
        with pytest.raises(LockedError, match="in use by the process"):
            Store(tmp_path)
        closing.close()
    alone = Store(tmp_path)
    with pytest.raises(LockedError, match="in use by the process"):
        Store(tmp_path, shared=True)
    alone.close()
    Store(tmp_path, shared=True).close()


def test_a_process_that_joins_has_the_versions_of_the_others_and_docks_them_when_asked(
    pair: tuple[Client, Client], model_folder: Path, backbone: Backbone, folder: Path, tmp_path: Path
) -> None:
    push(pair[0], "red", content(backbone, "LATER", tmp_path))
    joining = load_backbone(str(model_folder), LoadOptions(device="cpu"))
    with serving(joining, adapters=str(folder), shared=True) as third:
        assert third.service.residency.resident_bytes == 0
        assert (third.label("red"), third.ask("red", "ada")[0]["version"]) == ("LATER", 2)
        assert push(pair[1], "red", content(backbone, "AGAIN", tmp_path)) == 3
        until(lambda: third.service.catalog.served("red").current.number == 3)  # without a request, as it looks around
