"""DoRA: LoRA in which each row's length is learned apart from its direction (Liu et al. 2024, arXiv:2402.09353).

``f * (W + s B A) x + bias`` with A (rank, inputs), B (outputs, rank), s as in LoRA and a factor for each
output, ``f = (|W| + d) / |W + s B A|``, where |.| is the length of a row. The paper's magnitude is |W| + d:
kept as its difference d (outputs) from the length of the frozen row, it starts at zero, survives 16 bit,
and weight decay draws it to the frozen weights. The lower length takes no gradient (section 4.3).

What acts is ``out + (f - 1) * (out - bias) + f s B A x``, where ``out`` is what the frozen map has put out.
In a stack it scales what the adapters below have added, too. Dropout, which the paper does not describe
here, drops what goes into A.
"""

from collections.abc import Hashable, Mapping

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from adaptdock.adapters.interchange import low_rank
from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.batched_linear import linear
from adaptdock.plugins.toolkit.interchange import adapterhub_lora, peft_lora
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubMethod, AdapterHubSource, AdapterHubTarget
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights
from adaptdock.plugins.toolkit.lowrank import kaiming, scale

SHORTEST = 1e-12  # a frozen row may be all zero


class DoRAOptions(Options):
    """Options of ``dora``."""

    rank: int = Field(8, gt=0)
    """Rank of the update."""
    alpha: float = Field(16.0, gt=0)
    """Scale of the update, before it is divided by the rank."""
    rslora: bool = False
    """Divide alpha by the square root of the rank instead of the rank."""
    bias: bool = False
    """Learn a change of the bias of each map, too."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the inputs of the update that is dropped while training."""
    roles: tuple[str, ...] = ("query", "value")
    """Linear maps to adapt, by role; "all" for every one."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; all of them unless named."""


class DoRA(Method):
    """A low-rank update of each chosen linear map, whose rows are then given a learned length."""

    Options = DoRAOptions
    options: DoRAOptions
    grows = {"lora_a": 0, "lora_b": 1}
    peft_types = {"LORA": peft_lora.LoraOptions}
    adapterhub_types = {"lora": adapterhub_lora.LoraOptions}

    @property
    def stack_key(self) -> Hashable:
        """With and without a change of the bias are different operations."""
        return self.options.bias

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the linear ports with the chosen roles."""
        return tuple(Site(port) for port in ports.select("linear", self.options.roles, self.options.layers))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Keep A (rank, inputs), Kaiming-uniform at the start, B (outputs, rank) and d (outputs), zero.

        With ``bias`` there is a change of the bias (outputs), which has no part in the lengths.
        """
        rank, port = self.options.rank, site.port
        kept = {
            "lora_a": Parameter((rank, port.inputs), kaiming),
            "lora_b": Parameter((port.outputs, rank)),
            "magnitude_change": Parameter((port.outputs,)),
        }
        return kept | {"bias_change": Parameter((port.outputs,))} if self.options.bias else kept

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Put scale and factor into B; add f - 1 and the bias, which is in what the frozen map puts out."""
        factor = scale(self.options.rank, self.options.alpha, self.options.rslora)
        scaled = parameters["lora_b"].float() * factor
        frozen, updated = _lengths(backbone.weight(site.port), scaled, parameters["lora_a"])
        change = (parameters["magnitude_change"] + frozen - updated) / updated.clamp(min=SHORTEST)
        folded = {
            "lora_a": parameters["lora_a"],
            "lora_b": scaled * (1 + change).unsqueeze(1),
            "change": change,
            "bias": backbone.bias(site.port),
        }
        if self.options.bias:
            folded["bias_change"] = parameters["bias_change"]
        return {name: tensor.to(parameters["lora_a"]) for name, tensor in folded.items()}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Give the rows their length and add the update, (R, T, inputs) -> (R, T, rank) -> (R, T, outputs)."""
        change, bias = parameters["change"].unsqueeze(1), parameters["bias"].unsqueeze(1)
        out = torch.addcmul(out, out - bias, change)
        if "bias_change" in parameters:
            out = out + parameters["bias_change"].unsqueeze(1)
        if forward_pass.training and self.options.dropout:
            x = functional.dropout(x, self.options.dropout)
        return linear(linear(x, parameters["lora_a"]), parameters["lora_b"], onto=out)

    def merge(self, site: Site, folded: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return f (W + s B A) and the bias."""
        change = folded["change"]
        merged = weight + change.unsqueeze(1) * weight + folded["lora_b"] @ folded["lora_a"]
        return merged, bias + change * (bias - folded["bias"]) + folded.get("bias_change", 0)

    @classmethod
    def from_peft(cls, source: PeftSource[peft_lora.LoraOptions]) -> MethodWeights | None:
        """Read PEFT's LoRA with DoRA's lengths."""
        return low_rank.from_peft(source) if source.options.use_dora else None

    def to_peft(self, target: PeftTarget) -> PeftAdapter:
        """Write PEFT's LoRA."""
        return low_rank.to_peft(self.options.model_dump(), target)

    @classmethod
    def from_adapterhub(cls, source: AdapterHubSource[adapterhub_lora.LoraOptions]) -> MethodWeights | None:
        """Read AdapterHub's LoRA that adds, with DoRA's lengths."""
        options = source.options
        return low_rank.from_adapterhub(source) if options.composition_mode == "add" and options.use_dora else None

    def to_adapterhub(self, target: AdapterHubTarget) -> AdapterHubMethod:
        """Write AdapterHub's LoRA."""
        return low_rank.to_adapterhub(self.options.model_dump(), target)


@torch.no_grad()
def _lengths(weight: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths (outputs) of the rows of W and of W + up down, computed where W lies."""
    update = up.to(weight.device) @ down.float().to(weight.device)
    lengths = [torch.linalg.vector_norm(matrix, dim=1) for matrix in (weight.float(), weight + update)]
    return lengths[0].to(up.device), lengths[1].to(up.device)
