"""Fusion layers in the format of AdapterHub (``BertFusion`` in ``adapters/methods/modeling.py``)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from adaptdock.plugins.contracts import Port
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubSource, MethodOptions, owned
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, ModuleTensors, Named, contradiction, refuse

LAYER = "adapter_fusion_layer"


class FusionOptions(MethodOptions):
    """AdapterHub's options of a fusion layer."""

    SILENT: ClassVar[frozenset[str]] = MethodOptions.SILENT | {
        *("regularization", "value_before_softmax", "value_initialized", "dropout_prob"),
    }

    key: bool = True
    query: bool = True
    values: bool = Field(True, alias="value")
    query_before_ln: bool = False
    residual_before: bool = False
    temperature: bool = False


def member(method: str, name: str, kind: str, weights: MethodWeights) -> MethodWeights:
    """Return a member; raise :class:`UsageError` for another method than ``method``."""
    if kind != method:
        raise refuse(f"the fusion with the member {name!r}", f"it is an adapter of {kind}, and fusion mixes {method}s")
    return weights


def from_adapterhub(members: Mapping[str, MethodWeights], source: AdapterHubSource[FusionOptions]) -> MethodWeights:
    """Read fusion layers over bottlenecks that have been read; raise :class:`UsageError` for unsupported options."""
    options, tensors = source.options, dict[str, Named]()
    if options.temperature:
        raise refuse("a fusion with temperature", "the library lowers it with every call, so it has no fixed result")
    if options.residual_before:
        raise refuse(
            "a fusion with residual_before", "the library then adds the residual to keys and values for each member"
        )
    if not (options.key or options.query or options.values):
        raise refuse("a fusion without key, query and value", "the library itself does not use its only map")
    first = next(iter(members.values()))
    placed = {source.model.block_end(module).name: group for module, group in owned(source, LAYER).items()}
    ports = {port.name: port for port in source.backbone.ports}
    for name in first.tensors:
        if name not in placed:
            raise contradiction(
                source.tensors.path, "adapter_names", [*members], f"{ports[name].module}.{LAYER}", "is missing"
            )
        parts = [weights.tensors.get(name) for weights in members.values()]
        if any(part is None for part in parts):
            raise refuse(f"the fusion at {name}", "one of its adapters has no bottleneck there")
        tensors[name] = _members([part for part in parts if part is not None]) | _attention(
            options, placed[name], ports[name]
        )
    values = {
        "adopted": {name: weights.options for name, weights in members.items()},
        "value": options.values,
        "query_reads": bool(first.options["stream"]) and not options.query_before_ln,
        "query_bias": True,
    }
    return MethodWeights(values, tensors)


def _members(parts: list[Named]) -> Named:
    """Return the weights of the members side by side."""

    def joined(name: str, dimension: int) -> Tensor:
        return torch.cat([part[name].float() for part in parts], dimension)

    return {
        "down": joined("down", 0),
        "down_bias": joined("down_bias", 0),
        "up": joined("up", 1),
        "up_bias": torch.stack([part["up_bias"].float() for part in parts]),
    }


def _attention(options: FusionOptions, group: ModuleTensors, port: Port) -> Named:
    """Take query, key and value (W, W); a map that is left out is the identity.

    A bias of the key adds the same number to the scores of all members, so it has no effect.
    """
    width = port.outputs
    identity, shape, reason = torch.eye(width), (width, width), f"the backbone is {width} wide"
    attention = {
        "query": group.taken("query.weight", shape, reason) if options.query else identity,
        "query_bias": group.taken("query.bias", (width,), reason) if options.query else torch.zeros(width),
        "key": group.taken("key.weight", shape, reason) if options.key else identity.clone(),
    }
    if options.key:
        group.taken("key.bias", (width,), reason)
    if options.values:
        attention["value_change"] = group.taken("value.weight", shape, reason).float() - identity
    return attention
