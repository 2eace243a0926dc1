"""The contracts: all that the author of a plugin has to read.

A plugin is a class registered under an entry-point group:

=====================  ======================================================================
``adaptdock.adapters``  a :class:`Method`: how an adapter changes what passes a port; or a :class:`Combination`
``adaptdock.tasks``     a :class:`Task`: data in, head, loss, metrics, readable predictions out
``adaptdock.backbones`` a :class:`BackboneFamily`: how to load a model, and where its ports are
=====================  ======================================================================

Shapes are written with these letters: R rows of a batch (or 1, when all rows share one adapter),
T positions, W a width, H attention heads, L prefix length, D width of one attention head.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from adaptdock.plugins.errors import BackboneError, UsageError
from adaptdock.plugins.options import LoadOptions as LoadOptions
from adaptdock.plugins.options import Options as Options
from adaptdock.plugins.options import Recipe as Recipe
from adaptdock.plugins.ports import Port as Port
from adaptdock.plugins.ports import PortKind as PortKind
from adaptdock.plugins.ports import Ports as Ports

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

API_VERSION = 1

# -------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Parameter:
    """A tensor of an adapter: its shape, and what fills it at the start (zeros unless named).

    One that is not ``trained`` has no gradient; it is stored, and folded, as the others are.
    """

    shape: tuple[int, ...]
    start: "Callable[[Tensor, torch.Generator], object] | None" = None
    trained: bool = True


Side = Literal["output", "input"]


@dataclass(frozen=True)
class Site:
    """A port that a method acts at.

    ``source`` is the port whose input is read there (its own unless named). ``side`` says whether what
    comes out of a linear port is changed, or what goes in.
    """

    port: Port
    source: Port | None = None
    side: Side = "output"


@dataclass(frozen=True)
class Prepended:
    """Keys and values put in front of an attention call's own.

    ``key`` and ``value`` (R, H, L, D); ``bias`` (R, L) is added to the attention scores, minus
    infinity where a row has nothing to see.
    """

    key: "Tensor"
    value: "Tensor"
    bias: "Tensor"


@dataclass(frozen=True)
class Virtual:
    """Input embeddings put in front of a row's own.

    ``embeddings`` (R, L, W); ``mask`` (R, L) is one where there is something, zero where a row has nothing.
    """

    embeddings: "Tensor"
    mask: "Tensor"


class Method(ABC):
    """How an adapter changes what passes a port; one instance has one set of options.

    Adapters of a method that have the same :attr:`stack_key` are stacked and computed together. Therefore
    two things must hold of what :meth:`fold` gives: *zeros are the identity* (all zero leaves the output
    as it was), and *padding with zeros is exact* in the dimensions that :attr:`grows` names. ``transform``,
    ``enter``, ``prepend`` and ``embed`` may look at the stack key's options and at what they are given, at
    nothing else: the rows belong to many adapters.
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

    @abstractmethod
    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Choose where to act; raise :class:`UsageError` or :class:`BackboneError` if nowhere."""

    @abstractmethod
    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare what is kept at a site; what it starts with must leave the output as it was."""

    def fold(self, site: Site, parameters: "Mapping[str, Tensor]", backbone: "Backbone") -> "dict[str, Tensor]":
        """Return what acts at a site, from an adapter's parameters there: scales folded in, constants added.

        Called once when an adapter is docked, and at each step of its training, with gradients. The
        frozen weights of a linear port are ``backbone.weight(site.port)``.
        """
        return dict(parameters)

    def transform(self, parameters: "Mapping[str, Tensor]", x: "Tensor", out: "Tensor", dropout: bool) -> "Tensor":
        """Return the new output of a linear or hidden port.

        ``parameters``, folded, have a leading dimension R; ``x`` (R, T, W) is the input, ``out``
        (R, T, W) the output so far. ``dropout`` is true while this adapter is trained.
        """
        raise NotImplementedError(f"{type(self).__name__} does not act at linear or hidden ports")

    def enter(self, parameters: "Mapping[str, Tensor]", x: "Tensor") -> "Tensor":
        """Return the new input (R, T, W) of a linear port, at sites whose side is ``input``."""
        raise NotImplementedError(f"{type(self).__name__} does not act on what goes into a port")

    def prepend(self, parameters: "Mapping[str, Tensor]") -> Prepended:
        """Return what an attention call shall see in front of its own keys and values."""
        raise NotImplementedError(f"{type(self).__name__} does not act at attention ports")

    def embed(self, parameters: "Mapping[str, Tensor]") -> Virtual:
        """Return what stands in front of the input embeddings."""
        raise NotImplementedError(f"{type(self).__name__} does not act at the input embeddings")

    def merge(
        self, site: Site, folded: "Mapping[str, Tensor]", weight: "Tensor", bias: "Tensor"
    ) -> "tuple[Tensor, Tensor]":
        """Return weight (outputs, inputs) and bias (outputs) of a linear map that has become one with the adapter.

        ``weight`` and ``bias`` are its own, without adapter. Raises :class:`UsageError` in methods that
        are no linear map, and therefore cannot be merged.
        """
        raise UsageError(
            f"the method {type(self).__name__.lower()} cannot be merged into a backbone: what it does is no linear map"
        )

    def reparameterise(self, start: "Mapping[str, Tensor]", generator: "torch.Generator") -> "nn.Module | None":
        """Return a module that is trained in the parameters' place, or None.

        ``start`` maps ``<port>.<parameter>`` to a tensor; calling the module with no argument must
        return such a mapping. What is saved is what it returns, so the detour leaves no trace.
        """
        return None


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


# ---------------------------------------------------------------------------------------- tasks

Record = dict[str, Any]


@dataclass
class Feature:
    """One window of a record, ready for the backbone.

    ``inputs`` are the model's inputs by name (lists of integers), ``labels`` what the loss needs
    (None when predicting), ``alignment`` whatever the task needs to read predictions back.
    """

    inputs: dict[str, list[int]]
    labels: Any = None
    alignment: Any = None


@dataclass(frozen=True)
class Reading:
    """How a backbone reads: its tokenizer, the longest window in tokens, and whether it is causal."""

    tokenizer: Any
    max_length: int
    causal: bool = False


@dataclass(frozen=True)
class Cleaned:
    """Records as the task wants them, and what was changed on the way, in words with counts."""

    records: list[Record]
    notes: list[str] = field(default_factory=list)


class Head(ABC):
    """The last, small layer of an adapter; kept in float and stacked like a method's parameters.

    Heads with the same ``stack_key`` are computed in one operation; the dimensions that ``grows``
    names may be padded with zeros.
    """

    reads: ClassVar[Literal["encoder", "decoder"]] = "encoder"
    """The half of an encoder-decoder whose hidden states it is given; of any other model there is one."""
    over: ClassVar[Literal["hidden", "vocabulary"]] = "hidden"
    """What it is given: the last hidden states, or the frozen language model's logits made of them."""
    grows: ClassVar[Mapping[str, int]] = {}
    """The dimension of a tensor whose extent an option chooses (classes), by its name."""

    @property
    def stack_key(self) -> Hashable:
        """What two heads must have in common to be computed in one operation."""
        return type(self).__name__

    @abstractmethod
    def parameters(self, width: int) -> dict[str, Parameter]:
        """Declare the head's tensors for hidden states of this width."""

    @abstractmethod
    def apply(self, parameters: "Mapping[str, Tensor]", hidden: "Tensor", mask: "Tensor") -> "Tensor":
        """Return logits, from ``hidden`` (R, T, W), or what else it is given, and ``mask`` (R, T)."""

    @abstractmethod
    def trim(self, logits: "Tensor", length: int) -> "Tensor":
        """Cut one row's logits (without R) to this head's own size and to ``length`` positions."""


class Task(ABC):
    """What an adapter is for; one instance has one set of options (label names included)."""

    api_version: ClassVar[int] = API_VERSION
    Options: ClassVar[type[Options]]
    columns: ClassVar[Mapping[str, tuple[str, ...]]]
    """The fields of a record, each with the column names under which data sets are known to keep it."""
    layout: ClassVar[str] = "lines"
    """How a text file without a telling suffix is read: ``conll`` or ``lines``."""
    metric: ClassVar[str]
    """The metric that decides which weights are best; higher is better."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @classmethod
    @abstractmethod
    def sample(cls) -> Path:
        """Return the folder of the sample data that ships with the task."""

    @classmethod
    def recipe(cls, method: str) -> Recipe:
        """Return tuned defaults for a method; the general ones for a method it does not know."""
        return Recipe()

    @abstractmethod
    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Check and normalise raw records; raise :class:`DataError` naming the record's place."""

    @abstractmethod
    def fit(self, records: Sequence[Record]) -> Self:
        """Return this task with what it learns from the training records (the label names)."""

    @abstractmethod
    def check(self, records: Sequence[Record], split: str) -> None:
        """Raise :class:`DataError` where records do not go with what :meth:`fit` has learnt."""

    @abstractmethod
    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return counts that let a person recognise the data (for reports and ``--dry-run``)."""

    @abstractmethod
    def head(self) -> Head:
        """Return the head for what :meth:`fit` has learnt."""

    @abstractmethod
    def read(self, item: Any) -> Record:
        """Turn one input of ``predict`` (a text, or a JSON object) into a record."""

    @abstractmethod
    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Turn a record into features; what is too long becomes several windows, never cut."""

    @abstractmethod
    def loss(self, logits: "Tensor", labels: "Tensor", weights: "Tensor | None") -> "Tensor":
        """Return the mean loss of a batch; positions labelled -100 do not count."""

    def class_weights(self, records: Sequence[Record]) -> list[float] | None:
        """Return a weight per class that evens out the classes, or None if the task has no classes."""
        return None

    @abstractmethod
    def decode(self, record: Record, features: Sequence[Feature], logits: "Sequence[Tensor]") -> dict[str, Any]:
        """Turn one record's logits (one tensor a window) into a prediction that JSON can hold."""

    @abstractmethod
    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Compare predictions with the records' own labels; :attr:`metric` is one of the keys."""

    @abstractmethod
    def render(self, prediction: Mapping[str, Any]) -> str:
        """Return a prediction as text for a person."""


# ------------------------------------------------------------------------------------ backbones


AttentionHandler = Callable[["Port", int], "list[Prepended]"]
"""Given a port and the number of rows in the call, says what stands in front of its keys."""


class Backbone(ABC):
    """A loaded, frozen model with its ports.

    Attributes: ``id`` (as the user named it), ``revision``, ``architecture``, ``fingerprint`` (of
    the checkpoint's contents), ``model``, ``tokenizer``, ``ports``, ``width`` of the hidden
    states, ``max_length`` in tokens, ``causal`` (a position sees only what stands before it), ``encoder_decoder``
    (it has two halves), ``vocabulary`` (a hash of which token has which number; empty if not known), ``quantized``.
    """

    id: str
    revision: str | None
    architecture: str
    fingerprint: str
    model: "nn.Module"
    tokenizer: Any
    ports: Ports
    width: int
    max_length: int
    causal: bool
    encoder_decoder: bool = False
    vocabulary: str = ""
    quantized: str | None = None

    @property
    @abstractmethod
    def device(self) -> "torch.device":
        """The device that inputs go to."""

    @property
    @abstractmethod
    def dtype(self) -> "torch.dtype":
        """The dtype of the hidden states."""

    @abstractmethod
    def placement(self, port: Port) -> "torch.device":
        """Return the device on which a port's module computes."""

    @abstractmethod
    def forward(
        self,
        inputs: "Mapping[str, Tensor]",
        reads: str = "encoder",
        virtual: Virtual | None = None,
        encoded: "Tensor | None" = None,
    ) -> "Tensor":
        """Return the last hidden states (R, T, W) of the half of the model that a head reads.

        With ``virtual`` embeddings in front of the inputs' own, states include theirs: (R, L + T, W). What is
        masked of them, and padding on the left, comes first: a row's own stand directly before its text.
        ``encoded`` is what the same inputs gave for the encoder, which is then not computed again.
        """

    def weight(self, port: Port) -> "Tensor":
        """Return the frozen weight (outputs, inputs) of a linear port, dequantised."""
        raise BackboneError(f"the backbone {self.id!r} does not give its weights away")

    def bias(self, port: Port) -> "Tensor":
        """Return the frozen bias (outputs) of a linear port; zeros where it has none."""
        raise BackboneError(f"the backbone {self.id!r} does not give its weights away")

    def vocabulary_logits(self, hidden: "Tensor") -> "Tensor":
        """Return the frozen language model's logits (R, T, V) for hidden states (R, T, W)."""
        raise BackboneError(f"the backbone {self.id!r} is no language model: it has no map to a vocabulary")

    def generate(
        self,
        inputs: "Mapping[str, Tensor]",
        virtual: Virtual | None,
        options: Mapping[str, Any],
        seeds: Sequence[int] | None = None,
    ) -> "Tensor":
        """Return new tokens (R, N) after ``inputs`` (R, T), padded on the right.

        ``options``: max_new_tokens, num_beams, repetition_penalty, and for draws temperature, top_k and
        top_p. Tokens are drawn where there are ``seeds``, one for each row. A row may stand in the
        model several times (its beams), one copy after the other.
        """
        raise BackboneError(f"the backbone {self.id!r} is no language model: it cannot write")

    def save(self, folder: Path, maps: "Mapping[Port, tuple[Tensor, Tensor]]") -> None:
        """Write a copy of the model, tokenizer included, in which linear ports have another weight and bias.

        ``maps`` gives weight (outputs, inputs) and bias (outputs). Whoever made the original must be able to
        load the copy without this project. Raises :class:`BackboneError` where a map cannot become what is
        given, or the model cannot be saved.
        """
        raise BackboneError(f"the backbone {self.id!r} cannot be saved as a model that stands for itself")

    @abstractmethod
    def open_attention(self, handler: AttentionHandler) -> AbstractContextManager[None]:
        """While the context is open, attention calls see what the handler gives for their port."""


class BackboneFamily(ABC):
    """How models of one kind are recognised and loaded."""

    api_version: ClassVar[int] = API_VERSION
    general: ClassVar[bool] = False
    """True for a family that takes any name, which is therefore asked last."""

    @abstractmethod
    def accepts(self, name: str) -> bool:
        """Tell whether this family can load the model of that name, path or hub id."""

    @abstractmethod
    def load(self, name: str, options: LoadOptions) -> Backbone:
        """Load a model, frozen; raise :class:`BackboneError` with the reason if that fails."""
