"""Prompt tuning (Lester et al. 2021, arXiv:2104.08691): learned embeddings in front of the input's own.

``[P; E(x)]`` with P (length, width of the input embeddings), random at the start. Positions are counted as
if P were tokens, so a text has as many fewer of those that the backbone can read. An untrained prompt is
no identity: the text sees it, whatever it holds. Rows without a prompt do not see it.
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
    """Standard deviation of what they start with; token embeddings mostly have about this one."""
    learning_rate_factor: float = Field(10.0, gt=0)
    """Learning rate of the prompt, as a multiple of the head's: prompts want to be moved further."""


class Prompt(Method):
    """Learned embeddings in front of those of a text."""

    Options = PromptOptions
    options: PromptOptions
    grows = {"prompt": 0, "mask": 0}
    peft_types = {"PROMPT_TUNING": VirtualOptions, "P_TUNING": VirtualOptions}

    @property
    def positions(self) -> int:
        """The length of the prompt."""
        return self.options.length

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act in front of the input embeddings."""
        return tuple(Site(port, side="front") for port in ports.select("embedding", ("all",)))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Keep the embeddings (length, width)."""
        start = partial(_normal, self.options.start_std)
        return {"prompt": Parameter((self.options.length, site.port.outputs), start)}

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Add a mask of ones: where it is padded with zeros, nothing is there."""
        return {**parameters, "mask": parameters["prompt"].new_ones(self.options.length)}

    def embed(self, parameters: Mapping[str, Tensor], forward_pass: ForwardPass) -> Virtual:
        """Give embeddings and mask."""
        return Virtual(parameters["prompt"], parameters["mask"])

    def reparameterise(self, start: Mapping[str, Tensor], generator: torch.Generator) -> nn.Module | None:
        """Let the prompt learn faster than the head by the learning rate factor."""
        return Rates(start, dict.fromkeys(start, self.options.learning_rate_factor))

    @classmethod
    def from_peft(cls, source: PeftSource[VirtualOptions]) -> MethodWeights:
        """Read PEFT's prompt tuning, and the result of its p-tuning."""
        return prompt.from_peft(source)

    def to_peft(self, target: PeftTarget) -> PeftAdapter:
        """Write PEFT's prompt tuning."""
        return prompt.to_peft(self.options.length, target)


def _normal(std: float, tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=std, generator=generator)
