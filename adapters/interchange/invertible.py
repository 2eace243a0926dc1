"""Invertible adapters in the format of AdapterHub (``NICECouplingBlock`` in ``adapters/methods/modeling.py``).

In the library they are an option of bottlenecks; the import and the export treat them as a method of their own.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from adaptdock.errors import AdaptError
from adaptdock.plugins.contracts import Backbone, Port
from adaptdock.plugins.toolkit.interchange.activations import foreign_name, our_name
from adaptdock.plugins.toolkit.interchange.adapterhub import (
    AdapterHubMethod,
    AdapterHubSource,
    AdapterHubTarget,
    MethodOptions,
    whole_model,
)
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, Named, contradiction, refuse

KIND = "invertible"
"""The architecture of the part of a configuration with an invertible adapter."""
MODULE = "invertible_adapters"
PARTS = {
    f"{name}_{part}": f"{name.upper()}.{layer}.{tensor}"
    for name in ("f", "g")
    for part, layer, tensor in (
        ("down", 0, "weight"),
        ("down_bias", 0, "bias"),
        ("up", 2, "weight"),
        ("up_bias", 2, "bias"),
    )
}
"""Our names of the tensors -> those of the library."""
POSITIONS_AFTER = "there the library puts it after the position embeddings, where adaptdock has no port"


class InvertibleOptions(MethodOptions):
    """AdapterHub's options of an invertible adapter."""

    inv_adapter: Literal["nice", "glow"]
    inv_adapter_reduction_factor: Annotated[float, Field(gt=0, le=1e6)]
    non_linearity: str | None


def halves(width: int) -> tuple[int, int]:
    """Return the widths of the two halves."""
    return width // 2, width - width // 2


def from_adapterhub(source: AdapterHubSource[InvertibleOptions]) -> MethodWeights:
    """Read an invertible adapter; raise :class:`UsageError` where the library would compute something else."""
    options, path = source.options, source.tensors.path
    if options.inv_adapter == "glow":
        raise refuse(
            "inv_adapter glow",
            "the library's block divides the positions of a text instead of the width, so it has no defined result",
        )
    if source.head_type in ("causal_lm", "masked_lm", "seq2seq_lm"):
        raise refuse(
            f"inv_adapter with the head {source.head_type}",
            "the library inverts the states before the LM head; import the adapter without its head_config.json",
        )
    port, group = _place(source.backbone), whole_model(source, MODULE)
    if group is None:
        raise contradiction(path, "inv_adapter", options.inv_adapter, MODULE, "is missing")
    factor, (first, second) = options.inv_adapter_reduction_factor, halves(port.outputs)
    tensors: Named = {}
    for name, inputs, outputs in (("f", second, first), ("g", first, second)):
        inner = int(inputs // factor)
        reason = f"the width is {port.outputs} and inv_adapter_reduction_factor {factor:g}"
        shapes = {"down": (inner, inputs), "down_bias": (inner,), "up": (outputs, inner), "up_bias": (outputs,)}
        tensors |= {
            f"{name}_{part}": group.taken(PARTS[f"{name}_{part}"], shape, reason) for part, shape in shapes.items()
        }
    values = {"reduction_factor": factor, "activation": our_name(options.non_linearity, "the invertible adapter")}
    return MethodWeights(values, {port.name: tensors})


def _place(backbone: Backbone) -> Port:
    """Return the port after the embeddings; raise :class:`UsageError` where the library acts elsewhere."""
    what = f"inv_adapter in {backbone.architecture}"
    if backbone.encoder_decoder:
        raise refuse(what, "there the library also inverts the states of the decoder")
    norms = [port for port in backbone.ports if port.kind == "norm" and port.role == "embedding_norm"]
    if norms:
        return norms[0]
    if _adds_positions(backbone):
        raise refuse(what, POSITIONS_AFTER)
    try:
        return backbone.ports.select("embedding", ("all",))[0]
    except AdaptError as error:
        raise refuse(what, str(error)) from None


def _adds_positions(backbone: Backbone) -> bool:
    """Return whether the model has more than one table of embeddings: one is of tokens, another of positions."""
    from torch import nn

    return sum(isinstance(module, nn.Embedding) for module in backbone.model.modules()) > 1


def to_adapterhub(options: Mapping[str, Any], target: AdapterHubTarget) -> AdapterHubMethod:
    """Write an invertible adapter; raise :class:`UsageError` where the library acts elsewhere."""
    port = _place(target.backbone)
    if [place.name for place in target.ports] != [port.name]:
        raise refuse("this invertible adapter", f"AdapterHub's acts at {port.name} alone")
    config = {
        "architecture": KIND,
        "inv_adapter": "nice",
        "inv_adapter_reduction_factor": options["reduction_factor"],
        "non_linearity": foreign_name(options["activation"]),
    }
    front = f"{MODULE}.{target.name}"
    stored = {f"{front}.{PARTS[name]}": tensor for name, tensor in target.tensors[port.name].items()}
    return AdapterHubMethod(config, stored)
