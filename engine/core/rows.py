"""Rows: the adapters that act on each row of a batch, laid out by port."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from adaptdock.engine.core.slots import Gathered, Slot, Stack
from adaptdock.plugins.contracts import ForwardPass, Layout, Method, Port, Side, Site, Virtual


class Action(Protocol):
    """One method acting at one port, on all rows of a batch."""

    @property
    def method(self) -> Method:
        """The method that acts."""

    @property
    def site(self) -> Site:
        """The port where the method acts, and the port that it reads."""

    @property
    def dropout(self) -> bool:
        """Whether dropout is on, as in training."""

    @property
    def span(self) -> slice | None:
        """The rows of the batch that the method acts on; None for all rows."""

    def parameters(self, like: Tensor | None) -> Mapping[str, Tensor]:
        """Return the folded parameters of the rows (R or 1, ...), in the dtype of ``like`` if given.

        Without ``like`` they are on the device where the backbone places the port.
        """


class Rows(Protocol):
    """The rows of a running batch, as the ports see them."""

    count: int

    @property
    def shifts(self) -> Sequence[int]:
        """The number of positions by which each row is moved to the right."""

    def at(self, port: Port, side: Side = "output") -> Sequence[Action]:
        """Return the actions at one side of a port, in order."""

    def repeated(self, copies: int) -> "Rows":
        """Return rows in which each row is repeated ``copies`` times (beams)."""


@dataclass(frozen=True)
class Docked:
    """One method of a docked adapter in a batch: its slot, and its sites by port."""

    method: Method
    slot: Slot
    sites: Mapping[str, Site]


Parts = Sequence[Sequence[Docked]]
"""The adapters of a row, from bottom to top, each as the parts of its methods."""
Gather = Callable[[Sequence[Slot], torch.dtype], Gathered]
"""Gathers the slots of rows, in a precision."""


@dataclass(frozen=True)
class GatheredAction:
    """A method acting with the gathered parameters of the rows' slots."""

    method: Method
    site: Site
    gathered: Gathered
    span: slice | None = None
    dropout: bool = False

    def parameters(self, like: Tensor | None) -> Mapping[str, Tensor]:
        """Return the rows' parameters."""
        tensors = self.gathered.at(self.site.port.name)
        if like is None or like.dtype == self.gathered.dtype:
            return tensors
        return {name: tensor.to(like.dtype) for name, tensor in tensors.items()}  # T5 keeps some maps in float32


class MixedRows:
    """A batch in which each row has adapters of its own: a bare row has none, a stack several.

    Adapters of one stack act in the given order. The number of operations depends on the number of methods and the
    depth of the stacks, not on the number of adapters. Each method runs on the span from its first to its last row;
    :func:`arranged` sorts rows to keep spans short.
    """

    def __init__(
        self, rows: Sequence[Parts], dtype: torch.dtype, whole: bool = False, gather: Gather = Gathered
    ) -> None:
        """Lay out the parts of each row's adapters by port.

        ``whole`` makes every method run on all rows, so that a compiled graph does not depend on the spans.
        ``gather`` returns the gathered weights of slots.
        """
        self.count = len(rows)
        self._rows, self._dtype, self._whole, self._gather = rows, dtype, whole, gather
        self._actions: dict[Side, dict[str, list[Action]]] = {"output": {}, "input": {}, "front": {}}
        self._gathered: list[Gathered] = []
        self._repeated: dict[int, MixedRows] = {}  # without these rows, which would then hold themselves
        for level in range(max((len(adapters) for adapters in rows), default=0)):
            self._add_level([adapters[level] if level < len(adapters) else () for adapters in rows])

    def at(self, port: Port, side: Side = "output") -> Sequence[Action]:
        """Return the actions at one side of a port, in order."""
        return self._actions[side].get(port.name, ())

    @property
    def shifts(self) -> Sequence[int]:
        """The number of positions by which each row is moved to the right."""
        return [sum(part.method.shift for parts in adapters for part in parts) for adapters in self._rows]

    def gather(self) -> None:
        """Stack all parameters now.

        A compiled model needs stacked parameters: otherwise its graph would depend on which rows share a slot.
        """
        for gathered in self._gathered:
            gathered.all()

    def repeated(self, copies: int) -> "MixedRows":
        """Return these rows, each ``copies`` times in succession."""
        if copies == 1:
            return self
        if copies not in self._repeated:
            rows = [row for row in self._rows for _ in range(copies)]
            self._repeated[copies] = MixedRows(rows, self._dtype, self._whole, self._gather)
        return self._repeated[copies]

    def _add_level(self, level: Sequence[Sequence[Docked]]) -> None:
        groups: dict[tuple[int, Stack], list[tuple[int, Docked]]] = {}
        for row, parts in enumerate(level):
            for order, part in enumerate(parts):  # an adapter's methods act in its own order
                groups.setdefault((order, part.slot.stack), []).append((row, part))
        for group in sorted(groups, key=lambda key: (key[0], key[1].number)):  # independent of the order of rows
            stack, members = group[1], groups[group]
            sites = {name: site for _, part in members for name, site in part.sites.items()}
            span = None if self._whole else self._span([row for row, _ in members], sites)
            slots = [stack.identity] * self.count
            for row, part in members:
                slots[row] = part.slot
            gathered, sample = self._gather(slots if span is None else slots[span], self._dtype), members[0][1]
            self._gathered.append(gathered)
            for name, site in sites.items():
                action = GatheredAction(sample.method, site, gathered, span)
                self._actions[site.side].setdefault(name, []).append(action)

    def _span(self, members: Sequence[int], sites: Mapping[str, Site]) -> slice | None:
        """Return the rows from the first to the last member; None for all rows.

        Keys, values and embeddings in front of a text must exist for every row, so their methods run on all rows.
        """
        if any(site.port.kind == "attention" or site.side == "front" for site in sites.values()):
            return None
        span = slice(members[0], members[-1] + 1)
        return None if span == slice(0, self.count) else span


def arranged(rows: Sequence[Parts]) -> list[int]:
    """Return an order in which rows with the same methods are neighbours, so that spans are short.

    Rows of the same adapters are in the same order in every batch, so that their stacked weights can be used again.
    """
    kinds = [
        (
            [[part.slot.stack.number for part in parts] for parts in adapters],
            [[part.slot.number for part in parts] for parts in adapters],
        )
        for adapters in rows
    ]
    return sorted(range(len(rows)), key=kinds.__getitem__)


def places(order: Sequence[int]) -> list[int]:
    """Return the place of each row in an order: the inverse permutation."""
    return sorted(range(len(order)), key=order.__getitem__)


def moves(rows: Rows, device: torch.device) -> Tensor | None:
    """Return the shift of each row (R) to the right in positions, or None if no row is moved."""
    shifts = rows.shifts
    return torch.tensor(shifts, device=device) if any(shifts) else None


def virtual(rows: Rows, port: Port, layout: Layout) -> Virtual | None:
    """Return the embeddings that the actions at the embedding port put in front of the rows, or None."""
    pieces = [
        action.method.embed(action.parameters(None), ForwardPass(rows.count, action.dropout, layout))
        for action in rows.at(port, "front")
    ]
    if not pieces:
        return None
    shape = (rows.count, -1, -1)
    return Virtual(
        torch.cat([piece.embeddings.expand(*shape) for piece in reversed(pieces)], dim=1),
        torch.cat([piece.mask.expand(rows.count, -1) for piece in reversed(pieces)], dim=1),
    )
