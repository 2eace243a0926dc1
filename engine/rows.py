"""Rows: for each row of a batch, which adapters act on it, laid out by port."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from adaptdock.engine.slots import Index, Stack
from adaptdock.plugins.contracts import Method, Port, Site


class Action(Protocol):
    """One method acting at one port, on all rows of a batch."""

    @property
    def method(self) -> Method:
        """What acts."""

    @property
    def site(self) -> Site:
        """Where it acts and what it reads."""

    @property
    def dropout(self) -> bool:
        """Whether it is being trained."""

    def parameters(self, like: Tensor | None) -> Mapping[str, Tensor]:
        """Return the rows' parameters (R or 1, ...), in the dtype of ``like`` if that is given."""


class Rows(Protocol):
    """What the ports ask while a batch runs."""

    count: int

    def at(self, port: Port) -> Sequence[Action]:
        """Return what acts at a port, in order."""


@dataclass(frozen=True)
class Docked:
    """What a batch sees of a docked adapter's method: its stack, its slot there, and its sites."""

    method: Method
    stack: Stack
    slot: int
    sites: Mapping[str, Site]


@dataclass(frozen=True)
class StackedAction:
    """A method acting with parameters that are gathered from a stack."""

    method: Method
    site: Site
    stack: Stack
    index: Index
    dropout: bool = False

    def parameters(self, like: Tensor | None) -> Mapping[str, Tensor]:
        """Gather the rows' parameters."""
        gathered = self.stack.gather(self.site.port.name, self.index)
        if like is None:
            return gathered
        return {name: tensor.to(like.dtype) for name, tensor in gathered.items()}  # T5 keeps some maps in float32


class MixedRows:
    """A batch in which each row has adapters of its own: a bare row has none, a stack several.

    Adapters of one stack act in the order given; the number of operations depends on how many kinds
    of adapter there are and how deep they are stacked, not on how many adapters there are.
    """

    def __init__(self, rows: Sequence[Sequence[Sequence[Docked]]]) -> None:
        """Take, for each row, for each adapter from bottom to top, the parts of that adapter."""
        self.count = len(rows)
        self._actions: dict[str, list[Action]] = {}
        for level in range(max((len(adapters) for adapters in rows), default=0)):
            self._add_level([adapters[level] if level < len(adapters) else () for adapters in rows])

    def at(self, port: Port) -> Sequence[Action]:
        """Return what acts at a port, in order."""
        return self._actions.get(port.name, ())

    def _add_level(self, level: Sequence[Sequence[Docked]]) -> None:
        groups: dict[int, list[tuple[int, Docked]]] = {}
        for row, parts in enumerate(level):
            for part in parts:
                groups.setdefault(id(part.stack), []).append((row, part))
        for members in groups.values():
            slots = [0] * self.count
            sites: dict[str, Site] = {}
            for row, part in members:
                slots[row] = part.slot
                sites.update(part.sites)
            first, index = members[0][1], Index(slots)
            for name, site in sites.items():
                self._actions.setdefault(name, []).append(StackedAction(first.method, site, first.stack, index))
