"""Methods: the change of the values at a port, and its parameters.

Letters of shapes: R rows of a batch (or 1, when all rows share one adapter),
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
    """A tensor of an adapter: its shape, and the function that initialises it (with zeros by default).

    A parameter that is not ``trained`` has no gradient; it is stored and folded like all others.
    """

    shape: tuple[int, ...]
    start: "Callable[[Tensor, torch.Generator], object] | None" = None
    trained: bool = True


Side = Literal["output", "input", "front"]


@dataclass(frozen=True)
class Site:
    """A port with the way in which a method acts there.

    ``source`` is the port whose input the method reads, by default the same port. ``side``: a method changes the
    output of a port, changes the input of a linear port, or adds virtual embeddings at the front of the input
    embeddings.
    """

    port: Port
    source: Port | None = None
    side: Side = "output"


class Method(ABC):
    """A method of adaptation: the change of the values at ports; one instance has one set of options.

    Adapters of a method with the same :attr:`stack_key` are stacked and computed together. Therefore :meth:`fold` must
    satisfy: (1) *zeros are the identity*: all-zero tensors do not change the output; (2) *padding with zeros is exact*
    in the dimensions of :attr:`grows`. ``transform``, ``enter``, ``prepend``, ``embed`` and ``mix`` may use their
    arguments and the options in the stack key, but no other options, because the rows belong to many adapters.
    ``method_abilities.py`` has the optional abilities.
    """

    api_version: ClassVar[int] = API_VERSION
    Options: ClassVar[type[Options]]
    grows: ClassVar[Mapping[str, int]] = {}
    """By the name of a folded tensor, the dimension with a size set by an option (rank, width, length)."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    def stack_key(self) -> Hashable:
        """The options that must be equal for two adapters to be computed in one operation."""
        return ()

    @property
    def positions(self) -> int:
        """The number of positions that the method takes from the longest text, such as the length of a prompt."""
        return 0

    @property
    def shift(self) -> int:
        """The number of positions by which a text moves to the right, as after a prefix in the KV cache."""
        return 0

    @abstractmethod
    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Return the sites to act at; raise :class:`UsageError` or :class:`BackboneError` if there are none."""

    @abstractmethod
    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare the parameters at a site; their initial values must not change the output."""

    def fold(self, site: Site, parameters: "Mapping[str, Tensor]", backbone: Backbone) -> "dict[str, Tensor]":
        """Return the tensors of the forward pass at a site: the parameters with folded scales and added constants.

        Called once when an adapter is docked, and with gradients at each step of its training. The
        frozen weight of a linear port is ``backbone.weight(site.port)``.
        """
        return dict(parameters)

    def transform(
        self, parameters: "Mapping[str, Tensor]", x: "Tensor", out: "Tensor", forward_pass: ForwardPass
    ) -> "Tensor":
        """Return the new output of a linear, norm, embedding or hidden port.

        ``parameters``, folded, have a leading dimension R; ``x`` (R, T, W) is the input, ``out``
        (R, T, W) the output so far. At an embedding port ignore ``x``: the tokens are in the forward pass.
        """
        raise NotImplementedError(f"{type(self).__name__} does not change the output of a port")

    def enter(self, parameters: "Mapping[str, Tensor]", x: "Tensor", forward_pass: ForwardPass) -> "Tensor":
        """Return the new input (R, T, W) of a linear port, at sites whose side is ``input``."""
        raise NotImplementedError(f"{type(self).__name__} does not change the input of a port")

    def prepend(self, parameters: "Mapping[str, Tensor]", forward_pass: ForwardPass) -> Prepended:
        """Return the keys and values before those of an attention call.

        The forward pass is that of the half of the model with the queries.
        """
        raise NotImplementedError(f"{type(self).__name__} does not act at attention ports")

    def embed(self, parameters: "Mapping[str, Tensor]", forward_pass: ForwardPass) -> Virtual:
        """Return the virtual embeddings before the input embeddings, at sites whose side is ``front``.

        The forward pass is that of the texts, without virtual embeddings.
        """
        raise NotImplementedError(f"{type(self).__name__} does not act at the input embeddings")

    def mix(
        self, parameters: "Mapping[str, Tensor]", layers: "Sequence[Tensor]", out: "Tensor", forward_pass: ForwardPass
    ) -> "Tensor":
        """Return the input of the head (R, T, W), at the port of the kind ``layers``.

        ``layers`` are the inputs (R, T, W) of each layer, followed by the last states. ``out`` is the head's input so
        far: the last states, unless another method has changed it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not change the input of the head")


class LowRank(Method):
    """A method that adds the product of two matrices to a linear layer, up (outputs, rank) and down (rank, inputs).

    Such updates can be added, negated and compressed; the result is an adapter of the same method.
    """

    @classmethod
    @abstractmethod
    def unscaled(cls, rank: int, roles: Sequence[str], layers: str | None) -> Self:
        """Return a method of this rank with scale 1, at linear ports with these roles and layers."""

    @abstractmethod
    def factors(self, folded: "Mapping[str, Tensor]") -> "tuple[Tensor, Tensor]":
        """Return up and down at a site, from the result of :meth:`fold`."""

    @abstractmethod
    def from_factors(self, up: "Tensor", down: "Tensor") -> "dict[str, Tensor]":
        """Return the parameters of an :meth:`unscaled` method that adds this product at a site."""


@dataclass(frozen=True)
class Trained:
    """A trained adapter for a :class:`Composite`, already checked against the backbone.

    ``methods`` are the names and options in its card; ``tensors`` have the names in its file.
    """

    name: str
    methods: Sequence[tuple[str, Mapping[str, Any]]]
    tensors: "Mapping[str, Tensor]"


class Composite(Method):
    """A method made of trained adapters, whose tensors become its own parameters.

    It has two states: before training, with the files that it :attr:`wants`; and complete, as in its card and its
    file. Untrained, it combines the effects of its members, so it is not the identity.
    """

    @property
    @abstractmethod
    def wants(self) -> tuple[Path, ...]:
        """The adapter files of its members; empty if it is complete."""

    @abstractmethod
    def adopt(self, members: Mapping[Path, Trained]) -> Self:
        """Return the complete method, with initial parameters from the members, and without paths in its options.

        Raises :class:`UsageError` for members that cannot be computed together, with the difference.
        """


class Combination(ABC):
    """Several methods that form one adapter, with its own name and options."""

    api_version: ClassVar[int] = API_VERSION
    Options: ClassVar[type[Options]]

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def methods(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the name and the options of each method, in the order in which they act."""
