"""Virtual embeddings before the embeddings of a batch, in the same layout for each row as if it were alone.

Rows differ in the number of virtual embeddings and in left padding. All masked positions are moved to the front, so a
row's virtual embeddings are directly before its text. Attention with a window, or by distance, depends on that.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from adaptdock.plugins.ports import Virtual


def lay_out(inputs: Mapping[str, Tensor], text_embeddings: Tensor, virtual: Virtual) -> dict[str, Tensor]:
    """Return embeddings (R, L + T, W), attention mask and token types (R, L + T); texts keep the last T places.

    ``text_embeddings`` (R, T, W) are the input embeddings of the texts.
    """
    attended = inputs["attention_mask"]
    front = virtual.mask.to(attended.dtype)
    mask = torch.cat([front, attended], dim=1)
    order = _order(front.shape[1], mask, attended)
    embeddings = torch.cat([virtual.embeddings.to(text_embeddings.dtype), text_embeddings], dim=1)
    laid_out = {
        "inputs_embeds": embeddings.gather(1, order.unsqueeze(-1).expand(embeddings.shape)),
        "attention_mask": mask.gather(1, order),
    }
    if "token_type_ids" in inputs:
        types = torch.cat([torch.zeros_like(front), inputs["token_type_ids"]], dim=1)
        laid_out["token_type_ids"] = types.gather(1, order)
    return laid_out


def token_ids(inputs: Mapping[str, Tensor], virtual: Virtual) -> tuple[Tensor, Tensor]:
    """Return the tokens of the layout, -1 at virtual embeddings, and the mask, both (R, L + T)."""
    attended, tokens = inputs["attention_mask"], inputs["input_ids"]
    mask = torch.cat([virtual.mask.to(attended.dtype), attended], dim=1)
    order = _order(virtual.mask.shape[1], mask, attended)
    front = tokens.new_full((tokens.shape[0], virtual.mask.shape[1]), -1)
    return torch.cat([front, tokens], dim=1).gather(1, order), mask.gather(1, order)


def positions(virtual: Virtual, mask: Tensor, counted: bool) -> Tensor:
    """Return the position numbers (R, L + T) of the layout, the same as if each row were alone.

    ``counted``: the model counts unmasked positions; otherwise it numbers all positions, padding included.
    """
    if counted:
        numbers = mask.cumsum(1) - 1
    else:
        masked = (virtual.mask == 0).sum(1, keepdim=True)
        numbers = torch.arange(mask.shape[1], device=mask.device) - masked.to(mask.device)
    return (numbers * mask).long()  # masked positions get 0, as negative numbers have no embedding


def _order(length: int, mask: Tensor, attended: Tensor) -> Tensor:
    """Return the source place of each position (R, L + T), with masked positions moved to the front."""
    padding = (attended.cumsum(1) == 0).sum(1, keepdim=True)
    before = torch.arange(mask.shape[1], device=mask.device) < length + padding
    # A stable sort preserves the order of the remaining positions.
    return mask.bool().logical_or(~before).int().argsort(dim=1, stable=True)
