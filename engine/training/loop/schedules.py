"""Learning rates by step and layer, and gradual unfreezing.

The three techniques of ULMFiT (Howard & Ruder 2018, arXiv:1801.06146) are slanted triangular rates (section 3.2,
equation 3), lower rates for lower layers, and gradual unfreezing (section 3.3). They use the distance from the top: the
head has 0, the topmost layer 1, and so on down each stack, the embeddings last. For a task without a trained head, the
topmost layer has 0.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from adaptdock.engine.core.assembly import Assembly
from adaptdock.engine.core.open_ports import OpenPorts
from adaptdock.engine.training.members.trainable import Acting, TaskStart, Trainable
from adaptdock.engine.training.planning.hyperparameters import TrainingOptions
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Backbone, Port


def slanted_triangular(step: int, steps: int, rise: float, ratio: float) -> float:
    """Return the learning rate of a step, counted from 0, as a share of the highest rate.

    The share rises from ``1 / ratio`` to 1 in ``rise`` of the steps (the paper's cut_frac), and falls back until the
    end. The paper's fall reaches ``1 / ratio`` at the end only if ``steps * rise`` is a whole number; this one always
    does.
    """
    cut = math.floor(steps * rise)
    share = step / cut if step < cut else 1 - (step - cut) / max(1, steps - cut)
    return (1 + share * (ratio - 1)) / ratio


FALLS: Mapping[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}
"""The share of the highest learning rate after the warmup, as a function of the progress from 0 to 1."""


def rate(options: TrainingOptions, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0, as a share of the highest rate; never 0.

    In the warmup, step i of w has (i + 1) / (w + 1). The schedules of transformers have i / w, so that the first step
    changes no weight.
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
    """Distances of the parts of an adapter from the top of its backbone."""

    def __init__(self, backbone: Backbone, assembly: Assembly) -> None:
        self.assembly = assembly
        head = assembly.head.parameters(assembly.width).values()
        self.head = any(parameter.trained for parameter in head)
        self._top: dict[str, int] = defaultdict(int)
        for port in backbone.ports:
            if port.kind not in ("layers", "logits"):
                self._top[port.stack] = max(self._top[port.stack], port.layer)

    def of_port(self, port: Port) -> int:
        """Return the distance of a port; a mix of layers and the LM head are above all layers, like the head."""
        if port.kind in ("layers", "logits"):
            return 0
        layer = -1 if port.kind == "embedding" else port.layer
        return self._top[port.stack] - layer + self.head

    def all(self) -> list[int]:
        """Return the distances of all trained parameters, from the top down."""
        distances = {0} if self.head else set()
        for part in self.assembly.parts:
            for place, parameters in part.parameters.items():
                if any(parameter.trained for parameter in parameters.values()):
                    distances.add(self.of_port(part.by_port[place].port))
        return sorted(distances)

    def of_parameters(self, head: nn.Module, acting: Acting) -> dict[nn.Parameter, int]:
        """Return the distance of each trained parameter, also of reparameterised weights.

        A gradient from the weights at a port shows which parameters they come from. Raises :class:`UsageError` if
        weights at several distances come from one parameter.
        """
        distances: dict[nn.Parameter, int] = {weight: 0 for weight in head.parameters() if weight.requires_grad}
        module: Any
        for module in acting:
            weights = [weight for weight in module.parameters() if weight.requires_grad]
            for distance, total in self._totals(module).items():
                gradients = torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)
                for weight, gradient in zip(weights, gradients, strict=True):
                    if gradient is not None and distances.setdefault(weight, distance) != distance:
                        raise UsageError(
                            f"the weights of all layers of {module.part.name!r} are made by one network while they are "
                            f"trained (its option reparameterise), so layers cannot have separate rates: leave off "
                            f"--layer-decay and --unfreeze-epochs, or that option"
                        )
        return distances

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
    """Divide an optimiser's parameter groups by distance; each has ``decay`` times the rate of the group above."""
    groups_by_distance = []
    for group in groups:
        by_distance: dict[int, list[nn.Parameter]] = defaultdict(list)
        for weight in group["params"]:
            by_distance[distances[weight]].append(weight)
        groups_by_distance += [
            (distance, {**group, "params": weights, "lr": group["lr"] * decay**distance})
            for distance, weights in by_distance.items()
        ]
    return [group for _, group in sorted(groups_by_distance, key=lambda pair: pair[0])]


class Unfreezing:
    """Gradual unfreezing: the head learns first, then one more layer from the top after each ``epochs`` epochs.

    A frozen parameter has no gradient, so that the optimiser skips it: weight decay does not move it, and its moments
    begin with its first step.
    """

    def __init__(self, distances: Mapping[nn.Parameter, int], epochs: float) -> None:
        self.epochs = epochs
        order = sorted(set(distances.values()))
        self._stage = {weight: order.index(distance) for weight, distance in distances.items()}

    def begin(self, step: int, steps_per_epoch: float) -> None:
        """Freeze and unfreeze for a step, counted from 0."""
        for weight, stage in self._stage.items():
            first = math.ceil(stage * self.epochs * steps_per_epoch - 1e-6)  # rounding must not add a step
            weight.requires_grad_(step >= first)


def frozen_until(backbone: Backbone, assembly: Assembly, options: TrainingOptions) -> float:
    """Return the epoch from which all layers learn; 0 without unfreezing."""
    if not options.unfreeze_epochs:
        return 0.0
    return options.unfreeze_epochs * (len(Distances(backbone, assembly).all()) - 1)


def check(backbone: Backbone, assembly: Assembly, options: TrainingOptions) -> None:
    """Raise :class:`UsageError` for layers that cannot have separate rates, or would never be unfrozen."""
    if options.layer_decay == 1 and not options.unfreeze_epochs:
        return
    distances = Distances(backbone, assembly)
    if len(distances.all()) < 2:
        raise UsageError(
            "--layer-decay and --unfreeze-epochs need several layers, and this adapter is trained at one place only: "
            "leave them off"
        )
    trial = Trainable(backbone, OpenPorts(backbone), [[TaskStart(assembly, options.seed)]])
    distances.of_parameters(trial.answering[0], trial.acting[0])
    last = frozen_until(backbone, assembly, options)
    if last >= options.epochs:
        raise UsageError(
            f"--unfreeze-epochs {options.unfreeze_epochs:g} trains the lowest of {len(distances.all())} parts (head "
            f"and layers) from epoch {last:g} on, and there are {options.epochs} epochs: give more --epochs, fewer "
            f"--layers or less than {options.epochs / (len(distances.all()) - 1):.2g} epochs per layer"
        )
