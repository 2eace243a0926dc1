"""AdaLoRA: LoRA whose rank is divided among the linear layers in training (Zhang et al. 2023, arXiv:2303.10512).

``out + alpha / rank * B (e * A x)`` with A (rank, inputs), B (outputs, rank), both normal at the start, and e (rank),
zero at the start: the triplets of a singular value decomposition. A penalty keeps A and B orthogonal:
``weight * mean(|A A^T - I| + |B^T B - I|)``.

After each step every weight w has the importance ``|w * gradient|``, smoothed over the steps together with its
deviation (``beta1``, ``beta2``). The budget of triplets falls from ``rank`` to ``target_rank`` per layer, as
``target + (start - target) (1 - progress)^3``. Every ``interval`` steps the e of the least important triplets is set to
zero, and may grow again until the final budget is reached. The schedule is that of peft, where ``warmup``, ``final``
and ``interval`` are tinit, tfinal and deltaT, in steps.
"""

from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.batched_linear import linear

NAMES = A, E, B = "lora_a", "lora_e", "lora_b"
IMPORTANCE, UNCERTAINTY, LIVE = "importance", "uncertainty", "live"


class AdaLoRAOptions(Options):
    """Options of ``adalora``."""

    rank: int = Field(12, gt=0)
    """Initial rank of each update."""
    target_rank: int = Field(8, gt=0)
    """Final mean rank of the updates."""
    alpha: float = Field(16.0, gt=0)
    """Scale of the update, before division by the initial rank."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps before the budget begins to fall."""
    final: float = Field(0.3, ge=0, lt=1)
    """Share of the steps after the budget has reached its final value."""
    interval: int = Field(1, gt=0)
    """Steps between two allocations of the budget."""
    beta1: float = Field(0.85, gt=0, lt=1)
    """Smoothing of the importance."""
    beta2: float = Field(0.85, gt=0, lt=1)
    """Smoothing of its uncertainty."""
    orthogonal_weight: float = Field(0.5, ge=0)
    """Weight of the penalty that keeps A and B orthogonal."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate of the inputs during training."""
    roles: tuple[str, ...] = ("query", "value")
    """Linear layers to adapt, by role; "all" for every role."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.target_rank > self.rank:
            raise ValueError("target_rank is above rank, and the budget only falls")
        if self.warmup + self.final >= 1:
            raise ValueError("warmup and final together leave no steps in which the budget could fall")
        return self


class AdaLoRA(Method):
    """A low-rank update of each selected linear layer, pruned of its unimportant ranks."""

    Options = AdaLoRAOptions
    options: AdaLoRAOptions
    grows = {A: 0, B: 1}

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the linear ports with these roles."""
        return tuple(Site(port) for port in ports.select("linear", self.options.roles, self.options.layers))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Keep A (rank, inputs) and B (outputs, rank), normal at the start, and e (rank), zero."""
        rank, port = self.options.rank, site.port
        return {
            A: Parameter((rank, port.inputs), _normal),
            E: Parameter((rank,)),
            B: Parameter((port.outputs, rank), _normal),
        }

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Put e and the scale into B."""
        factor = self.options.alpha / self.options.rank
        return {A: parameters[A], B: parameters[B] * parameters[E] * factor}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the update, (R, T, inputs) -> (R, T, rank) -> (R, T, outputs)."""
        if forward_pass.training and self.options.dropout:
            x = functional.dropout(x, self.options.dropout)
        return linear(linear(x, parameters[A]), parameters[B], onto=out)

    def merge(self, site: Site, folded: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return W + B A, and the bias."""
        return weight + folded[B] @ folded[A], bias

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the mean distance of all A and B from orthogonality, times its weight."""
        distances = []
        for name, tensor in parameters.items():
            if not name.endswith(E):
                product = tensor @ tensor.mT if name.endswith(A) else tensor.mT @ tensor
                distances.append(torch.linalg.matrix_norm(product - torch.eye(len(product)).to(product)))
        return self.options.orthogonal_weight * torch.stack(distances).mean()

    def memory(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return importance and uncertainty of every weight, zero, and a mask of the live triplets, one."""
        averages = {
            f"{name}.{statistic}": torch.zeros_like(tensor)
            for name, tensor in parameters.items()
            for statistic in (IMPORTANCE, UNCERTAINTY)
        }
        live = {f"{name}.{LIVE}": torch.ones_like(tensor) for name, tensor in parameters.items() if name.endswith(E)}
        return averages | live

    def after_step(
        self,
        step: int,
        steps: int,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        memory: Mapping[str, Tensor],
    ) -> None:
        """Update the importance, and allocate the budget to the most important triplets."""
        last = steps - int(self.options.final * steps)
        if step <= last:
            if step < last:
                self._measure(parameters, gradients, memory)
            first = int(self.options.warmup * steps)
            if first < step and (step == last or step % self.options.interval == 0):
                self._divide(parameters, memory, (step - first) / (last - first))
        else:
            for name, tensor in parameters.items():
                if name.endswith(E):
                    tensor.mul_(memory[f"{name}.{LIVE}"])  # the optimiser would revive pruned triplets

    def _measure(
        self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], memory: Mapping[str, Tensor]
    ) -> None:
        for name, gradient in gradients.items():
            magnitude = (parameters[name] * gradient).abs()
            importance = memory[f"{name}.{IMPORTANCE}"].lerp_(magnitude, 1 - self.options.beta1)
            # Like peft, against the importance that is already updated.
            memory[f"{name}.{UNCERTAINTY}"].lerp_((magnitude - importance).abs(), 1 - self.options.beta2)

    def _divide(self, parameters: Mapping[str, Tensor], memory: Mapping[str, Tensor], progress: float) -> None:
        """Set the e of the least important triplets of all layers to zero."""
        places = [name.removesuffix(E) for name in parameters if name.endswith(E)]
        start, target = self.options.rank * len(places), self.options.target_rank * len(places)
        budget = int((start - target) * (1 - progress) ** 3 + target)
        if budget >= start:
            return
        scores = {place: self._scores(place, memory) for place in places}
        threshold = torch.cat(list(scores.values())).kthvalue(start - budget).values
        for place, score in scores.items():
            live = memory[f"{place}{E}.{LIVE}"].copy_(score > threshold)
            parameters[f"{place}{E}"].mul_(live)

    def _scores(self, place: str, memory: Mapping[str, Tensor]) -> Tensor:
        """Return the importance of each triplet (rank) of a linear layer."""
        a, e, b = (memory[f"{place}{name}.{IMPORTANCE}"] * memory[f"{place}{name}.{UNCERTAINTY}"] for name in NAMES)
        return e + a.mean(1) + b.mean(0)


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=0.02, generator=generator)
