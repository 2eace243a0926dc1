"""Writes a copy of a model with new weights in some linear maps; the model in memory stays unchanged."""

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
    """Return the same modules with a copied configuration, without the GGUF mark: saving changes the configuration.

    Raises :class:`BackboneError` for a quantised checkpoint: its saving code would drop the new weights.
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

    Raises :class:`BackboneError` for a bias of a map that has none, a weight that is shared with another module,
    and a weight that is not in memory.
    """
    replacements = {
        parameter: value for module in changed for parameter, value in _new_parameters(module, *changed[module])
    }
    users = _users(whole)
    module: Any
    for module, (name, _, _) in changed.items():
        sharing = [path for user, path in users.get(module.weight, []) if user is not module]
        if sharing:
            raise BackboneError(f"{name} shares its weight with {sharing[0]}, which would change with it")
    state: dict[str, Tensor] = whole.state_dict(keep_vars=True)
    return {name: replacements.get(tensor, tensor).detach() for name, tensor in state.items()}


def _new_parameters(module: Any, name: str, weight: Tensor, bias: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the parameters of a linear map, each with its new value."""
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
    """Return the modules that hold each parameter; a module with several paths counts once."""
    users: dict[Tensor, list[tuple[nn.Module, str]]] = {}
    for path, module in whole.named_modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(parameter, []).append((module, path))
    return users
