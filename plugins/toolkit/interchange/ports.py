"""Ports matched with the module paths of another library."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from adaptdock.plugins.backbones import Backbone
from adaptdock.plugins.ports import Port, Ports
from adaptdock.plugins.toolkit.interchange.tensors import refuse

if TYPE_CHECKING:
    from torch import Tensor


class Finder:
    """Finds ports by module paths of another library, which may have a prefix before the body's paths."""

    def __init__(self, ports: Iterable[Port], owner: str) -> None:
        self._by_module = {port.module: port for port in ports if port.kind == "linear"}
        self.owner = owner
        self._seen: set[str] = set()

    def port(self, path: str) -> Port | None:
        """Return the port at a path, or None; raise :class:`UsageError` if paths have different prefixes."""
        parts = path.split(".")
        for start in range(len(parts)):
            port = self._by_module.get(".".join(parts[start:]))
            if port is not None:
                self._seen.add(".".join(parts[:start]))
                if len(self._seen) > 1:
                    raise refuse(self.owner, f"its modules are in two models: {' and '.join(sorted(self._seen))}")
                return port
        return None

    @property
    def front(self) -> str:
        """The prefix before the body's paths, with its dot; known after the first match."""
        return "".join(f"{part}." for part in self._seen if part)


def port_selection(ports: Ports, wanted: Sequence[Port]) -> dict[str, Any]:
    """Return ``roles`` and ``layers`` that select exactly these linear ports for a method."""
    roles = tuple(dict.fromkeys(port.role for port in wanted))
    every_layer = {port.layer for port in ports if port.kind == "linear"}
    layers = _layers({port.layer for port in wanted}, every_layer)
    if set(ports.select("linear", roles, layers)) == set(wanted):
        return {"roles": roles, "layers": layers}
    return {"roles": tuple(port.name for port in wanted), "layers": None}


def _layers(numbers: set[int], every_layer: set[int]) -> str | None:
    return None if numbers == every_layer else ",".join(map(str, sorted(numbers)))


def ends(path: str, module: str) -> bool:
    """Return whether a path is the path of a module, with any prefix."""
    return path == module or path.endswith(f".{module}")


def config_of(backbone: Backbone) -> Any:
    """Return the configuration of a backbone's model, or None for a model without one."""
    return getattr(backbone.model, "config", None)


def frozen_parameter(name: str, backbone: Backbone) -> "Tensor | None":
    """Return the backbone's parameter at the end of a path: of its body, its language model, or its checkpoint."""
    models = () if backbone.quantized else (backbone.model, getattr(backbone, "generator", None))
    for model in models:  # a quantised one has other numbers than its checkpoint
        for path, tensor in () if model is None else model.named_parameters(remove_duplicate=False):
            if ends(name, path):
                return tensor.detach().cpu()
    parts = name.split(".")
    for start in range(len(parts) - 1):
        stored = backbone.stored(".".join(parts[start:]))
        if stored is not None:
            return stored
    return None
