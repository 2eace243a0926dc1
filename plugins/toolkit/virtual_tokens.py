"""Virtual embeddings in front of a batch's own, each row laid out as if it were alone.

Rows have fewer of them than others, and padding on the left: all that is nothing goes to the very front, so
that what a row does have stands directly before its text. Attention with a window, or by distance, sees that.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from adaptdock.plugins.ports import Virtual


def lay_out(inputs: Mapping[str, Tensor], own: Tensor, virtual: Virtual) -> dict[str, Tensor]:
    """Return embeddings (R, L + T, W), attention mask and token types (R, L + T); texts stay in the last T places.

    ``own`` (R, T, W) are the embeddings of the inputs.
    """
    attended = inputs["attention_mask"]
    front = virtual.mask.to(attended.dtype)
    mask = torch.cat([front, attended], dim=1)
    order = _order(front.shape[1], mask, attended)
    embeddings = torch.cat([virtual.embeddings.to(own.dtype), own], dim=1)
    laid_out = {
        "inputs_embeds": embeddings.gather(1, order.unsqueeze(-1).expand(embeddings.shape)),
        "attention_mask": mask.gather(1, order),
    }
    if "token_type_ids" in inputs:
        types = torch.cat([torch.zeros_like(front), inputs["token_type_ids"]], dim=1)
        laid_out["token_type_ids"] = types.gather(1, order)
    return laid_out


def token_ids(inputs: Mapping[str, Tensor], virtual: Virtual) -> tuple[Tensor, Tensor]:
    """Return the tokens of what was laid out, -1 at virtual embeddings, and their mask, (R, L + T) both."""
    attended, tokens = inputs["attention_mask"], inputs["input_ids"]
    mask = torch.cat([virtual.mask.to(attended.dtype), attended], dim=1)
    order = _order(virtual.mask.shape[1], mask, attended)
    front = tokens.new_full((tokens.shape[0], virtual.mask.shape[1]), -1)
    return torch.cat([front, tokens], dim=1).gather(1, order), mask.gather(1, order)


def positions(virtual: Virtual, mask: Tensor, counted: bool) -> Tensor:
    """Return the positions (R, L + T) that a model gives to what was laid out, as if each row were alone.

    They are ``counted`` over what the mask shows, or else numbered from the first place on, padding included.
    """
    if counted:
        numbers = mask.cumsum(1) - 1
    else:
        nothing = (virtual.mask == 0).sum(1, keepdim=True)
        numbers = torch.arange(mask.shape[1], device=mask.device) - nothing.to(mask.device)
    return (numbers * mask).long()  # what is masked has no position, least of all one that there is not


def _order(length: int, mask: Tensor, attended: Tensor) -> Tensor:
    """Return the places (R, L + T) that values are taken from: before each text, what is masked comes first."""
    padding = (attended.cumsum(1) == 0).sum(1, keepdim=True)
    before = torch.arange(mask.shape[1], device=mask.device) < length + padding
    return mask.bool().logical_or(~before).int().argsort(dim=1, stable=True)
