"""A serving process of its own, which listens on this machine, around a tiny backbone that reads and writes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import torch
from builders import build_adapter
from writers import CHAT, untrained, writing_backbone

from adaptdock.engine.core.assembly import assemble, entry, make_task, method_entries
from adaptdock.engine.core.loading import load_backbone
from adaptdock.hub.artefact.card import BackboneEntry, Card, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile, write_file
from adaptdock.plugins.contracts import Backbone, LoadOptions

RUN = "import sys; from adaptdock.cli import main; sys.exit(main())"


def save_writer(folder: Path) -> Backbone:
    """Save the tiny language model with its tokenizer, and load it as a process would."""
    made = writing_backbone("llama", CHAT)
    assert made.generator is not None
    made.generator.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return load_backbone(str(folder), LoadOptions(device="cpu"))


def certain(backbone: Backbone, task: str, labels: tuple[str, ...], **options: Any) -> AdapterFile:
    """Return an adapter of a task with classes that always gives the first of them, with 9 as its logit."""
    made = build_adapter(backbone, "lora", labels=labels, task=task, **options)
    made.tensors["head.weight"].zero_()
    made.tensors["head.bias"].zero_()
    made.tensors["head.bias"][1 if task == "ner" else 0] = 9.0  # the first class of ner is no entity
    return made


def started(backbone: Backbone, task: str, **options: Any) -> AdapterFile:
    """Return an adapter of a task without classes, as it is before training."""
    methods, fitted = method_entries("lora", {"rank": 2}), make_task(task, options)
    card = Card(
        name=task,
        task=entry("task", task, fitted.options),
        methods=methods,
        backbone=BackboneEntry(id=backbone.id, architecture=backbone.architecture, fingerprint=backbone.fingerprint),
        preprocessing=Preprocessing(max_length=backbone.max_length),
    )
    return AdapterFile(card, assemble(backbone, methods, fitted).start(torch.Generator().manual_seed(0)))


def fill(folder: Path, backbone: Backbone) -> Path:
    """Write adapters of many tasks into a folder."""
    write_file(folder / "people.safetensors", certain(backbone, "ner", ("PER",)))
    write_file(folder / "places.safetensors", certain(backbone, "ner", ("LOC",)))
    write_file(folder / "topic.safetensors", certain(backbone, "classification", ("sport", "food", "travel")))
    write_file(folder / "entail.safetensors", certain(backbone, "pair", ("yes", "no")))
    write_file(folder / "near.safetensors", started(backbone, "embedding"))
    write_file(folder / "asked.safetensors", started(backbone, "qa", no_answer="off"))
    write_file(folder / "silent.safetensors", started(backbone, "qa", no_answer="on", threshold=1e9))
    write_file(folder / "writer.safetensors", untrained(backbone, "generation", max_new_tokens=24))  # type: ignore[arg-type]
    return folder


@contextmanager
def live(*arguments: object, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run ``adapt serve`` on a free port as long as the context is open, and give its address."""
    command = [sys.executable, "-c", RUN, "serve", "--port", "0", "--drain-delay", "0", *map(str, arguments)]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream, env={**os.environ, **(environment or {})})
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        process.wait(30)


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{") and line[-1] == "}"]
        found = next((line for line in lines if line.get("event") == "listening"), None)
        if found is not None and any(line.get("event") == "ready" for line in lines):
            address = f"http://127.0.0.1:{found['port']}"
            assert httpx2.get(f"{address}/readyz").status_code == 200
            return address
        time.sleep(0.05)
    raise AssertionError(f"the process did not begin: {log.read_text()}")
