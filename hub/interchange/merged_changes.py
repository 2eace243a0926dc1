"""The changes of a backbone's weights by an adapter whose methods can all be merged, for libraries with one method."""

from typing import TYPE_CHECKING

from adaptdock.hub.interchange.outgoing import Outgoing
from adaptdock.plugins.contracts import Mergeable, Port
from adaptdock.plugins.toolkit.interchange.tensors import refuse

if TYPE_CHECKING:
    from torch import Tensor

    from adaptdock.plugins.toolkit.interchange.changes import WeightChange


def merged_changes(out: Outgoing) -> "list[WeightChange]":
    """Return the change of each linear layer by all methods together, in their order.

    Raises :class:`UsageError` if a method cannot be merged, or acts at another place than linear layers.
    """
    from adaptdock.plugins.toolkit.interchange.changes import WeightChange

    backbone = out.backbone
    ports = backbone.ports.within(out.task.head().reads)
    merged: dict[Port, tuple[Tensor, Tensor]] = {}
    for part in out.parts:
        if not isinstance(part.method, Mergeable):
            names = " and ".join(entry.name for entry in out.parts)
            what = f"the method {part.name}" if len(out.parts) == 1 else f"an adapter of {names}"
            raise refuse(what, "peft has none that computes the same, and it cannot be merged into a method of peft")
        for site in part.method.sites(ports):
            port = site.port
            if port.kind != "linear" or site.source is not None:
                raise refuse(f"the method {part.name} at {port.name}", "peft has none that computes the same there")
            frozen = backbone.weight(port).float().cpu(), backbone.bias(port).float().cpu()
            weight, bias = merged.get(port, frozen)
            tensors = {name: tensor.float() for name, tensor in part.tensors[port.name].items()}
            folded = part.method.fold(site, tensors, backbone)
            merged[port] = part.method.merge(site, folded, weight, bias)
    changes = []
    for port, (weight, bias) in merged.items():
        moved, shifted = weight - backbone.weight(port).float().cpu(), bias - backbone.bias(port).float().cpu()
        weight_change = moved.double() if moved.any() else None
        changes.append(WeightChange(port, weight_change, shifted.double() if shifted.any() else None))
    return changes
