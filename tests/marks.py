"""A method for tests, which acts by what it is told of each position: its number, its token, whether it is padding."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import Tensor

from adaptdock.plugins import registry
from adaptdock.plugins.contracts import ForwardPass, Method, Options, Parameter, PortKind, Ports, Site

SEEN: list[tuple[str, Tensor, Tensor, Tensor | None]] = []
"""The kind of port, mask, positions and tokens of each act, as they were told."""


class MarksOptions(Options):
    kind: PortKind = "linear"
    roles: tuple[str, ...] = ("all",)


class Marks(Method):
    """Adds ``mark * sin(position + token / 10)`` to what is no padding."""

    Options = MarksOptions
    options: MarksOptions

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        return tuple(Site(port) for port in ports.select(self.options.kind, self.options.roles))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        return {"mark": Parameter((site.port.outputs,))}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        mask, positions, tokens = forward_pass.mask, forward_pass.positions, forward_pass.token_ids
        SEEN.append((self.options.kind, mask, positions, tokens))
        assert mask.shape == positions.shape == out.shape[:2]
        assert forward_pass.rows == len(out)
        wave = torch.sin(positions + (0 if tokens is None else tokens) / 10) * mask
        return out + wave.unsqueeze(-1).to(out.dtype) * parameters["mark"].unsqueeze(1)


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the method as ``marks``, and forget what was told before."""
    SEEN.clear()
    point = EntryPoint("marks", "marks:Marks", "adaptdock.adapters")
    plugin = registry.Plugin("method", "marks", point.value, "tests", "0", point)
    installed = (*registry._installed(), plugin)
    monkeypatch.setattr(registry, "_installed", lambda: installed)
