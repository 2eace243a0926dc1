"""DoRA: LoRA with separately learned length and direction of each row (Liu et al. 2024, arXiv:2402.09353).

``f * (W + s B A) x + bias`` with A (rank, inputs), B (outputs, rank), s as in LoRA and a factor for each
output, ``f = (|W| + d) / |W + s B A|``, where |.| is the length of a row. The paper's magnitude is |W| + d. Its
difference d (outputs) from the length of the frozen row is stored: it starts at zero, survives 16 bit, and weight decay
pulls it to the frozen weights. The denominator takes no gradient (section 4.3).

The forward pass computes ``out + (f - 1) * (out - bias) + f s B A x``, where ``out`` is the output of the frozen linear
layer. In a stack, the factor also scales the outputs of the adapters before it. Dropout, which the paper does not
describe, acts on the input of A.
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
    """Scale of the update, before division by the rank."""
    rslora: bool = False
    """Divide alpha by the square root of the rank instead of the rank."""
    bias: bool = False
    """Also learn a change of the bias of each linear layer."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate of the inputs of the update during training."""
    roles: tuple[str, ...] = ("query", "value")
    """Linear layers to adapt, by role; "all" for every role."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class DoRA(Method):
    """A low-rank update of each selected linear layer, with a learned length of each row."""

    Options = DoRAOptions
    options: DoRAOptions
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
        """Declare A (rank, inputs), Kaiming-uniform at the start, B (outputs, rank) and d (outputs), zero.

        With ``bias`` also a change of the bias (outputs), which does not affect the lengths.
        """
        rank, port = self.options.rank, site.port
        declared = {
            "lora_a": Parameter((rank, port.inputs), kaiming),
            "lora_b": Parameter((port.outputs, rank)),
            "magnitude_change": Parameter((port.outputs,)),
        }
        return declared | {"bias_change": Parameter((port.outputs,))} if self.options.bias else declared

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Fold scale and factor into B; add f - 1, and the bias, which f must not scale."""
        factor = scale(self.options.rank, self.options.alpha, self.options.rslora)
        # float32: the difference of two similar lengths cancels in 16 bit.
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
        """Scale the rows and add the update, (R, T, inputs) -> (R, T, rank) -> (R, T, outputs)."""
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
    """Return the lengths (outputs) of the rows of W and of W + up down, computed on the device of W."""
    update = up.to(weight.device) @ down.float().to(weight.device)
    lengths = [torch.linalg.vector_norm(matrix, dim=1) for matrix in (weight.float(), weight + update)]
    return lengths[0].to(up.device), lengths[1].to(up.device)
