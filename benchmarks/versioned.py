"""Adapters whose answers name the adapter and its version, and a process of ``adapt serve`` that can be killed."""

import http.client
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from adaptdock.engine.core.assembly import assemble, entry, make_task, method_entries
from adaptdock.hub.artefact.card import BackboneEntry, Card, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile, write_file

TEXT = "Ada Lovelace met Charles Babbage in London before she wrote for the Royal Society ."
LABELS = 256
"""Versions of an adapter that have labels of their own; version 257 has the label of version 1."""
STARTING_SECONDS, ANSWER_SECONDS = 180.0, 90.0


def label(name: str, number: int) -> str:
    """Return the label that a version of an adapter gives to every text."""
    return f"{name} v{number % LABELS}"


def versioned(backbone: Any, name: str, number: int, salt: int = 0) -> AdapterFile:
    """Return a LoRA adapter that gives every text its own label; its weights act, and differ with the salt."""
    methods = method_entries("lora", {"rank": 8})
    task = make_task("topic", {"labels": [label(name, version) for version in range(LABELS)]})
    generator = torch.Generator().manual_seed(number + 10_000 * salt)
    tensors = {
        key: (tensor + 0.02 * torch.randn(tensor.shape, generator=generator)).half()
        for key, tensor in assemble(backbone, methods, task).start(generator).items()
    }
    tensors["head.weight"].zero_()
    tensors["head.bias"].zero_()
    tensors["head.bias"][number % LABELS] = 19.0
    card = Card(
        name=name,
        version=str(number),
        task=entry("task", "topic", task.options),
        methods=methods,
        backbone=BackboneEntry(id="minilm", architecture=backbone.architecture, fingerprint=backbone.fingerprint),
        preprocessing=Preprocessing(max_length=128),
    )
    return AdapterFile(card, tensors)


def content(backbone: Any, name: str, number: int, place: Path, salt: int = 0) -> bytes:
    """Return the bytes of a version's file; ``place`` is a path for it, of this caller alone."""
    write_file(place, versioned(backbone, name, number, salt))
    return place.read_bytes()


def is_right(prediction: Mapping[str, Any], name: str) -> bool:
    """Return whether an answer is of the adapter and version that it names."""
    return bool(
        prediction["adapter"] == name and prediction["prediction"]["label"] == label(name, prediction["version"])
    )


class Process:
    """``adapt serve`` of a folder, with a log file; :meth:`start` again continues on the same state."""

    def __init__(self, folder: Path, log: Path, flags: Sequence[str] = (), variables: Mapping[str, str] | None = None):
        self.folder, self.log, self.flags, self.variables = folder, log, flags, dict(variables or {})
        self.port = 0
        self._process: Any = None

    @property
    def pid(self) -> int:
        """The id of the process."""
        return int(self._process.pid)

    def start(self, wait: bool = True) -> float:
        """Start the process on a free port; return the seconds until it is ready, or 0 without waiting."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        started = time.monotonic()
        self._process = self._launched(
            ["serve", "--adapters", str(self.folder), "--device", "cpu", "--port", str(self.port), *self.flags]
        )
        while wait and not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > started + STARTING_SECONDS:
                raise SystemExit(f"the process did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.1)
        return time.monotonic() - started if wait else 0.0

    def _launched(self, arguments: Sequence[str]) -> Any:
        with self.log.open("ab") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", "adaptdock", *arguments],
                stdout=stream,
                stderr=stream,
                env={**os.environ, **self.variables},
            )

    def is_ready(self) -> bool:
        """Return whether the process takes requests."""
        with suppress(OSError, http.client.HTTPException):
            return self.call("GET", "/readyz")[0] == 200
        return False

    def end(self, number: int = signal.SIGTERM, seconds: float = 60.0) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        self._process.send_signal(number)
        try:
            return int(self._process.wait(seconds))
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise SystemExit(f"the process did not end within {seconds:g} s of signal {number}") from None

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Send a request on a new connection; return status, JSON (or None) and headers of the answer."""
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request(method, path, sent, {"Content-Type": kind, **(headers or {})})
            answer = connection.getresponse()
            received = answer.read()
            parsed = json.loads(received) if received[:1] in (b"{", b"[") else None
            return answer.status, parsed, dict(answer.headers)
        finally:
            connection.close()

    def ask(self, name: str) -> Mapping[str, Any]:
        """Return an adapter's prediction for :data:`TEXT`."""
        status, answer, _ = self.call("POST", "/v1/predict", {"adapter": name, "inputs": [TEXT]})
        if status != 200:
            raise SystemExit(f"{name}: {status} {answer}")
        return answer["predictions"][0]

    def problems(self) -> list[str]:
        """Return the lines of the log that are errors, or no JSON."""
        lines = []
        for line in self.log.read_text().splitlines():
            try:
                level = json.loads(line).get("level", "")
            except (ValueError, AttributeError):
                level = "no JSON"
            if re.fullmatch("error|critical|no JSON", level, flags=re.IGNORECASE):
                lines.append(line)
        return lines


class WarmProcess(Process):
    """A process that starts in seconds: it is forked from one that has imported the libraries."""

    def _launched(self, arguments: Sequence[str]) -> Any:
        return _Forked(arguments, self.log)


class _Forked:
    """A forked ``adapt`` with the methods of :class:`subprocess.Popen` that are used here."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["adaptdock.serving.http.process", "adaptdock.backbones.huggingface"])
        self._process = context.Process(target=_run, args=(list(arguments), str(log)))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("adapt", seconds)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        assert self.pid is not None
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def _run(arguments: list[str], log: str) -> None:
    from adaptdock.cli import main

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    raise SystemExit(main(arguments))
