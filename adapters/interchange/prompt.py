"""Prompts in the format of PEFT, for prompt tuning and for p-tuning, whose network PEFT evaluates on saving."""

import torch

from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget, VirtualOptions
from adaptdock.plugins.toolkit.interchange.peft_virtual import TABLE, read_table
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, refuse

PAIR = "SEQ_2_SEQ_LM"
"""The task type of a model with two halves, each with its own part of the table."""


def from_peft(source: PeftSource[VirtualOptions]) -> MethodWeights:
    """Read a prompt; raise :class:`UsageError` for another width than the embeddings'."""
    options = source.options
    (port,) = source.backbone.ports.select("embedding", ("all",))
    if options.token_dim not in (None, port.outputs):
        raise refuse(
            "prompt tuning",
            f"token_dim is {options.token_dim} in the configuration, and embeddings are {port.outputs} wide here",
        )
    halves = options.num_transformer_submodules or (2 if options.task_type == PAIR else 1)
    table = read_table(source, options.num_virtual_tokens * halves, port.outputs)
    # an encoder-decoder's table has the same number again for the decoder, which PEFT never shows to it
    prompt = table[: options.num_virtual_tokens].clone()
    return MethodWeights({"length": options.num_virtual_tokens}, {port.name: {"prompt": prompt}})


def to_peft(length: int, target: PeftTarget) -> PeftAdapter:
    """Write a prompt as prompt tuning."""
    (parameters,) = target.tensors.values()
    table = parameters["prompt"]
    halves = 2 if target.task_type == PAIR else 1
    stored = torch.cat([table, torch.zeros_like(table)]) if halves == 2 else table  # PEFT never shows the second half
    config = {
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "num_virtual_tokens": length,
        "token_dim": table.shape[1],
        "num_transformer_submodules": halves,
        **target.sizes(),
    }
    return PeftAdapter(config, {TABLE: stored}, prompt_learning=True)
