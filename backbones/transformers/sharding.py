"""A frozen model divided among processes: each holds a share of the weights of all blocks (torch's FSDP2).

A block gathers its weights before it computes, and drops those of the other processes afterwards. What is outside the
blocks (embeddings, last norm, map to the vocabulary) is in each process: adapters, heads and the search read it
directly. All processes have to compute the same number of batches.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from adaptdock.errors import BackboneError


def divide(model: PreTrainedModel, device: str) -> str:
    """Divide the blocks of a model in host memory among all processes, move it to a device, and describe the shares.

    Raises :class:`BackboneError` for a model without blocks of transformers.
    """
    from torch.distributed.device_mesh import init_device_mesh  # these imports take time, and few runs need them
    from torch.distributed.fsdp import fully_shard

    blocks = _blocks(model)
    if not blocks:
        raise BackboneError(
            f"--shard-backbone divides the blocks of a model, and {type(model).__name__} has none that transformers "
            f"marks as such: leave it out"
        )
    kind = device.partition(":")[0]
    mesh = init_device_mesh(kind, (torch.distributed.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    if kind != "cpu":
        _move_rest(model, device, blocks)
    return _described(model, mesh.size())


def whole(weight: Tensor) -> Tensor:
    """Return a weight with the shares of all processes, each of which has to ask for it."""
    gather = getattr(weight, "full_tensor", None)  # of a DTensor
    return weight if gather is None else gather()


def _blocks(module: nn.Module) -> list[nn.Module]:
    """Return the outermost blocks, by the base class that all blocks of transformers have."""
    if isinstance(module, GradientCheckpointingLayer):
        return [module]
    return [block for child in module.children() for block in _blocks(child)]


def _move_rest(module: nn.Module, device: str, blocks: list[nn.Module]) -> None:
    """Move what is outside the divided blocks; FSDP has moved the blocks."""
    if module in blocks:
        return
    for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
        tensor.data = tensor.data.to(device)
    for child in module.children():
        _move_rest(child, device, blocks)


def _described(model: nn.Module, count: int) -> str:
    parts = list(model.parameters())
    total = sum(part.numel() * part.element_size() for part in parts)
    held = sum(_local(part).numel() * part.element_size() for part in parts)
    return f"{held / 1e6:,.2f} of {total / 1e6:,.2f} MB of weights in each of {count} processes"


def _local(weight: Tensor) -> Tensor:
    """Return the share of this process of a weight."""
    share = getattr(weight, "to_local", None)
    return weight if share is None else share()
