"""Ports made of the modules of a transformers model, with role and name."""

from collections.abc import Iterable, Mapping

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from adaptdock.backbones.transformers.probe import Call
from adaptdock.backbones.transformers.roles import attention_role, place, role
from adaptdock.plugins.contracts import Backbone, Port


def linear_port(backbone: Backbone, path: str, module: nn.Module, width: int) -> Port | None:
    """Return the port at a linear map; None for another module, or outside the layers."""
    where, sizes = place(path, backbone.encoder_decoder), widths(module)
    if where is None or sizes is None:
        return None
    siblings = backbone.model.get_submodule(path.rpartition(".")[0]).children()
    port_role = role(where, *sizes, width, [shape for shape in map(widths, siblings) if shape])
    return Port(f"{where.prefix}.{port_role}", "linear", port_role, where.layer, where.stack, path, *sizes)


def embedding_port(model: PreTrainedModel, embeddings: nn.Embedding, encoder_decoder: bool) -> Port:
    """Return the port at the input embeddings."""
    path = next(path for path, module in model.named_modules() if module is embeddings)
    stack = "encoder" if encoder_decoder else ""
    words, width = embeddings.weight.shape
    return Port("embeddings", "embedding", "embeddings", 0, stack, path, words, width)


def lm_head_port(generator: PreTrainedModel | None, ports: Iterable[Port]) -> Port | None:
    """Return the port at the LM head, above the last of the ports; None for a model without a linear LM head."""
    module = None if generator is None else generator.get_output_embeddings()
    sizes = None if module is None else widths(module)
    if generator is None or sizes is None:
        return None
    path = next(path for path, candidate in generator.named_modules() if candidate is module)
    last = max(ports, key=lambda port: (port.stack == "decoder", port.layer))
    return Port("lm_head", "logits", "lm_head", last.layer, last.stack, path, *sizes)


def attention_port(backbone: Backbone, path: str, call: Call) -> Port | None:
    """Return the port at an attention call; None outside the layers."""
    where = place(path, backbone.encoder_decoder)
    if where is None:
        return None
    port_role = attention_role(where)
    return Port(
        f"{where.prefix}.{port_role}",
        "attention",
        port_role,
        where.layer,
        where.stack,
        path,
        heads=call.heads,
        key_width=call.key_width,
        value_width=call.value_width,
    )


def block_port(backbone: Backbone, path: str, width: int) -> Port | None:
    """Return the port at the output of a whole layer; None elsewhere."""
    where = place(path, backbone.encoder_decoder)
    if where is None or where.leaf:
        return None
    return Port(f"{where.prefix}.output", "hidden", "block", where.layer, where.stack, path, width, width)


def unique(port: Port, taken: Mapping[str, Port]) -> Port:
    """Return a port with a free name: its own, or its own with a number."""
    if port.name not in taken:
        return port
    number = next(number for number in range(2, len(taken) + 3) if f"{port.name}.{number}" not in taken)
    return Port(**{**vars(port), "name": f"{port.name}.{number}"})


def widths(module: nn.Module) -> tuple[int, int] | None:
    """Return (inputs, outputs) of a linear map of any type, quantised maps included."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return None
