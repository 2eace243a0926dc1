"""The serving process refuses an adapter that answers its golden probes otherwise than when it was saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import build_adapter
from served import TEXT, Client, serving, until

from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.golden_probes import recorded
from adaptdock.hub.artefact.file import AdapterFile, write_file
from adaptdock.plugins.contracts import Backbone


@pytest.fixture
def sound(backbone: Backbone) -> AdapterFile:
    return recorded(Dock(backbone), build_adapter(backbone, "lora"), [TEXT, "eve sings in rome"], "sample")


def broken(adapter: AdapterFile) -> AdapterFile:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in adapter.tensors.items() if name.startswith("head.")}
    return AdapterFile(adapter.card, {**adapter.tensors, **zeros})


def content(adapter: AdapterFile, folder: Path) -> bytes:
    write_file(folder / "content", adapter)
    return (folder / "content").read_bytes()


def push(client: Client, name: str, blob: bytes) -> Any:
    headers = {"content-type": "application/octet-stream"}
    return client.put(f"/v1/adapters/{name}/file", content=blob, headers=headers)


def test_a_push_with_other_answers_is_refused_and_the_last_version_stays(
    backbone: Backbone, sound: AdapterFile, tmp_path: Path
) -> None:
    with serving(backbone, state=str(tmp_path / "state")) as client:
        assert push(client, "ner", content(sound, tmp_path)).status_code == 200
        answer = push(client, "ner", content(broken(sound), tmp_path))
        assert answer.status_code == 422
        assert answer.json()["error"]["type"] == "invalid_adapter_error"
        assert "when it was saved" in answer.json()["error"]["message"]
        (state,) = client.get("/v1/adapters").json()["adapters"]
        assert [version["version"] for version in state["versions"]] == [1]
        assert state["probes"] == "2, of the task's sample, answered in float32"
        assert client.ask("ner", TEXT)[0]["version"] == 1
        assert len(list((tmp_path / "state" / "versions").iterdir())) == 1


def test_a_file_in_the_folder_is_asked_too_and_foreign_files_say_no_probes(
    backbone: Backbone, sound: AdapterFile, tmp_path: Path
) -> None:
    write_file(tmp_path / "broken.safetensors", broken(sound))
    write_file(tmp_path / "foreign.safetensors", build_adapter(backbone, "lora"))
    with serving(backbone, adapters=str(tmp_path)) as client:
        (state,) = client.get("/v1/adapters").json()["adapters"]
        assert (state["name"], state["probes"]) == ("foreign", "no probes")
        write_file(tmp_path / "broken.safetensors", sound)
        until(lambda: client.service.catalog.names == ["broken", "foreign"])
    (tmp_path / "more").mkdir()
    write_file(tmp_path / "more" / "broken.safetensors", broken(sound))
    with serving(backbone, adapters=str(tmp_path / "more"), probes=False) as client:
        assert client.service.catalog.names == ["broken"]
