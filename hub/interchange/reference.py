"""What the other library computes on a small batch, to compare an import with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

ROWS, LENGTH, FIRST = 3, 9, 5
"""Size of the batch, and its smallest token."""


@dataclass(frozen=True)
class Reference:
    """Inputs (R, T) of a batch with padding, and the logits of the library: (R, classes), or (R, T, classes)."""

    inputs: "dict[str, Tensor]"
    logits: "Tensor"


def probe_inputs(model: "nn.Module", padded: bool, front: Sequence[int] = ()) -> "dict[str, Tensor]":
    """Return random tokens for a model of transformers, padded on the right if asked; for a decoder, answers too.

    ``front`` are the first tokens of each text.
    """
    import torch

    config: Any = model.config
    words = int(config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(min(FIRST, words - 1), words, (ROWS, LENGTH), generator=generator)
    tokens = torch.cat([torch.tensor(front, dtype=torch.long).expand(ROWS, -1), tokens], dim=1)
    mask = torch.ones_like(tokens)
    for row in range(1, ROWS if padded else 1):
        mask[row, len(front) + LENGTH - 2 * row :] = 0
    padding = getattr(config, "pad_token_id", None) or 0
    inputs = {"input_ids": torch.where(mask.bool(), tokens, padding), "attention_mask": mask}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(min(FIRST, words - 1), words, (ROWS, LENGTH), generator=generator)
    return inputs


def reference(model: "nn.Module", kind: str, padded: bool = True) -> Reference:
    """Return the result of a model of peft for a task type; without a head, the mean state of each text.

    ``padded`` is false where the library itself reads padding: a head after a prompt in a causal model.
    """
    import torch

    configs = list(getattr(model, "peft_config", {}).values())
    invocation = [token for config in configs for token in getattr(config, "alora_invocation_tokens", None) or ()]
    inputs = probe_inputs(model, padded, invocation)
    tasks: dict[str, Any] = {}
    if any(config.peft_type == "MULTITASK_PROMPT_TUNING" for config in configs):
        tasks["task_ids"] = torch.zeros(ROWS, dtype=torch.long)
    with torch.no_grad():
        output = model(**inputs, **tasks)
    if kind == "QUESTION_ANS":
        return Reference(inputs, torch.stack([output.start_logits, output.end_logits], dim=-1))
    if kind == "FEATURE_EXTRACTION":
        weights = inputs["attention_mask"].unsqueeze(-1)
        return Reference(inputs, (output[0] * weights).sum(1) / weights.sum(1))
    return Reference(inputs, output.logits)
