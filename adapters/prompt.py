"""Prompt tuning (Lester et al. 2021, arXiv:2104.08691): learned embeddings before the input embeddings.

``[P; E(x)]`` with P (length, width of the input embeddings), random at the start. P counts as tokens, so it takes its
length from the positions that the backbone can read. An untrained prompt is not the identity, because the text attends
to it. Rows without a prompt are not affected.
"""

from collections.abc import Mapping
from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from adaptdock.adapters.interchange import prompt
from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site, Virtual
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget, VirtualOptions
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights
from adaptdock.plugins.toolkit.learning_rates import Rates


class PromptOptions(Options):
    """Options of ``prompt``."""

    length: int = Field(20, gt=0)
    """Number of learned embeddings."""
    start_std: float = Field(0.02, gt=0)
    """Standard deviation of their initial values; that of token embeddings is mostly similar."""
    learning_rate_factor: float = Field(10.0, gt=0)
    """Learning rate of the prompt, as a multiple of the head's: prompts need larger steps."""


class Prompt(Method):
    """Learned embeddings before the embeddings of a text."""

    Options = PromptOptions
    options: PromptOptions
    grows = {"prompt": 0, "mask": 0}
    peft_types = dict.fromkeys(("PROMPT_TUNING", "P_TUNING", "CPT", prompt.SHARED), VirtualOptions)

    @property
    def positions(self) -> int:
        """The length of the prompt."""
        return self.options.length

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the front of the input embeddings."""
        return tuple(Site(port, side="front") for port in ports.select("embedding", ("all",)))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare the embeddings (length, width)."""
        start = partial(_normal, self.options.start_std)
        return {"prompt": Parameter((self.options.length, site.port.outputs), start)}

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Add a mask of ones; zeros that pad it mean that there is no embedding."""
        return {**parameters, "mask": parameters["prompt"].new_ones(self.options.length)}

    def embed(self, parameters: Mapping[str, Tensor], forward_pass: ForwardPass) -> Virtual:
        """Return embeddings and mask."""
        return Virtual(parameters["prompt"], parameters["mask"])

    def reparameterise(self, start: Mapping[str, Tensor], generator: torch.Generator) -> nn.Module | None:
        """Train the prompt with the head's learning rate times ``learning_rate_factor``."""
        return Rates(start, dict.fromkeys(start, self.options.learning_rate_factor))

    @classmethod
    def from_peft(cls, source: PeftSource[VirtualOptions]) -> MethodWeights:
        """Read PEFT's prompt tuning, also of a single task among several, and the results of p-tuning and CPT."""
        return prompt.from_peft(source)

    def to_peft(self, target: PeftTarget) -> PeftAdapter:
        """Write PEFT's prompt tuning."""
        return prompt.to_peft(self.options.length, target)


def _normal(std: float, tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=std, generator=generator)
