"""An adapter while it is trained: its weights as parameters, acting through the same ports as docked ones."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adaptdock.engine.assembly import HEAD, Assembly, Part, lowest_layer
from adaptdock.engine.passes import for_head, mask_for, resumed, states
from adaptdock.engine.ports import OpenPorts
from adaptdock.engine.rows import Action
from adaptdock.plugins.contracts import Backbone, Method, Port, Side, Site


class Trainable(nn.Module):
    """The trained weights and nothing else: the backbone is used, not owned.

    Calling it with a batch returns the loss. :meth:`tensors` gives the weights under the names they
    have in an adapter file.
    """

    def __init__(
        self,
        backbone: Backbone,
        ports: OpenPorts,
        assembly: Assembly,
        seed: int,
        class_weights: Tensor | None = None,
        backbone_dropout: bool = False,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        start = assembly.start(generator)
        self.assembly = assembly
        self.head = nn.ParameterDict(
            {
                name: nn.Parameter(start[f"{HEAD}.{name}"], requires_grad=declared.trained)
                for name, declared in assembly.head.parameters(assembly.width).items()
            }
        )
        self.parts = nn.ModuleList(_Weights(part, start, generator) for part in assembly.parts)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._outside = (backbone, ports)  # a tuple, so that they do not become part of this module
        self._backbone_dropout = backbone_dropout

    def tensors(self) -> dict[str, Tensor]:
        """Return a copy of the weights as they would be stored, detours folded away."""
        with torch.no_grad():
            named = {name: tensor for part in self.parts for name, tensor in part().items()}
            named |= {f"{HEAD}.{name}": tensor for name, tensor in self.head.items()}
            return {name: tensor.detach().float().cpu().clone() for name, tensor in named.items()}

    def forward(self, labels: Tensor, entering: Tensor | None = None, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the loss of a batch; ``entering`` (R, T, W) are the states beneath the lowest adapter, if known."""
        backbone, ports = self._outside
        inputs = {name: tensor.to(backbone.device) for name, tensor in inputs.items()}
        head = self.assembly.head
        mask = mask_for(head, inputs)
        rows = _TrainedRows(backbone, self.parts, len(mask), dropout=self.training)
        drops = self._backbone_dropout and self.training
        with _dropping(backbone.model) if drops else nullcontext():
            if entering is None:
                hidden = states(backbone, ports, rows, inputs, head.reads)
            else:
                hidden = resumed(backbone, ports, rows, inputs, lowest_layer(self.assembly), entering)
        weights = {name: tensor.unsqueeze(0) for name, tensor in self.head.items()}
        mask = mask.to(labels.device)
        logits = head.apply(weights, for_head(backbone, head, hidden, mask), mask)
        return {"loss": self.assembly.task.loss(logits, labels, self.class_weights)}


@contextmanager
def _dropping(model: nn.Module) -> Iterator[None]:
    """Let a frozen model drop as in its own training; statistics of batches stay frozen."""
    modules = [module for module in model.modules() if not isinstance(module, _BatchNorm)]
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module in modules:
            module.training = False


class _Weights(nn.Module):
    """The weights of one method: as they are stored, or by the detour the method asks for.

    What is not trained has no gradient, and never takes the detour.
    """

    def __init__(self, part: Part, start: Mapping[str, Tensor], generator: torch.Generator) -> None:
        super().__init__()
        self.part = part
        mine = {
            f"{part.prefix}{place}.{name}": declared.trained
            for place, named in part.parameters.items()
            for name, declared in named.items()
        }
        trained = {name: start[name] for name, is_trained in mine.items() if is_trained}
        self.detour = part.method.reparameterise(trained, generator) if trained else None
        self.names = [name for name, is_trained in mine.items() if self.detour is None or not is_trained]
        self.plain = nn.ParameterList(nn.Parameter(start[name], requires_grad=mine[name]) for name in self.names)

    def forward(self) -> dict[str, Tensor]:
        """Return the weights by the names they are stored under."""
        plain = dict(zip(self.names, self.plain, strict=True))
        return plain if self.detour is None else {**plain, **self.detour()}


class _TrainedRows:
    """A batch all of whose rows train the same adapter."""

    def __init__(self, backbone: Backbone, parts: Any, count: int, dropout: bool) -> None:
        self.count = count
        self._actions: dict[Side, dict[str, list[Action]]] = {"output": {}, "input": {}}
        for weights in parts:
            part: Part = weights.part
            for place, folded in part.folded(weights(), backbone).items():
                action = _TrainedAction(part.method, part.by_port[place], folded, dropout and not part.frozen)
                self._actions[action.site.side].setdefault(place, []).append(action)

    def at(self, port: Port, side: Side = "output") -> Sequence[Action]:
        """Return what acts at a port, on what comes out or goes in, in order."""
        return self._actions[side].get(port.name, ())

    def repeated(self, copies: int) -> "_TrainedRows":
        """Return these rows; they share their parameters, however many there are."""
        repeated = copy(self)
        repeated.count = self.count * copies
        return repeated


class _TrainedAction:
    span = None

    def __init__(self, method: Method, site: Site, folded: Mapping[str, Tensor], dropout: bool) -> None:
        self.method, self.site, self.dropout = method, site, dropout
        self._folded = folded

    def parameters(self, like: Tensor | None) -> dict[str, Tensor]:
        """Return the folded weights with a leading dimension of 1, through which gradients flow."""
        found = self._folded
        if like is not None:
            found = {name: tensor.to(device=like.device, dtype=like.dtype) for name, tensor in found.items()}
        return {name: tensor.unsqueeze(0) for name, tensor in found.items()}
