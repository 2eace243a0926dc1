"""How fast an adapter and its parts learn in each step, and from when on.

With the three ways of ULMFiT (Howard & Ruder 2018): slanted triangular rates (section 3.2, equation 3), lower rates for
lower layers and gradual unfreezing (section 3.3; arXiv:1801.06146). What counts is the distance from the top: the head
is 0, the topmost layer 1, and so on down each stack, the embeddings last. Where a task has no head to train, the
topmost layer is 0.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from adaptdock.engine.core.assembly import Assembly
from adaptdock.engine.core.open_ports import OpenPorts
from adaptdock.engine.training.hyperparameters import TrainingOptions
from adaptdock.engine.training.trainable import Acting, TaskStart, Trainable
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Backbone, Port


def slanted_triangular(step: int, steps: int, rise: float, ratio: float) -> float:
    """Return the share of the highest learning rate with which a step, counted from 0, is taken.

    It rises from ``1 / ratio`` to 1 in ``rise`` of the steps (the paper's cut_frac), and falls back until
    the end. The paper's slope of the fall ends there only where ``steps * rise`` is a whole number; this
    one always does.
    """
    cut = math.floor(steps * rise)
    share = step / cut if step < cut else 1 - (step - cut) / max(1, steps - cut)
    return (1 + share * (ratio - 1)) / ratio


FALLS: Mapping[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}
"""The share of the highest learning rate after the warm-up, by the part of the remaining steps that are done."""


def rate(options: TrainingOptions, step: int, steps: int) -> float:
    """Return the share of the highest learning rate with which a step, counted from 0, is taken; never 0.

    In the warm-up step i of w has (i + 1) / (w + 1). The schedules of transformers have i / w there, so that the first
    step changes no weight.
    """
    if options.scheduler == "slanted_triangular":
        return slanted_triangular(step, steps, options.warmup, options.scheduler_ratio)
    if options.scheduler == "constant":
        return 1.0
    rising = math.ceil(steps * options.warmup)
    if step < rising:
        return (step + 1) / (rising + 1)
    return FALLS[options.scheduler]((step - rising) / max(1, steps - rising))


class Distances:
    """How far from the top the parts of an adapter stand on its backbone."""

    def __init__(self, backbone: Backbone, assembly: Assembly) -> None:
        self.assembly = assembly
        head = assembly.head.parameters(assembly.width).values()
        self.head = any(parameter.trained for parameter in head)
        self._top: dict[str, int] = defaultdict(int)
        for port in backbone.ports:
            if port.kind != "layers":
                self._top[port.stack] = max(self._top[port.stack], port.layer)

    def of_port(self, port: Port) -> int:
        """Return the distance of what acts at a port; what mixes layers stands above them, as the head does."""
        if port.kind == "layers":
            return 0
        layer = -1 if port.kind == "embedding" else port.layer
        return self._top[port.stack] - layer + self.head

    def all(self) -> list[int]:
        """Return every distance at which something is trained, from the top down."""
        found = {0} if self.head else set()
        for part in self.assembly.parts:
            for place, named in part.parameters.items():
                if any(parameter.trained for parameter in named.values()):
                    found.add(self.of_port(part.by_port[place].port))
        return sorted(found)

    def of_parameters(self, head: nn.Module, acting: Acting) -> dict[nn.Parameter, int]:
        """Return the distance of each parameter that is trained, whatever detour it takes to its port.

        Raises :class:`UsageError` where weights at several distances come from one parameter.
        """
        found: dict[nn.Parameter, int] = {weight: 0 for weight in head.parameters() if weight.requires_grad}
        module: Any
        for module in acting:
            weights = [weight for weight in module.parameters() if weight.requires_grad]
            for distance, total in self._totals(module).items():
                reached = torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)
                for weight, gradient in zip(weights, reached, strict=True):
                    if gradient is not None and found.setdefault(weight, distance) != distance:
                        raise UsageError(
                            f"the weights of all layers of {module.part.name!r} are made by one network while they are "
                            f"trained (its option reparameterise), so layers cannot learn apart: leave off "
                            f"--layer-decay and --unfreeze-epochs, or that option"
                        )
        return found

    def _totals(self, module: Any) -> dict[int, torch.Tensor]:
        """Return the sum of a method's trained tensors at each distance."""
        part = module.part
        totals: dict[int, torch.Tensor] = {}
        for name, tensor in module().items():
            if tensor.requires_grad:
                place = name.removeprefix(part.prefix).rpartition(".")[0]
                distance = self.of_port(part.by_port[place].port)
                totals[distance] = tensor.sum() + totals.get(distance, 0)
        return totals


def decayed(
    groups: Iterable[Mapping[str, Any]], distances: Mapping[nn.Parameter, int], decay: float
) -> list[dict[str, Any]]:
    """Divide an optimiser's parameter groups by distance; each learns ``decay`` times as fast as the one above."""
    found = []
    for group in groups:
        by_distance: dict[int, list[nn.Parameter]] = defaultdict(list)
        for weight in group["params"]:
            by_distance[distances[weight]].append(weight)
        found += [
            (distance, {**group, "params": weights, "lr": group["lr"] * decay**distance})
            for distance, weights in by_distance.items()
        ]
    return [group for _, group in sorted(found, key=lambda pair: pair[0])]


class Unfreezing:
    """Lets the head learn first, and one more layer from the top each some epochs.

    A parameter that waits has no gradient, so that an optimiser leaves it alone: no weight decay moves it,
    and its moments begin with its first step.
    """

    def __init__(self, distances: Mapping[nn.Parameter, int], epochs: float) -> None:
        self.epochs = epochs
        order = sorted(set(distances.values()))
        self._stage = {weight: order.index(distance) for weight, distance in distances.items()}

    def begin(self, step: int, steps_per_epoch: float) -> None:
        """Freeze and unfreeze for a step, counted from 0."""
        for weight, stage in self._stage.items():
            first = math.ceil(stage * self.epochs * steps_per_epoch - 1e-6)
            weight.requires_grad_(step >= first)


def frozen_until(backbone: Backbone, assembly: Assembly, options: TrainingOptions) -> float:
    """Return the epoch from which on all layers learn; 0 where none waits."""
    if not options.unfreeze_epochs:
        return 0.0
    return options.unfreeze_epochs * (len(Distances(backbone, assembly).all()) - 1)


def check(backbone: Backbone, assembly: Assembly, options: TrainingOptions) -> None:
    """Raise :class:`UsageError` where layers are to learn apart that cannot, or that would never learn."""
    if options.layer_decay == 1 and not options.unfreeze_epochs:
        return
    distances = Distances(backbone, assembly)
    if len(distances.all()) < 2:
        raise UsageError(
            "--layer-decay and --unfreeze-epochs tell layers apart, and this adapter is trained at one place only: "
            "leave them off"
        )
    trial = Trainable(backbone, OpenPorts(backbone), [[TaskStart(assembly, options.seed)]])
    distances.of_parameters(trial.answering[0], trial.acting[0])
    last = frozen_until(backbone, assembly, options)
    if last >= options.epochs:
        raise UsageError(
            f"--unfreeze-epochs {options.unfreeze_epochs:g} lets the lowest of {len(distances.all())} parts (head and "
            f"layers) learn from epoch {last:g} on, and there are {options.epochs}: give more --epochs, fewer --layers "
            f"or less than {options.epochs / (len(distances.all()) - 1):.2g} epochs a layer"
        )
