"""LoRA with a gate for each text, as in UniPELT (Mao et al. 2022, arXiv:2110.07577).

``out + scale * B (g * (A x))`` with A (rank, inputs), B (outputs, rank), zero at the start, and a gate g in (0, 1) that
is the mean of ``sigmoid(w x_t + c)`` over the positions t of the text. With several ``gates`` each weighs an equal part
of the ranks. The update depends on the text, so it cannot be merged.
"""

from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from adaptdock.adapters.interchange import gated_lora
from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit import text_gates
from adaptdock.plugins.toolkit.batched_linear import linear
from adaptdock.plugins.toolkit.interchange import adapterhub_lora
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubMethod, AdapterHubSource, AdapterHubTarget
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights
from adaptdock.plugins.toolkit.lowrank import kaiming, scale


class GatedLoRAOptions(Options):
    """Options of ``gated-lora``."""

    rank: int = Field(8, gt=0)
    """Rank of the update."""
    alpha: float = Field(16.0, gt=0)
    """Scale of the update, before division by the rank."""
    gates: int = Field(1, gt=0)
    """Number of gates, each of an equal part of the ranks."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate of the inputs during training."""
    roles: tuple[str, ...] = ("query", "value")
    """Linear layers to adapt, by role; "all" for every role."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""

    @model_validator(mode="after")
    def _equal_parts(self) -> Self:
        if self.rank % self.gates:
            raise ValueError(f"rank {self.rank} is not a multiple of gates {self.gates}")
        return self


class GatedLoRA(Method):
    """A low-rank update beside each selected linear layer, weighed by a gate for each text."""

    Options = GatedLoRAOptions
    options: GatedLoRAOptions
    grows = {"lora_a": 0, "lora_b": 1, text_gates.WEIGHT: 0, text_gates.BIAS: 0}
    adapterhub_types = {"lora": adapterhub_lora.LoraOptions}

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the linear ports with these roles."""
        return tuple(Site(port) for port in ports.select("linear", self.options.roles, self.options.layers))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare A (rank, inputs), Kaiming-uniform, B (outputs, rank), zero, and the gates, normal with bias zero."""
        rank, port = self.options.rank, site.port
        update = {"lora_a": Parameter((rank, port.inputs), kaiming), "lora_b": Parameter((port.outputs, rank))}
        return update | text_gates.declared(self.options.gates, port.inputs)

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Fold the scale into B, and repeat each gate for its ranks."""
        copies = self.options.rank // self.options.gates
        gates = {name: parameters[name].repeat_interleave(copies, 0) for name in (text_gates.WEIGHT, text_gates.BIAS)}
        factor = scale(self.options.rank, self.options.alpha, rslora=False)
        return {"lora_a": parameters["lora_a"], "lora_b": parameters["lora_b"] * factor, **gates}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the update, (R, T, inputs) -> (R, T, rank) -> (R, T, outputs)."""
        gates = text_gates.gates(parameters, x, forward_pass)
        if forward_pass.training and self.options.dropout:
            x = functional.dropout(x, self.options.dropout)
        return linear(gates * linear(x, parameters["lora_a"]), parameters["lora_b"], onto=out)

    @classmethod
    def from_adapterhub(cls, source: AdapterHubSource[adapterhub_lora.LoraOptions]) -> MethodWeights | None:
        """Read AdapterHub's LoRA with gates."""
        options = source.options
        return gated_lora.from_adapterhub(source) if options.use_gating and options.composition_mode == "add" else None

    def to_adapterhub(self, target: AdapterHubTarget) -> AdapterHubMethod:
        """Write AdapterHub's LoRA with gates."""
        return gated_lora.to_adapterhub(self.options.model_dump(), target)
