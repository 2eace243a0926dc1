"""A divided backbone beside the same one whole, in a process that torchrun could have started.

``shard_checks.py RESULTS ARCHITECTURE...`` writes ``{check: difference}`` as JSON; a check that fails has its error.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"

import torch
from gpu.comparisons import (
    apart,
    gradients,
    logits,
    of_every_method,
    same,
    stepped,
    with_task,
    write_checkpoint,
    written,
)
from torch.distributed.tensor import DTensor

from adaptdock.engine.core.distributed import leave, ranks, shared
from adaptdock.engine.core.loading import load_backbone
from adaptdock.plugins.contracts import Backbone, LoadOptions

results: dict[str, Any] = {}


def check(name: str, compare: Callable[[], Any]) -> None:
    try:
        results[name] = compare()
    except Exception as error:
        if os.environ.get("TRACEBACKS"):
            raise
        results[name] = f"{type(error).__name__}: {error}"


def shares(backbone: Backbone) -> list[float]:
    """Return the share of the blocks' weights in this process, and of all weights."""
    parts = list(backbone.model.parameters())
    divided = [part for part in parts if isinstance(part, DTensor)]
    local = sum(part.to_local().numel() for part in divided)
    total = sum(part.numel() for part in divided)
    return [local / total, (local + sum(part.numel() for part in parts) - total) / sum(part.numel() for part in parts)]


def compare(architecture: str, folder: Path) -> None:
    host = load_backbone(str(folder), LoadOptions(device="cpu"))
    backbone = load_backbone(str(folder), LoadOptions(device="cpu", shard_backbone=True))
    results[f"{architecture}: shares"] = shares(backbone)
    adapters = of_every_method(host, folder)
    for name, adapter in adapters.items():
        check(
            f"{architecture}: training {name}",
            lambda a=adapter: apart(*(gradients(b, a, "cpu") for b in (host, backbone))),
        )
        rows = [name] * 4
        check(
            f"{architecture}: logits {name}", lambda r=rows: apart(*(logits(b, adapters, r) for b in (host, backbone)))
        )
    if host.generator is not None:
        writers = {method: with_task(host, "generation", {}, method) for method in ("lora", "prefix", "prompt")}
        for name, write in (("generate", written), *((("steps", stepped),) if host.writes_in_steps else ())):
            check(f"{architecture}: {name}", partial(same_texts, write, host, backbone, writers))


def same_texts(write: Callable[..., Any], host: Backbone, backbone: Backbone, adapters: Any) -> float:
    return same(write(host, adapters), write(backbone, adapters))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[2:]:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(shared(temporary))
            if ranks().first:
                write_checkpoint(folder, case)
            shared(None)
            compare(case, folder)
            shared(None)
    Path(f"{sys.argv[1]}.{ranks().rank}").write_text(json.dumps(results))
    leave()
