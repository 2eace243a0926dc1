"""Tokens drawn with a generator for each row, so that a row's text does not depend on its neighbours.

The best of logits plus Gumbel noise is a draw by their softmax (Gumbel 1954; Maddison et al. 2014,
arXiv:1411.0030), so the search that takes the best token draws.
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
    """Return what a greedy search needs to draw: temperature, top_k, top_p, and noise by a seed for each row."""
    chosen: list[LogitsProcessor] = []
    if options["temperature"] != 1:
        chosen.append(TemperatureLogitsWarper(options["temperature"]))
    if options["top_k"]:
        chosen.append(TopKLogitsWarper(options["top_k"]))
    if options["top_p"] < 1:
        chosen.append(TopPLogitsWarper(options["top_p"]))
    return LogitsProcessorList([*chosen, Gumbel(seeds, device)])


class Gumbel(LogitsProcessor):
    """Adds noise to the logits of each row, from a generator of its own."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return (R, V) scores with noise."""
        noise = [
            torch.empty(scores.shape[1], device=scores.device).exponential_(generator=generator)
            for generator in self.generators
        ]
        return scores - torch.stack(noise).log()
