"""IA3: learned factors on keys, values and inner activations (Liu et al. 2022, arXiv:2205.05638).

``(1 + l) * out`` after the key and value layers, with l (outputs), and ``W ((1 + l) * x)`` at the last linear layer of
the feed-forward block, with l (inputs). The paper's factor is 1 + l. Stored is its difference from one, so it starts at
zero, and weight decay pulls it to the identity.

If a backbone fuses query, key and value into one linear layer, its port does not show which outputs are which (GPT-2
concatenates them, GPT-NeoX and BLOOM interleave them by heads). So all outputs have a factor, as in peft. Without
rotary positions the factors of the queries add nothing: a factor on a query acts like a factor on the keys.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from adaptdock.adapters.interchange import ia3
from adaptdock.plugins.contracts import ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.interchange import adapterhub_lora
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubMethod, AdapterHubSource, AdapterHubTarget
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights
from adaptdock.plugins.toolkit.learning_rates import Rates

FEED_FORWARD = "ffn_down"


class IA3Options(Options):
    """Options of ``ia3``."""

    roles: tuple[str, ...] = ("key", "value")
    """Linear layers with factors on their output, by role; "all" for every role."""
    feed_forward: bool = True
    """Also learn factors on the input (not the output) of the last linear layer of the feed-forward block."""
    input_roles: tuple[str, ...] = ()
    """Other linear layers with factors on their input, by role."""
    learning_rate_factor: float = Field(10.0, gt=0)
    """Learning rate of the factors, as a multiple of the head's: factors need larger steps."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class IA3(Method):
    """A factor for each output of a linear layer, or for each input."""

    Options = IA3Options
    options: IA3Options
    peft_types = {"IA3": ia3.Ia3Options}
    adapterhub_types = {"lora": adapterhub_lora.LoraOptions}

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act after the linear ports with these roles, and before the last linear layer of the feed-forward block."""
        layers = self.options.layers
        inner = (FEED_FORWARD,) if self.options.feed_forward else ()
        entering, leaving = (*inner, *self.options.input_roles), self.options.roles
        entries = ports.select("linear", entering, layers) if entering else ()
        exits = [port for port in ports.select("linear", leaving, layers) if port not in entries] if leaving else []
        return (*(Site(port) for port in exits), *(Site(port, side="input") for port in entries))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare l (outputs or inputs), zero at the start."""
        if site.side == "input":
            return {"input_factor": Parameter((site.port.inputs,))}
        return {"output_factor": Parameter((site.port.outputs,))}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Multiply the output, (R, T, outputs)."""
        return torch.addcmul(out, out, parameters["output_factor"].unsqueeze(1))

    def enter(self, parameters: Mapping[str, Tensor], x: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Multiply the input, (R, T, inputs)."""
        return torch.addcmul(x, x, parameters["input_factor"].unsqueeze(1))

    def merge(self, site: Site, folded: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return W and bias with multiplied rows; at the input side, W with multiplied columns."""
        if site.side == "input":
            return weight * (1 + folded["input_factor"]), bias
        factor = 1 + folded["output_factor"]
        return weight * factor.unsqueeze(1), bias * factor

    def reparameterise(self, start: Mapping[str, Tensor], generator: torch.Generator) -> nn.Module | None:
        """Train the factors with the head's learning rate times ``learning_rate_factor``."""
        return Rates(start, dict.fromkeys(start, self.options.learning_rate_factor))

    @classmethod
    def from_peft(cls, source: PeftSource[ia3.Ia3Options]) -> MethodWeights:
        """Read PEFT's factors, on outputs and inputs."""
        return ia3.from_peft(source)

    def to_peft(self, target: PeftTarget) -> PeftAdapter:
        """Write PEFT's factors."""
        return ia3.to_peft(target)

    @classmethod
    def from_adapterhub(cls, source: AdapterHubSource[adapterhub_lora.LoraOptions]) -> MethodWeights | None:
        """Read AdapterHub's LoRA that scales."""
        return ia3.from_adapterhub(source) if source.options.composition_mode == "scale" else None

    def to_adapterhub(self, target: AdapterHubTarget) -> AdapterHubMethod:
        """Write AdapterHub's LoRA that scales."""
        return ia3.to_adapterhub(target)
