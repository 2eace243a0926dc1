import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from builders import build_adapter

from adaptdock.cli.serve import decided
from adaptdock.engine.core import ray_cluster
from adaptdock.hub.artefact.file import write_file


@pytest.fixture
def folder(backbone, tmp_path):
    folder = tmp_path / "served"
    for seed, name in enumerate(("one", "two")):
        write_file(folder / f"{name}.safetensors", build_adapter(backbone, "lora", seed=seed))
    return folder


def test_check_tells_what_would_be_served(adapt, folder, model_folder):
    ran = adapt("serve", "--adapters", folder, "--backbone", model_folder, "--port", 0, "--check")
    assert ran.status == 0, ran.err
    assert "2 of 2 can be served" in ran.out
    assert not (folder / ".serving").exists()


def test_check_names_what_could_not_be_served(adapt, folder, model_folder):
    (folder / "bad.safetensors").write_bytes(b"\x80\x04 no adapter")
    ran = adapt("serve", "--adapters", folder, "--backbone", model_folder, "--port", 0, "--check")
    ran.failed(2, "1 adapters cannot be served", "bad.safetensors", "pickle")
    adapt("serve", "--adapters", folder / "none", "--check").failed(2, "is not a folder")
    adapt("serve", "--check").failed(2, "adapters or state is needed")
    adapt("serve", "--adapters", folder, "--host", "0.0.0.0").failed(2, "other machines", "--new-token")


def test_check_refuses_a_link_out_of_the_folder(adapt, folder, model_folder, tmp_path):
    (folder / "one.safetensors").rename(tmp_path / "one.safetensors")
    (folder / "one.safetensors").symlink_to(tmp_path / "one.safetensors")
    arguments = ("serve", "--adapters", folder, "--backbone", model_folder, "--port", 0, "--check")
    adapt(*arguments).failed(2, "1 adapters cannot be served", "'one'", "outside the folder", "--follow-links")
    assert "2 of 2 can be served" in adapt(*arguments, "--follow-links").out


def test_an_address_that_is_taken_is_told_before_the_backbone_is_loaded(adapt, folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        adapt("serve", "--adapters", folder, "--port", port, "--check").failed(2, f":{port} cannot be listened on")


def test_a_new_token_is_shown_once(adapt, tmp_path):
    ran = adapt("serve", "--tokens", tmp_path / "t.txt", "--new-token", "predict", "--token-name", "app")
    assert ran.status == 0
    assert ran.out.startswith("adapt_")
    assert ran.out.strip() not in (tmp_path / "t.txt").read_text()
    assert (tmp_path / "t.txt").read_text().startswith("app predict ")
    adapt("serve", "--new-token", "predict").failed(2, "--tokens")
    adapt("serve", "--adapters", tmp_path, "--token-adapters", "a").failed(2, "add --new-token")
    adapt("serve", "--tokens", tmp_path / "t.txt", "--new-token", "root").failed(2, "unknown scope 'root'")


def test_a_flag_wins_over_the_environment_and_that_over_the_file(adapt, tmp_path, monkeypatch):
    (tmp_path / "s.yaml").write_text("port: 1\nqueue: 2\nmax-wait: 3\ndtype: bfloat16\n")
    monkeypatch.setenv("ADAPTDOCK_SERVE_PORT", "4")
    monkeypatch.setenv("ADAPTDOCK_SERVE_QUEUE", "5")
    found = decided({"port": "6", "queue": None}, tmp_path / "s.yaml")
    assert found == {"port": "6", "queue": "5", "max_wait": "3", "dtype": "bfloat16"}
    (tmp_path / "s.yaml").write_text("prot: 1\n")
    adapt("serve", "--config", tmp_path / "s.yaml").failed(2, "'prot'", "did you mean port")


def test_a_fleet_without_ray_says_how_to_install_it(adapt, folder, monkeypatch):
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    adapt("serve", "--adapters", folder, "--ray").failed(2, "adapt serve --ray needs Ray: pip install 'adaptdock[ray]'")
    adapt("serve", "--adapters", folder, "--replicas", 3).failed(2, "fleet on Ray: add --ray")
    adapt("serve", "--adapters", folder, "--ray-address", "auto").failed(2, "fleet on Ray: add --ray")
    adapt("serve", "--adapters", folder, "--shared", "--label-file", "x").failed(
        2, "without shared (and without --ray)"
    )


# ------------------------------------------------------------------------------------ a real process


class Process:
    """``adapt serve`` in a process of its own."""

    def __init__(self, folder: Path, backbone: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-c", "import sys; from adaptdock.cli import main; sys.exit(main(sys.argv[1:]))"]
        arguments = ["serve", "--adapters", str(folder), "--backbone", str(backbone), "--port", str(self.port)]
        self.log = folder.parent / f"log-{self.port}"
        with self.log.open("w") as log:
            self.running = subprocess.Popen(
                [*command, *arguments, "--watch", "0.05"], stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        for _ in range(600):
            try:
                assert json.loads(self.get("/readyz"))["status"] == "ok"
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self.log.read_text())

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return answer.read()

    def ask(self, texts: list[str]) -> list[dict]:
        body = json.dumps({"adapter": "one", "inputs": texts}).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/predict", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.loads(answer.read())["predictions"]


def test_a_person_at_a_terminal_reads_the_address(folder, model_folder):
    import pty

    terminal, standard_error = pty.openpty()
    command = [sys.executable, "-c", "import sys; from adaptdock.cli import main; sys.exit(main(sys.argv[1:]))"]
    arguments = ["serve", "--adapters", str(folder), "--backbone", str(model_folder), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb"}
    shown = b""
    with subprocess.Popen([*command, *arguments], stderr=standard_error, env=environment) as running:
        os.close(standard_error)
        while b"Ctrl-C" not in shown and running.poll() is None:
            shown += os.read(terminal, 4096)
        running.kill()
    os.close(terminal)
    port = next(json.loads(line)["port"] for line in shown.splitlines() if b'"listening"' in line)
    assert f"Serving at http://127.0.0.1:{port} (Ctrl-C ends)" in shown.decode()


@pytest.mark.slow
def test_a_signal_ends_the_process_after_what_was_taken_is_answered(folder, model_folder):
    process = Process(folder, model_folder)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(len(process.ask(["ada met bob " * 600] * 60))))
    thread.start()
    while not json.loads(process.get("/readyz"))["waiting"]:
        time.sleep(0.01)
    process.running.send_signal(signal.SIGTERM)
    assert process.running.wait(60) == 0
    thread.join()
    assert found == [60]
    events = [json.loads(line) for line in process.log.read_text().splitlines()]
    assert [one["event"] for one in events][-1] == "stopped"


@pytest.mark.slow
def test_a_process_that_is_killed_while_versions_change_goes_on_with_a_complete_one(folder, model_folder, backbone):
    for attempt in range(3):
        process = Process(folder, model_folder)
        before = process.ask(["ada"])[0]["version"]
        for seed in range(4):
            write_file(folder / "one.safetensors", build_adapter(backbone, "lora", seed=10 * attempt + seed + 1))
            time.sleep(0.04 + 0.03 * attempt)
        process.running.kill()
        process.running.wait()
        again = Process(folder, model_folder)
        assert again.ask(["ada"])[0]["version"] >= before
        versions = folder / ".serving" / "versions"
        state = json.loads(again.get("/v1/adapters/one"))["versions"]
        assert all((versions / f"{one['sha256']}.safetensors").exists() for one in state)
        assert not list(versions.glob(".*"))
        again.running.terminate()
        assert again.running.wait(60) == 0
