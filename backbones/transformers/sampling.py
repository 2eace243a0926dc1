"""Sampling with a generator per row, so that a row's text does not depend on its neighbours.

The argmax of logits plus Gumbel noise is a draw from their softmax (Gumbel 1954; Maddison et al. 2014,
arXiv:1411.0030). A greedy search on noisy logits therefore samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


def drawing(options: Mapping[str, Any], seeds: Sequence[int], device: torch.device) -> LogitsProcessorList:
    """Return the processors with which a greedy search samples: temperature, top_k, top_p, noise by a seed per row."""
    processors: list[LogitsProcessor] = []
    if options["temperature"] != 1:
        processors.append(TemperatureLogitsWarper(options["temperature"]))
    if options["top_k"]:
        processors.append(TopKLogitsWarper(options["top_k"]))
    if options["top_p"] < 1:
        processors.append(TopPLogitsWarper(options["top_p"]))
    return LogitsProcessorList([*processors, Gumbel(seeds, device)])


class Gumbel(LogitsProcessor):
    """Adds Gumbel noise to the logits of each row, from the row's own generator."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return (R, V) scores with noise."""
        noise = [
            torch.empty(scores.shape[1], device=scores.device).exponential_(generator=generator)
            for generator in self.generators
        ]
        return scores - torch.stack(noise).log()
