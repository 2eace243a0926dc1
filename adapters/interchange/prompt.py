"""Prompts in the format of PEFT: prompt tuning, and the methods whose result is a prompt.

PEFT evaluates the network of p-tuning (Liu et al. 2021, arXiv:2103.10385) and the projection of CPT (Blau et al. 2024,
arXiv:2410.17222) on saving. Multitask prompt tuning (Wang et al. 2023, arXiv:2303.02861) multiplies a common prompt
elementwise by a low-rank matrix of each task.
"""

import torch
from torch import Tensor

from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget, VirtualOptions
from adaptdock.plugins.toolkit.interchange.peft_virtual import TABLE, read_table
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, refuse

SHARED = "MULTITASK_PROMPT_TUNING"
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
    if options.peft_type == SHARED:
        table = table.float() * _of_task(source, len(table), port.outputs)
    # an encoder-decoder's table has the same number again for the decoder, which PEFT never shows to it
    prompt = table[: options.num_virtual_tokens].clone()
    return MethodWeights({"length": options.num_virtual_tokens}, {port.name: {"prompt": prompt}})


def _of_task(source: PeftSource[VirtualOptions], length: int, width: int) -> Tensor:
    """Return the matrix (L, W) of the only task; raise :class:`UsageError` for several tasks or two halves."""
    if source.backbone.encoder_decoder:
        raise refuse("multitask prompt tuning of an encoder-decoder", "peft puts prompts in front of the decoder, too")
    tasks = source.options.num_tasks or 1
    if tasks > 1:
        raise refuse(
            f"multitask prompt tuning of {tasks} tasks",
            "its prompt depends on the task number of each call. Save it with one task: in peft, load it as the start "
            "of a configuration with num_tasks=1 and prompt_tuning_init EXACT_SOURCE_TASK",
        )
    tensors = source.tensors
    columns = tensors.take("prefix_task_cols")
    rows = tensors.take("prefix_task_rows")
    if columns.ndim != 3 or columns.shape != (1, length, rows.shape[1]) or rows.shape != (1, columns.shape[2], width):
        shapes = f"{tuple(columns.shape)} and {tuple(rows.shape)}"
        raise refuse("this multitask prompt", f"its factors are {shapes}, for {length} positions of width {width}")
    return columns[0].float() @ rows[0].float()


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
