"""What could hang: files that never have content, file systems that do not answer, and a process that shall end."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from served import Client, labelled, serving, until

from adaptdock.errors import FileError
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.catalog import version_store
from adaptdock.serving.catalog.version_store import hash_of
from adaptdock.serving.http import process, service


@contextmanager
def stuck(client: Client) -> Iterator[None]:
    """Keep the loader busy while the context is open."""
    free, begun = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        free.wait(60)

    client.service._loader.submit(wait)
    assert begun.wait(20)
    try:
        yield
    finally:
        free.set()


def refusals(caplog: pytest.LogCaptureFixture) -> dict[str, list[str]]:
    """Return the reasons in the log by adapter."""
    reasons: dict[str, list[str]] = {}
    for record in caplog.records:
        fields = record.__dict__.get("fields", {})
        if record.message == "refused":
            reasons.setdefault(fields["adapter"], []).append(fields["reason"])
    return reasons


def test_what_is_not_a_regular_file_is_refused_once_and_holds_up_nobody(
    backbone: Backbone, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(folder / "early.safetensors")
    (folder / "folder.safetensors").mkdir()
    (folder / "device.safetensors").symlink_to("/dev/zero")
    with caplog.at_level("INFO", "adaptdock.serving"), serving(backbone, adapters=str(folder)) as client:
        os.mkfifo(folder / "late.safetensors")
        (folder / "link.safetensors").symlink_to("late.safetensors")
        until(lambda: {"late", "link"} <= set(refusals(caplog)))
        (folder / "folder.safetensors" / "more").write_text("")  # which changes the time of the folder
        write_file(folder / "violet.safetensors", labelled(backbone, "VIOLET"))
        until(lambda: "violet" in client.service.catalog.names)
        assert client.post("/v1/adapters/violet/pin").status_code == 200
        client.refused(422, "FIFO", method="put", path="/v1/adapters/late", json={})
        assert client.label("red") == "RED"
    reasons = refusals(caplog)
    assert {name: len(lines) for name, lines in reasons.items()} == dict.fromkeys(
        ("early", "folder", "device", "late", "link"), 1
    )
    assert all("not a regular file" in lines[0] for lines in reasons.values())


def test_a_fifo_in_the_place_of_an_adapter_leaves_the_version_that_answers(
    client: Client, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "adaptdock.serving"):
        (folder / "red.safetensors").unlink()
        os.mkfifo(folder / "red.safetensors")
        until(lambda: refusals(caplog))
    assert client.label("red") == "RED"


def test_a_link_out_of_the_folder_is_refused_unless_links_may_be_followed(
    backbone: Backbone, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tmp_path / "elsewhere"
    write_file(elsewhere / "out.safetensors", labelled(backbone, "OUT"))
    (folder / "..data").mkdir()
    (folder / "red.safetensors").rename(folder / "..data" / "red.safetensors")
    (folder / "red.safetensors").symlink_to(Path("..data") / "red.safetensors")  # as Kubernetes mounts volumes
    (folder / "out.safetensors").symlink_to(elsewhere / "out.safetensors")
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    (folder / "far").symlink_to(elsewhere)
    (folder / "far.safetensors").symlink_to(Path("far") / "out.safetensors")
    with serving(backbone, adapters=str(folder)) as client:
        assert client.label("red") == "RED"
        listed = client.get("/v1/adapters").json()
        assert [adapter["name"] for adapter in listed["adapters"]] == ["blue", "green", "red"]
        assert [file["name"] for file in listed["refused"]] == ["far", "out"]
        assert all("a link to a file outside the folder" in file["reason"] for file in listed["refused"])
        assert str(elsewhere) not in str(listed)
        client.refused(422, "--follow-links", method="put", path="/v1/adapters/out", json={})
    with serving(backbone, adapters=str(folder), follow_links=True) as client:
        assert client.label("out") == client.label("far") == "OUT"


def test_a_refused_file_is_listed_and_counted_until_it_is_mended_or_gone(client: Client, folder: Path) -> None:
    def refused() -> dict[str, str]:
        return {file["name"]: file["reason"] for file in client.get("/v1/adapters").json()["refused"]}

    content = (folder / "red.safetensors").read_bytes()
    for name in ("half", "wrong"):
        (folder / f"{name}.safetensors").write_bytes(content[:-10])
    until(lambda: refused().keys() == {"half", "wrong"})
    assert "truncated or damaged" in refused()["half"]
    assert "adaptdock_refused_files 2.0" in client.get("/metrics").text
    (folder / "half.safetensors").write_bytes(content)
    (folder / "wrong.safetensors").unlink()
    until(lambda: not refused())
    assert "adaptdock_refused_files 0.0" in client.get("/metrics").text


def test_a_file_is_looked_at_before_it_is_read_whole(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_store, "_read", lambda *_: pytest.fail("the content was read"))
    sparse, adapter, padded = (tmp_path / name for name in ("sparse", "adapter", "padded"))
    sparse.touch()
    os.truncate(sparse, 3 * 2**30)
    with pytest.raises(FileError, match=r"3,221,225,472 bytes; at most 1,073,741,824 are taken \(--max-upload\)"):
        hash_of(sparse, 2**30)
    with pytest.raises(FileError, match="its header is not JSON"):
        hash_of(sparse)
    write_file(adapter, labelled(backbone, "RED"))
    padded.write_bytes(adapter.read_bytes())
    os.truncate(padded, 3 * 2**30)
    with pytest.raises(FileError, match="truncated or damaged"):
        hash_of(padded)


def test_a_file_in_the_folder_that_is_too_large_is_not_copied(
    backbone: Backbone, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "adaptdock.serving"), serving(backbone, adapters=str(folder), max_upload=100):
        assert not list((folder / ".serving" / "versions").iterdir())
    assert "at most 100 are taken" in refusals(caplog)["red"][0]


def test_a_change_that_takes_too_long_is_answered_and_requests_go_on(backbone: Backbone, folder: Path) -> None:
    with serving(backbone, adapters=str(folder), change_timeout=0.2) as client:
        with stuck(client):
            error = client.refused(504, "not begun and nothing has changed", path="/v1/adapters/red/pin")
            assert error["type"] == "timeout_error"
            assert client.label("red") == "RED"
        until(lambda: client.post("/v1/adapters/green/pin").status_code == 200)
        assert not client.service.catalog.served("red").pinned


def test_a_change_under_way_is_said_to_be_so(backbone: Backbone, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    with serving(backbone, adapters=str(folder), change_timeout=0.2) as client:
        monkeypatch.setattr(client.service.catalog, "pin", lambda *_: free.wait(20))
        monkeypatch.setattr(client.service, "watcher", None)
        client.refused(504, "it has begun and may still be made", path="/v1/adapters/red/pin")
        free.set()


def test_a_loader_that_hangs_does_not_keep_the_service_from_ending(
    backbone: Backbone, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "GRACE", 0.05)
    client = serving(backbone, adapters=str(folder), drain=0)
    opened = client.__enter__()
    with stuck(opened), caplog.at_level("INFO", "adaptdock.serving"):
        waiting = opened.service._loader.submit(lambda: None)
        client.__exit__(None, None, None)
        assert waiting.cancelled()
    stopped = next(record for record in caplog.records if record.message == "stopped")
    assert stopped.__dict__["fields"] == {"complete": False}


def test_a_file_that_hangs_keeps_no_request_waiting_for_the_versions_that_leave(client: Client) -> None:
    catalog = client.service.catalog
    selection = catalog.choose("red")
    catalog.remove("red")
    with stuck(client), catalog._change:
        released = threading.Thread(target=catalog.release, args=(selection.parts,), daemon=True)
        released.start()
        released.join(20)
        assert not released.is_alive()
    until(lambda: not catalog._leaving)


def test_the_process_ends_after_its_time_whatever_hangs(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(process.os, "_exit", ended.append)
    monkeypatch.setattr(process, "AFTER_DRAIN", 0.0)
    monkeypatch.setattr(
        client.service, "options", client.service.options.model_copy(update={"drain": 0.0, "drain_delay": 0.0})
    )
    server = process.Server(uvicorn.Config(client.app), client.service)
    server.handle_exit(signal.SIGTERM, None)
    until(lambda: ended)
    assert ended == [process.UNFINISHED]
    assert server.should_exit
