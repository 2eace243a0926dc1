"""Methods: how an adapter changes what passes a port, and what it keeps for that.

Shapes are written with these letters: R rows of a batch (or 1, when all rows share one adapter),
T positions, W a width, H attention heads, L prefix length, D width of one attention head.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from adaptdock.plugins.backbones import Backbone
from adaptdock.plugins.forward_pass import ForwardPass
from adaptdock.plugins.options import API_VERSION, Options
from adaptdock.plugins.ports import Port, Ports, Prepended, Virtual

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Parameter:
    """A tensor of an adapter: its shape, and what fills it at the start (zeros unless named).

    One that is not ``trained`` has no gradient; it is stored, and folded, as the others are.
    """

    shape: tuple[int, ...]
    start: "Callable[[Tensor, torch.Generator], object] | None" = None
    trained: bool = True


Side = Literal["output", "input", "front"]


@dataclass(frozen=True)
class Site:
    """A port that a method acts at.

    ``source`` is the port whose input is read there (its own unless named). ``side`` says whether what
    comes out of a port is changed, or what goes into a linear one, or whether something is put in front of the input
    embeddings.
    """

    port: Port
    source: Port | None = None
    side: Side = "output"


class Method(ABC):
    """How an adapter changes what passes a port; one instance has one set of options.

    Adapters of a method that have the same :attr:`stack_key` are stacked and computed together. Therefore
    two things must hold of what :meth:`fold` gives: *zeros are the identity* (all zero leaves the output
    as it was), and *padding with zeros is exact* in the dimensions that :attr:`grows` names. ``transform``,
    ``enter``, ``prepend``, ``embed`` and ``mix`` may look at the stack key's options and at what they are given, at
    nothing else: the rows belong to many adapters. What a method can do beyond this is said in ``abilities.py``.
    """

    api_version: ClassVar[int] = API_VERSION
    Options: ClassVar[type[Options]]
    grows: ClassVar[Mapping[str, int]] = {}
    """The dimension of a folded tensor whose extent an option chooses (rank, width, length), by its name."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    def stack_key(self) -> Hashable:
        """What two adapters must have in common to be computed in one operation."""
        return ()

    @property
    def positions(self) -> int:
        """How many of the positions that a backbone can read are taken from each text, as by a prompt."""
        return 0

    @property
    def shift(self) -> int:
        """By how many positions a text is moved to the right, as it is behind a prefix in a cache."""
        return 0

    @abstractmethod
    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Choose where to act; raise :class:`UsageError` or :class:`BackboneError` if nowhere."""

    @abstractmethod
    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare what is kept at a site; what it starts with must leave the output as it was."""

    def fold(self, site: Site, parameters: "Mapping[str, Tensor]", backbone: Backbone) -> "dict[str, Tensor]":
        """Return what acts at a site, from an adapter's parameters there: scales folded in, constants added.

        Called once when an adapter is docked, and at each step of its training, with gradients. The
        frozen weights of a linear port are ``backbone.weight(site.port)``.
        """
        return dict(parameters)

    def transform(
        self, parameters: "Mapping[str, Tensor]", x: "Tensor", out: "Tensor", forward_pass: ForwardPass
    ) -> "Tensor":
        """Return the new output of a linear, norm, embedding or hidden port.

        ``parameters``, folded, have a leading dimension R; ``x`` (R, T, W) is the input, ``out``
        (R, T, W) the output so far. At an embedding port, which reads
        tokens, ``x`` says nothing: they are in the forward pass.
        """
        raise NotImplementedError(f"{type(self).__name__} does not change what comes out of a port")

    def enter(self, parameters: "Mapping[str, Tensor]", x: "Tensor", forward_pass: ForwardPass) -> "Tensor":
        """Return the new input (R, T, W) of a linear port, at sites whose side is ``input``."""
        raise NotImplementedError(f"{type(self).__name__} does not act on what goes into a port")

    def prepend(self, parameters: "Mapping[str, Tensor]", forward_pass: ForwardPass) -> Prepended:
        """Return what an attention call shall see in front of its own keys and values.

        The forward pass is that of the half of the model that the queries are of.
        """
        raise NotImplementedError(f"{type(self).__name__} does not act at attention ports")

    def embed(self, parameters: "Mapping[str, Tensor]", forward_pass: ForwardPass) -> Virtual:
        """Return what stands in front of the input embeddings, at sites whose side is ``front``.

        The forward pass is that of the texts alone.
        """
        raise NotImplementedError(f"{type(self).__name__} does not act at the input embeddings")

    def mix(
        self, parameters: "Mapping[str, Tensor]", layers: "Sequence[Tensor]", out: "Tensor", forward_pass: ForwardPass
    ) -> "Tensor":
        """Return what a head reads (R, T, W), at the port of the kind ``layers``.

        ``layers`` are the states (R, T, W) that enter each layer, and after them the last ones; ``out`` is what a
        head reads so far, of the last ones unless something else has acted.
        """
        raise NotImplementedError(f"{type(self).__name__} does not act on what a head reads")


class LowRank(Method):
    """A method that adds to a linear map the product of two thin matrices, up (outputs, rank) and down (rank, inputs).

    Such updates can be added, negated and compressed, and the result is one of the same method.
    """

    @classmethod
    @abstractmethod
    def unscaled(cls, rank: int, roles: Sequence[str], layers: str | None) -> Self:
        """Return a method of this rank that adds the bare product, at linear ports with these roles and layers."""

    @abstractmethod
    def factors(self, folded: "Mapping[str, Tensor]") -> "tuple[Tensor, Tensor]":
        """Return up and down at a site, from what :meth:`fold` gave."""

    @abstractmethod
    def from_factors(self, up: "Tensor", down: "Tensor") -> "dict[str, Tensor]":
        """Return the parameters of a site at which an :meth:`unscaled` method adds this product."""


@dataclass(frozen=True)
class Trained:
    """A trained adapter, checked against the backbone at hand, as a :class:`Composite` sees it.

    ``methods`` are name and options of each, as in its card; ``tensors`` are named as in its file.
    """

    name: str
    methods: Sequence[tuple[str, Mapping[str, Any]]]
    tensors: "Mapping[str, Tensor]"


class Composite(Method):
    """A method that is made of trained adapters, and keeps in its own parameters what it needs of them.

    It exists in two states: with files that it :attr:`wants`, before training; and complete, as its card
    and its own file describe it. Untrained it does what its members do together, and is no identity.
    """

    @property
    @abstractmethod
    def wants(self) -> tuple[Path, ...]:
        """The adapter files of its members; none where it is complete."""

    @abstractmethod
    def adopt(self, members: Mapping[Path, Trained]) -> Self:
        """Return the complete method, whose parameters start as the members'; no path is left in its options.

        Raises :class:`UsageError` for members that cannot be computed together, with what differs.
        """


class Combination(ABC):
    """Several methods that make one adapter, under a name and with options of their own."""

    api_version: ClassVar[int] = API_VERSION
    Options: ClassVar[type[Options]]

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def methods(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the name and the options of each method, in the order in which they act."""
