"""Responses: what the methods and the head of an adapter compute from fixed numbers, without the backbone.

A golden probe compares logits, where the rounding of a backbone in 16, 8 or 4 bit hides small faults. A response is
computed in float32 in every process, at one port: it changes with a single tensor, a lost scale or other code of the
method, and with nothing else. The input, the output so far and the frozen weights at a port are pseudo-random numbers
of unit variance (weights: of unit length per output).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from adaptdock.engine.core.assembly import HEAD, Assembly, Part
from adaptdock.plugins.contracts import AttentionHandler, Backbone, Batch, ForwardPass, Head, Method, Port, Site

TOLERANCE = 1e-3
"""Largest difference of an unchanged response, relative to its size; the arithmetic of two machines differs by 1e-5."""
LEAST_SIZE = 1e-3
"""Smaller responses are compared as if they had this size, as float32 rounds the values of size 1 that they change."""
DIGITS = 6
"""Significant digits of a stored response."""
POSITIONS = 8
PERIOD = 65_521
"""A prime, so that the rows of a matrix do not repeat the numbers of other rows."""
STRIDE = 9_973
PROJECTIONS = 2

Responses = Mapping[str, Sequence[float]]
"""Place (port and method, or ``head``) -> for each tensor of the response its root mean square and its projections."""


def responses(assembly: Assembly, tensors: Mapping[str, Tensor], backbone: Backbone) -> dict[str, list[float]]:
    """Return the responses of an adapter with these tensors, named as in its file.

    A place has no entry if its method or head fails on fixed numbers, or needs more than hidden states. A response that
    is not finite has an entry with such numbers.
    """
    weights = {name: tensor.detach().cpu().float() for name, tensor in tensors.items()}
    entries: dict[str, list[float]] = {}
    with torch.inference_mode():
        for part in assembly.parts:
            try:
                entries.update(_of_part(part, weights, FixedWeights(backbone)))
            except Exception:  # a method of a plugin that fails here must not cost a trained adapter
                continue
        head = {name: weights[f"{HEAD}.{name}"] for name in assembly.head.parameters(assembly.width)}
        if head and assembly.head.over == "hidden" and not assembly.head.row_inputs:
            with suppress(Exception):  # as above
                entries[HEAD] = _summary([_of_head(assembly.head, head, assembly.width)])
    return entries


def rounded(entries: Responses) -> dict[str, list[float]]:
    """Return responses as they are stored; empty if a number is not finite."""
    if not all(math.isfinite(value) for values in entries.values() for value in values):
        return {}
    return {place: [float(f"{value:.{DIGITS}g}") for value in values] for place, values in entries.items()}


@dataclass(frozen=True)
class Change:
    """The change of a response: its place, and the difference as a share of the stored response.

    ``stored`` and ``now`` are the root mean squares of the tensors of the response; empty where it is missing.
    """

    place: str
    difference: float
    stored: tuple[float, ...]
    now: tuple[float, ...]

    def __str__(self) -> str:
        if not math.isfinite(self.difference):
            return f"it gives no finite response to fixed numbers at {self.place}, and it did when it was saved"
        return (
            f"its response to fixed numbers at {self.place} differs by {self.difference:.2%} of its size from the "
            f"response when it was saved"
        )


def changes(stored: Responses, now: Responses) -> list[Change]:
    """Return the change of each stored response, the largest first; it is infinite where a response is missing."""
    pairs = {place: (values, now.get(place, ())) for place, values in stored.items()}
    group = 1 + PROJECTIONS
    unsorted = [
        Change(place, _difference(before, after), tuple(before[::group]), tuple(after[::group]))
        for place, (before, after) in pairs.items()
    ]
    return sorted(unsorted, key=lambda change: -change.difference)


def _difference(stored: Sequence[float], now: Sequence[float]) -> float:
    if len(stored) != len(now) or not all(map(math.isfinite, now)):
        return math.inf
    group = 1 + PROJECTIONS
    return max(
        math.dist(stored[start : start + group], now[start : start + group])
        / math.sqrt(group)
        / max(stored[start], LEAST_SIZE)
        for start in range(0, len(stored), group)
    )


def _of_part(part: Part, weights: Mapping[str, Tensor], backbone: Backbone) -> Iterator[tuple[str, list[float]]]:
    folded = part.folded(weights, backbone)
    for site in part.sites:
        place = site.port.name
        parameters = {name: tensor.float()[None] for name, tensor in folded[place].items()}
        yield f"{part.prefix}{place} {part.name}", _summary(_at(part.method, site, parameters, backbone.width))


def _at(method: Method, site: Site, parameters: Mapping[str, Tensor], width: int) -> list[Tensor]:
    """Return the change that a method makes at a site, or the keys, values and embeddings that it adds."""
    port, forward_pass = site.port, _forward_pass(site.port)
    if port.kind == "attention":
        if site.source is not None:
            forward_pass = replace(forward_pass, read=_fixed((1, POSITIONS, site.source.inputs)))
        prefix = method.prepend(parameters, forward_pass)
        (filled,) = prefix.bias.isfinite().nonzero(as_tuple=True)[1:]
        return [prefix.key[:, :, filled], prefix.value[:, :, filled], prefix.bias[:, filled].exp()]
    if site.side == "front":
        virtual = method.embed(parameters, forward_pass)
        return [virtual.embeddings[virtual.mask.expand(virtual.embeddings.shape[:2]).bool()]]
    if port.kind == "layers":
        layers = [_fixed((1, POSITIONS, width), number) for number in range(port.layer + 1)]
        return [method.mix(parameters, layers, layers[-1].clone(), forward_pass) - layers[-1]]
    if site.side == "input":
        x = _fixed((1, POSITIONS, port.inputs))
        return [method.enter(parameters, x.clone(), forward_pass) - x]
    out = _fixed((1, POSITIONS, port.outputs), 1)
    x = out if port.kind == "embedding" else _fixed((1, POSITIONS, (site.source or port).inputs))
    return [method.transform(parameters, x.clone(), out.clone(), forward_pass) - out]


def _forward_pass(port: Port) -> ForwardPass:
    mask = torch.ones(1, POSITIONS, dtype=torch.long)
    words = port.inputs if port.kind == "embedding" else 0
    tokens = torch.arange(POSITIONS)[None] * (words // POSITIONS) if words else None
    return ForwardPass.of(mask, token_ids=tokens)


def _of_head(head: Head, tensors: Mapping[str, Tensor], width: int) -> Tensor:
    length = POSITIONS + head.front
    parameters = {name: tensor[None] for name, tensor in tensors.items()}
    mask = torch.ones(1, POSITIONS, dtype=torch.long)
    return head.trim(head.apply(parameters, _fixed((1, length, width)), mask)[0], POSITIONS)


def _summary(parts: Sequence[Tensor]) -> list[float]:
    summary = []
    for part in parts:
        numbers = part.double().flatten()
        root = math.sqrt(max(1, len(numbers)))
        summary.append(float(numbers.norm()) / root)
        directions = (_fixed((len(numbers),), 2 + number).double() for number in range(PROJECTIONS))
        summary += [float(numbers @ direction) / root for direction in directions]
    return summary


def _fixed(shape: Sequence[int], number: int = 0) -> Tensor:
    """Return standard normal numbers, the same on every machine; another ``number`` gives others."""
    size = math.prod(shape)
    start = number * STRIDE
    places = torch.arange(start, start + size) % PERIOD
    return _base()[places].view(*shape)


@cache
def _base() -> Tensor:
    # numpy never changes the numbers of RandomState; torch and numpy's newer generators may
    return torch.from_numpy(np.random.RandomState(0).standard_normal(PERIOD).astype(np.float32))


class FixedWeights(Backbone):
    """A backbone whose frozen weights are fixed numbers, so that folded weights don't depend on its precision."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.id, self.revision, self.fingerprint = backbone.id, backbone.revision, backbone.fingerprint
        self.architecture, self.ports, self.width = backbone.architecture, backbone.ports, backbone.width
        self.max_length, self.causal = backbone.max_length, backbone.causal
        self.encoder_decoder = backbone.encoder_decoder

    @property
    def device(self) -> torch.device:
        """The host."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """float32, whatever the backbone's."""
        return torch.float32

    def placement(self, port: Port) -> torch.device:
        """Return the host."""
        return self.device

    def weight(self, port: Port) -> Tensor:
        """Return fixed numbers (outputs, inputs) with rows of length 1 on average."""
        return _fixed((port.outputs, port.inputs), 4) / math.sqrt(port.inputs)

    def bias(self, port: Port) -> Tensor:
        """Return fixed numbers (outputs)."""
        return _fixed((port.outputs,), 5)

    def norm(self, path: str) -> tuple[Tensor, Tensor, float]:
        """Return fixed numbers (W) and (W), and the epsilon of the backbone's norm."""
        factor, _, epsilon = self._backbone.norm(path)
        return 1 + _fixed(factor.shape, 4) / 8, _fixed(factor.shape, 5) / 8, epsilon

    def forward(self, batch: Batch) -> Tensor:
        """Raise an error: there is no model."""
        raise NotImplementedError("fixed weights have no model to run")

    def open_attention(self, handler: AttentionHandler) -> AbstractContextManager[None]:
        """Raise an error: there is no model."""
        raise NotImplementedError("fixed weights have no model to run")
