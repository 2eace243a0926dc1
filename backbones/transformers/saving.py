"""A model written with other weights in some linear maps; the model in memory stays as it is."""

from collections.abc import Iterator, Mapping
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from adaptdock.backbones.transformers.silence import quiet
from adaptdock.errors import BackboneError

Changed = Mapping[nn.Module, tuple[str, Tensor, Tensor]]
"""Module -> the name of its port, its new weight (outputs, inputs), its new bias (outputs)."""


def write(whole: PreTrainedModel, tokenizer: Any, folder: Path, changed: Changed) -> None:
    """Write a changed copy of a model, and its tokenizer, as transformers writes them."""
    state = with_maps(whole, changed)
    with quiet():
        _stand_in(whole).save_pretrained(folder, state_dict=state)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def _stand_in(whole: PreTrainedModel) -> PreTrainedModel:
    """Return the same modules under a configuration of their own: saving marks it, and forgets that they were GGUF.

    Raises :class:`BackboneError` for a checkpoint that is quantised: its own saving would drop what has changed.
    """
    plain: PreTrainedModel = copy(whole)
    plain.config = deepcopy(whole.config)
    quantizer: Any = getattr(whole, "hf_quantizer", None)
    if quantizer is None:
        return plain
    kind = str(getattr(quantizer.quantization_config.quant_method, "value", quantizer.quantization_config.quant_method))
    if kind != "gguf" or not all(parameter.is_floating_point() for parameter in whole.parameters()):
        raise BackboneError(f"its weights are quantised ({kind}): use the checkpoint that they were quantised from")
    plain.hf_quantizer = None
    if hasattr(plain.config, "quantization_config"):
        del plain.config.quantization_config
    return plain


def with_maps(whole: nn.Module, changed: Changed) -> dict[str, Tensor]:
    """Return a model's state dict with other weights and biases in some linear maps.

    Raises :class:`BackboneError` for a bias where the map has none, a weight that another module uses too,
    and one that is not in memory.
    """
    new = {parameter: value for module in changed for parameter, value in _new(module, *changed[module])}
    users = _users(whole)
    module: Any
    for module, (name, _, _) in changed.items():
        others = [path for other, path in users.get(module.weight, []) if other is not module]
        if others:
            raise BackboneError(f"{name} shares its weight with {others[0]}, which would change with it")
    state: dict[str, Tensor] = whole.state_dict(keep_vars=True)
    return {name: new.get(tensor, tensor).detach() for name, tensor in state.items()}


def _new(module: Any, name: str, weight: Tensor, bias: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the parameters of a linear map, each with what stands in its place."""
    if module.weight.is_meta:
        raise BackboneError(f"the weights of {name} are not in memory: load the backbone without a device map")
    yield module.weight, _like(module.weight, weight.T if isinstance(module, Conv1D) else weight)
    if getattr(module, "bias", None) is not None:
        yield module.bias, _like(module.bias, bias)
    elif bias.any():
        raise BackboneError(
            f"{name} has no bias in this architecture, and this adapter would need one there: it cannot be merged"
        )


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    return value.to(parameter.device, parameter.dtype).contiguous()


def _users(whole: nn.Module) -> dict[Tensor, list[tuple[nn.Module, str]]]:
    """Return, for each parameter, the modules that hold it; a module that stands in several places counts once."""
    found: dict[Tensor, list[tuple[nn.Module, str]]] = {}
    for path, module in whole.named_modules():
        for parameter in module.parameters(recurse=False):
            found.setdefault(parameter, []).append((module, path))
    return found
