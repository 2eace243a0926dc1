"""The ports of a transformers model, from its modules and from the findings of the probe."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from adaptdock.backbones.transformers import attention
from adaptdock.backbones.transformers.blocks import Blocks
from adaptdock.backbones.transformers.norms import is_norm, norm_ports
from adaptdock.backbones.transformers.ports import (
    attention_port,
    block_port,
    embedding_port,
    linear_port,
    lm_head_port,
    unique,
    widths,
)
from adaptdock.backbones.transformers.probe import Findings
from adaptdock.backbones.transformers.roles import is_expert, place
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Port, Ports


def open_ports(
    backbone: Any, model: PreTrainedModel, width: int, shown: Findings
) -> tuple[Ports, dict[nn.Module, Port]]:
    """Return the ports of a model, and the attention ports by the module that computes attention.

    ``width`` is the width of the states between layers. Raises :class:`BackboneError` where nothing can be adapted.
    """
    closed = _closed(backbone, shown)
    ports: dict[str, Port] = {}
    attending: dict[nn.Module, Port] = {}
    for path, module in model.named_modules():
        port = None
        if shown.rows_told(module) and not is_expert(path):
            port = linear_port(backbone, path, module, width)
        elif module in shown.attention:
            port = attention_port(backbone, path, shown.attention[module])
        if port is not None:
            port = unique(port, ports)
            ports[port.name] = port
            if port.kind == "attention":
                attending[module] = port
    for port in (*_norm_ports(backbone, width, shown), *_block_ports(backbone, shown)):
        port = unique(port, ports)
        ports[port.name] = port
    table = called_table(model, shown)
    if shown.states.get(table):
        ports["embeddings"] = embedding_port(model, table, backbone.encoder_decoder)
    lm_head = None if shown.vocabulary_closed else lm_head_port(backbone.generator, ports.values())
    if lm_head is not None:
        ports[lm_head.name] = lm_head
    try:
        ports["layers"] = _layers_port(model)
    except BackboneError as error:
        closed["layers"] = str(error)
    if not any(port.kind == "linear" and port.role != "other" for port in ports.values()):
        raise BackboneError(_nothing_open(backbone, closed))
    return Ports(ports.values(), backbone.architecture, closed, backbone.residual), attending


def watched(model: PreTrainedModel, encoder_decoder: bool) -> list[nn.Module]:
    """Return the modules, beside linear maps, that the probe watches: norms, embeddings, experts, whole layers."""
    modules = []
    for path, module in model.named_modules():
        where = place(path, encoder_decoder)
        is_layer = where is not None and not where.leaf
        if is_norm(module) or isinstance(module, nn.Embedding) or is_layer or _are_experts(path):
            modules.append(module)
    return modules


def _are_experts(path: str) -> bool:
    """Return whether a module holds all experts of a layer in one, which is not a linear map."""
    return path.rpartition(".")[2] == "experts"


def called_table(model: PreTrainedModel, shown: Findings) -> Any:
    """Return the module that looks up tokens: an encoder may use a copy that shares the weights.

    The first layer of a model of images or sounds is returned as it is.
    """
    table = model.get_input_embeddings()
    weight = getattr(table, "weight", None)
    shared = [module for module in shown.states if weight is not None and getattr(module, "weight", None) is weight]
    return shared[0] if shared and table not in shown.states else table


def _closed(backbone: Any, shown: Findings) -> dict[str, str]:
    """Return the reasons why kinds of ports are closed on this model."""
    model, closed = backbone.model, {}
    name = attention.implementation(model)
    if name not in attention.WRAPPED:
        closed["attention"] = f"it was loaded with the attention implementation {name!r}; use sdpa or eager"
    elif not shown.attention:
        closed["attention"] = (
            f"the attention of {type(model).__name__} does not go through the attention interface of "
            f"transformers, so nothing can be put in front of its keys; use lora or bottleneck instead"
        )
    if shown.embedding_closed:
        closed["front"] = shown.embedding_closed
    if not shown.states.get(called_table(model, shown)):
        closed["embedding"] = (
            shown.embedding_closed or "the rows of a batch cannot be told apart in its input embeddings"
        )
    mixed = [
        path
        for path, module in model.named_modules()
        if place(path, backbone.encoder_decoder)
        and (is_expert(path) or (module in shown.seen and not shown.rows_told(module)))
    ]
    if mixed:
        closed["linear"] = f"the rows of a batch cannot be told apart in {mixed[0]} and others like it"
    return closed


def _nothing_open(backbone: Any, closed: Mapping[str, str]) -> str:
    if "linear" in closed:
        return f"nothing can be adapted in the architecture {backbone.architecture!r}: {closed['linear']}"
    types = ", ".join(sorted({type(module).__name__ for module in backbone.model.modules()}))
    return f"no role was recognised in the architecture {backbone.architecture!r}; its modules are of the types {types}"


def _norm_ports(backbone: Any, width: int, shown: Findings) -> Iterator[Port]:
    paths = {module: path for path, module in backbone.model.named_modules()}
    calls = [
        (paths[module], module)
        for module in shown.called
        if is_norm(module) or widths(module) is not None or _are_experts(paths[module])
    ]
    return norm_ports(calls, shown.states, width, backbone.encoder_decoder)


def _block_ports(backbone: Any, shown: Findings) -> Iterator[Port]:
    """Yield the ports at the outputs of whole layers: modules whose outputs are as wide as the last states."""
    for path, module in backbone.model.named_modules():
        if shown.states.get(module) == shown.width and not isinstance(module, nn.Embedding):
            port = block_port(backbone, path, shown.width)
            if port is not None:
                yield port


def _layers_port(model: PreTrainedModel) -> Port:
    blocks = Blocks(model)
    return Port("layers", "layers", "layers", len(blocks), "", blocks.path)
