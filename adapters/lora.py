"""LoRA: low-rank adaptation (Hu et al. 2021, arXiv:2106.09685).

``out + scale * B A x`` with A (rank, inputs), B (outputs, rank); B starts at zero. ``scale`` is
alpha / rank, or alpha / sqrt(rank) with rank stabilisation (Kalajdzievski 2023, arXiv:2312.03732). With
``bias`` a change b (outputs) of the frozen bias is learned too; it starts at zero.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn

from adaptdock.adapters.interchange import low_rank
from adaptdock.plugins.contracts import Backbone, ForwardPass, LowRank, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.batched_linear import linear
from adaptdock.plugins.toolkit.interchange import adapterhub_lora, peft_lora
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubMethod, AdapterHubSource, AdapterHubTarget
from adaptdock.plugins.toolkit.interchange.changes import WeightChange
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights
from adaptdock.plugins.toolkit.learning_rates import Rates
from adaptdock.plugins.toolkit.lowrank import kaiming, scale


class LoRAOptions(Options):
    """Options of ``lora``."""

    rank: int = Field(8, gt=0)
    """Rank of the update."""
    alpha: float = Field(16.0, gt=0)
    """Scale of the update, before division by the rank."""
    rslora: bool = False
    """Divide alpha by the square root of the rank instead of the rank."""
    bias: bool = False
    """Also learn a change of the bias of each linear layer."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate of the inputs during training."""
    learning_rate_factor_b: float = Field(1.0, gt=0)
    """Learning rate of B as a multiple of A's (LoRA+, Hayou et al. 2024, arXiv:2402.12354)."""
    roles: tuple[str, ...] = ("query", "value")
    """Linear layers to adapt, by role; "all" for every role."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class LoRA(LowRank):
    """A low-rank update beside each selected linear layer."""

    Options = LoRAOptions
    options: LoRAOptions
    grows = {"lora_a": 0, "lora_b": 1}
    peft_types = {"LORA": peft_lora.LoraOptions}
    adapterhub_types = {"lora": adapterhub_lora.LoraOptions}

    @property
    def stack_key(self) -> Hashable:
        """Whether the bias changes, which is another operation."""
        return self.options.bias

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the linear ports with these roles."""
        return tuple(Site(port) for port in ports.select("linear", self.options.roles, self.options.layers))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare A (rank, inputs), Kaiming-uniform at the start, B (outputs, rank) and b (outputs), zero."""
        rank, port = self.options.rank, site.port
        declared = {"lora_a": Parameter((rank, port.inputs), kaiming), "lora_b": Parameter((port.outputs, rank))}
        return declared | {"bias_change": Parameter((port.outputs,))} if self.options.bias else declared

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Fold the scale into B."""
        factor = scale(self.options.rank, self.options.alpha, self.options.rslora)
        return {**parameters, "lora_b": parameters["lora_b"] * factor}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the update, (R, T, inputs) -> (R, T, rank) -> (R, T, outputs)."""
        if forward_pass.training and self.options.dropout:
            x = torch.nn.functional.dropout(x, self.options.dropout)
        if "bias_change" in parameters:
            out = out + parameters["bias_change"].unsqueeze(1)
        return linear(linear(x, parameters["lora_a"]), parameters["lora_b"], onto=out)

    def merge(self, site: Site, folded: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return W + B A and the bias, with its change if there is one."""
        return weight + folded["lora_b"] @ folded["lora_a"], bias + folded.get("bias_change", 0)

    @classmethod
    def unscaled(cls, rank: int, roles: Sequence[str], layers: str | None) -> Self:
        """Return LoRA with alpha equal to its rank, so the scale is 1."""
        return cls(LoRAOptions(rank=rank, alpha=rank, roles=tuple(roles), layers=layers))

    def factors(self, folded: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the scaled B, and A."""
        return folded["lora_b"], folded["lora_a"]

    def from_factors(self, up: Tensor, down: Tensor) -> dict[str, Tensor]:
        """Return ``up`` as B and ``down`` as A."""
        return {"lora_a": down, "lora_b": up}

    def reparameterise(self, start: Mapping[str, Tensor], generator: torch.Generator) -> nn.Module | None:
        """Train B faster than A if ``learning_rate_factor_b`` is not 1."""
        if self.options.learning_rate_factor_b == 1:
            return None
        return Rates(start, {name: self.options.learning_rate_factor_b for name in start if name.endswith("lora_b")})

    @classmethod
    def from_peft(cls, source: PeftSource[peft_lora.LoraOptions]) -> MethodWeights | None:
        """Read PEFT's LoRA without DoRA's lengths and without invocation tokens."""
        options = source.options
        return None if options.use_dora or options.alora_invocation_tokens else low_rank.from_peft(source)

    def to_peft(self, target: PeftTarget) -> PeftAdapter:
        """Write PEFT's LoRA."""
        return low_rank.to_peft(self.options.model_dump(), target)

    @classmethod
    def numbers(cls, change: WeightChange) -> int | None:
        """Count A, B and b for a change of a linear layer; a full rank needs more numbers than the change itself."""
        port = change.port
        if port.kind != "linear":
            return None
        count = low_rank.rank_of(change) * (port.inputs + port.outputs)
        return count + (0 if change.bias is None else port.outputs)

    @classmethod
    def from_changes(cls, changes: Sequence[WeightChange], backbone: Backbone) -> MethodWeights:
        """Store the factors of each change, padded to the largest rank, with a scale of 1."""
        return low_rank.from_changes(changes, backbone)

    @classmethod
    def from_adapterhub(cls, source: AdapterHubSource[adapterhub_lora.LoraOptions]) -> MethodWeights | None:
        """Read AdapterHub's LoRA that adds, without DoRA's lengths and without gates."""
        options = source.options
        plain = options.composition_mode == "add" and not options.use_dora and not options.use_gating
        return low_rank.from_adapterhub(source) if plain else None

    def to_adapterhub(self, target: AdapterHubTarget) -> AdapterHubMethod:
        """Write AdapterHub's LoRA."""
        return low_rank.to_adapterhub(self.options.model_dump(), target)
