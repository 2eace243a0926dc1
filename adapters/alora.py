"""aLoRA: activated LoRA (Greenewald et al. 2025, arXiv:2504.12397), which acts from an invocation in the text on.

``out_t + scale * B A x_t`` at the positions t from the first token of the last occurrence of the invocation tokens on,
and ``out_t`` before. So the keys and values of the text before the invocation are those of the bare backbone. In a
text without the invocation the adapter does nothing; generated tokens belong to the text whose prompt has it. Without
invocation tokens it acts everywhere, as LoRA does.
"""

from collections.abc import Hashable, Mapping

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from adaptdock.adapters.interchange import low_rank
from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.batched_linear import linear
from adaptdock.plugins.toolkit.interchange import peft_lora
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights
from adaptdock.plugins.toolkit.lowrank import kaiming, scale


class ALoRAOptions(Options):
    """Options of ``alora``."""

    invocation: tuple[int, ...] = ()
    """Ids of the tokens that turn the adapter on; without any it acts everywhere."""
    rank: int = Field(32, gt=0)
    """Rank of the update."""
    alpha: float = Field(32.0, gt=0)
    """Scale of the update, before division by the rank."""
    rslora: bool = False
    """Divide alpha by the square root of the rank instead of the rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate of the inputs during training."""
    roles: tuple[str, ...] = ("query", "key", "value")
    """Linear layers to adapt, by role; "all" for every role."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class ALoRA(Method):
    """A low-rank update beside each selected linear layer, from an invocation in the text on."""

    Options = ALoRAOptions
    options: ALoRAOptions
    grows = {"lora_a": 0, "lora_b": 1}
    peft_types = {"LORA": peft_lora.LoraOptions}

    @property
    def stack_key(self) -> Hashable:
        """The invocation tokens."""
        return self.options.invocation

    @property
    def invocation(self) -> tuple[int, ...]:
        """The tokens without which the adapter does nothing."""
        return self.options.invocation

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the linear ports with these roles."""
        return tuple(Site(port) for port in ports.select("linear", self.options.roles, self.options.layers))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare A (rank, inputs), Kaiming-uniform at the start, and B (outputs, rank), zero."""
        rank, port = self.options.rank, site.port
        return {"lora_a": Parameter((rank, port.inputs), kaiming), "lora_b": Parameter((port.outputs, rank))}

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Fold the scale into B."""
        factor = scale(self.options.rank, self.options.alpha, self.options.rslora)
        return {**parameters, "lora_b": parameters["lora_b"] * factor}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the update at active positions, (R, T, inputs) -> (R, T, rank) -> (R, T, outputs)."""
        if forward_pass.training and self.options.dropout:
            x = functional.dropout(x, self.options.dropout)
        inner = linear(x, parameters["lora_a"])
        if self.options.invocation:
            inner = inner * self._active(forward_pass).unsqueeze(-1).to(inner.dtype)
        return linear(inner, parameters["lora_b"], onto=out)

    def _active(self, forward_pass: ForwardPass) -> Tensor:
        """Return which positions (R, T) the adapter acts at."""
        token_ids, prompt_ids = forward_pass.token_ids, forward_pass.prompt_ids
        if prompt_ids is not None:  # a step of generation, which reads the last token alone
            return (_start(prompt_ids, self.options.invocation) >= 0).unsqueeze(1)
        if token_ids is None:
            return torch.zeros_like(forward_pass.mask)
        start = _start(token_ids, self.options.invocation).unsqueeze(1)
        places = torch.arange(token_ids.shape[1], device=token_ids.device)
        return (start >= 0) & (places >= start)

    @classmethod
    def from_peft(cls, source: PeftSource[peft_lora.LoraOptions]) -> MethodWeights | None:
        """Read PEFT's LoRA with invocation tokens."""
        return low_rank.invoked_from_peft(source) if source.options.alora_invocation_tokens else None

    def to_peft(self, target: PeftTarget) -> PeftAdapter:
        """Write PEFT's LoRA with invocation tokens."""
        return low_rank.invoked_to_peft(self.options.model_dump(), target)


def _start(token_ids: Tensor, invocation: tuple[int, ...]) -> Tensor:
    """Return the place (R) of the last occurrence of the invocation in each row of tokens (R, T), or -1."""
    length, wanted = len(invocation), torch.tensor(invocation, device=token_ids.device)
    if token_ids.shape[1] < length:
        return token_ids.new_full((len(token_ids),), -1)
    occurs = (token_ids.unfold(1, length, 1) == wanted).all(-1)
    places = torch.arange(occurs.shape[1], device=token_ids.device)
    return torch.where(occurs, places, -1).amax(1)
