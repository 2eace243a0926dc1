"""A trial of an adapter on a backbone, before any file is written."""

import torch
from torch import Tensor

from adaptdock.engine.core.docked_adapters import DockedAdapters
from adaptdock.engine.core.forward import routed_lm_head
from adaptdock.errors import MismatchError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.interchange.reference import Reference
from adaptdock.plugins.contracts import Feature, Invoked

EXACT = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Largest difference of a logit from the library's, relative to the largest logit, by the backbone's precision."""
ROUNDED = 0.1
"""The same for a backbone in 16 bit: the library computes in float32."""


def try_out(dock: DockedAdapters, adapter: AdapterFile) -> None:
    """Send a small batch through a backbone with an adapter, and raise any error of the pass."""
    name = dock.dock(adapter)
    inputs = dock.backbone.trial_inputs()
    try:
        with dock.boarding([name] * len(inputs["attention_mask"])) as rows:
            reads = rows[0][-1].assembly.head.reads
            dock.hidden(rows, inputs, reads)
    finally:
        dock.unload(name)


def effect(dock: DockedAdapters, adapter: AdapterFile) -> float:
    """Return the largest change of a hidden state, or of a logit at the LM head, by an adapter on a small batch."""
    name, backbone = dock.dock(adapter), dock.backbone
    methods = [part.method for part in dock.assembly(name).parts]
    invocation = [token for method in methods if isinstance(method, Invoked) for token in method.invocation]
    inputs = backbone.trial_inputs()
    if invocation:
        ids = torch.tensor([[*tokens, *invocation, tokens[0]] for tokens in inputs["input_ids"].tolist()])
        inputs = {"input_ids": ids.to(backbone.device), "attention_mask": torch.ones_like(ids).to(backbone.device)}
    results, rows_of_trial = [], len(inputs["attention_mask"])
    try:
        for names in ([name] * rows_of_trial, [None] * rows_of_trial):
            with dock.boarding(names) as rows:
                head = dock.assembly(name).head
                states = dock.hidden(rows, inputs, head.reads)
                with torch.inference_mode(), routed_lm_head(dock.ports, head, dock.mixed(rows), states):
                    results.append(backbone.vocabulary_logits(states) if head.over == "vocabulary" else states)
    finally:
        dock.unload(name)
    return float((results[0] - results[1]).abs().max())


def compare(dock: DockedAdapters, adapter: AdapterFile, reference: Reference) -> float:
    """Return the largest difference of a logit from the library's, at tokens that are not padding.

    Raises :class:`MismatchError` if the difference is larger than what rounding explains.
    """
    name = dock.dock(adapter)
    inputs = reference.inputs
    features = [
        Feature({key: tensor[row].tolist() for key, tensor in inputs.items()}) for row in range(len(reference.logits))
    ]
    try:
        with dock.boarding([name] * len(features)) as rows:
            logits = dock.run(rows, features)
    finally:
        dock.unload(name)
    pairs = zip(logits, reference.logits, inputs["attention_mask"], strict=True)
    largest = max(_difference(row.cpu(), wanted, mask.bool()) for row, wanted, mask in pairs)
    scale = max(1.0, float(reference.logits.abs().max()))
    if not largest <= scale * EXACT.get(dock.backbone.dtype, ROUNDED):
        raise MismatchError(
            f"on a small batch the imported adapter differs from the library that saved it: by {largest:.1e} in a "
            f"logit, of at most {scale:.1e}. Nothing was written. Compare the backbone with the model that the adapter "
            f"was trained on, and its precision (--dtype)."
        )
    return largest


def _difference(logits: Tensor, expected: Tensor, mask: Tensor) -> float:
    """Return the largest difference of a row's logits; positions of a prompt come first, and are left out."""
    if logits.ndim == 2:
        expected = expected[-len(logits) :]
        if len(logits) == len(mask):
            logits, expected = logits[mask], expected[mask]
    return float((logits - expected).abs().max())
