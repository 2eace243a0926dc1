"""A trial of an adapter on a backbone, before any file is written."""

import torch

from adaptdock.engine.core.docked_adapters import DockedAdapters
from adaptdock.hub.artefact.file import AdapterFile

TOKENS = ((5, 6, 7), (8, 5, 9))


def try_out(dock: DockedAdapters, adapter: AdapterFile) -> None:
    """Send a small batch through a backbone with an adapter, and raise any error of the pass."""
    name = dock.dock(adapter)
    ids = torch.tensor(TOKENS, device=dock.backbone.device)
    try:
        with dock.boarding([name] * len(ids)) as rows:
            reads = rows[0][-1].assembly.head.reads
            dock.hidden(rows, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, reads)
    finally:
        dock.unload(name)
