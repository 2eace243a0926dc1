"""Any process of a shared state shows what all of them have counted and docked."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Client, serving

from adaptdock.engine.core.loading import load_backbone
from adaptdock.plugins.contracts import Backbone, LoadOptions
from adaptdock.serving.http.fleet_view import SILENT_SECONDS, FleetView


@pytest.fixture
def pair(backbone: Backbone, model_folder: Path, folder: Path) -> Iterator[tuple[Client, Client]]:
    options = {"adapters": str(folder), "shared": True, "watch": 3600}
    second = load_backbone(str(model_folder), LoadOptions(device="cpu"))
    with serving(backbone, **options) as one, serving(second, **options) as other:
        yield one, other


def exchange(*clients: Client) -> None:
    for _ in range(2):  # the first to write reads what the others write after it
        for client in clients:
            view(client).exchange()


def view(client: Client) -> FleetView:
    return client.app.state.view  # type: ignore[attr-defined,no-any-return]


def test_counters_and_docked_adapters_are_those_of_all_processes(pair: tuple[Client, Client]) -> None:
    first, second = pair  # the first has docked all files at its first look at the folder
    first.ask("red", "ada", "bob")
    second.ask("red", "ada")
    exchange(*pair)
    listings = [client.get("/v1/adapters").json() for client in pair]
    for listing in listings:
        shown = {entry["name"]: entry for entry in listing["adapters"]}
        assert (shown["red"]["counters"]["requests"], shown["red"]["docked_in"]) == (3, 2)
        assert (shown["blue"]["counters"]["requests"], shown["blue"]["docked_in"]) == (0, 1)
        assert sorted(process["docked"] for process in listing["processes"]) == [1, 3]
        assert {process["process"].rpartition(":")[2] for process in listing["processes"]} == {str(os.getpid())}
    assert second.get("/v1/adapters/red").json()["counters"]["requests"] == 3


def test_a_process_that_has_ended_is_shown_no_longer(pair: tuple[Client, Client], folder: Path) -> None:
    first, second = pair
    second.ask("red", "ada")
    exchange(*pair)
    killed = view(second)._file
    status = killed.stat()
    os.utime(killed, (status.st_atime, status.st_mtime - 3 * 3600 - SILENT_SECONDS))
    view(first).exchange()
    listing = first.get("/v1/adapters").json()
    assert len(listing["processes"]) == 1
    assert {entry["name"]: entry["counters"]["requests"] for entry in listing["adapters"]}["red"] == 0
    assert not killed.exists()
    killed.write_text("{")  # of another version
    view(first).exchange()
    assert len(view(first).reports) == 1


def test_a_process_that_stops_removes_its_report_and_a_single_one_writes_none(
    backbone: Backbone, folder: Path, tmp_path: Path
) -> None:
    with serving(backbone, adapters=str(folder), state=str(tmp_path / "shared"), shared=True) as client:
        exchange(client)
        assert len(list((tmp_path / "shared" / "processes").iterdir())) == 1
    assert list((tmp_path / "shared" / "processes").iterdir()) == []
    with serving(backbone, adapters=str(folder), state=str(tmp_path / "state")) as client:
        client.ask("red", "ada")
        assert [process["docked"] for process in client.get("/v1/adapters").json()["processes"]] == [3]
    assert not (tmp_path / "state" / "processes").exists()
