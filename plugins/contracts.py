"""The contracts: all that the author of a plugin has to read.

A plugin is a class registered under an entry-point group:

=====================  ======================================================================
``adaptdock.adapters``  a :class:`Method`: how an adapter changes what passes a port
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
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adaptdock.plugins.ports import Port as Port
from adaptdock.plugins.ports import PortKind as PortKind
from adaptdock.plugins.ports import Ports as Ports

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

API_VERSION = 1


class Options(BaseModel):
    """Validated options of a plugin; the command line makes a flag of each field.

    A field that holds several values accepts them as one string, divided by commas.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        split = dict(values)
        for name, info in cls.model_fields.items():
            if isinstance(split.get(name), str) and get_origin(info.annotation) in (tuple, list):
                split[name] = [part.strip() for part in split[name].split(",") if part.strip()]
        return split


# -------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Parameter:
    """A tensor that is trained: its shape, and what fills it at the start (zeros unless named)."""

    shape: tuple[int, ...]
    start: "Callable[[Tensor, torch.Generator], object] | None" = None


@dataclass(frozen=True)
class Site:
    """A port that a method acts at, and the port whose input it reads (its own unless named)."""

    port: Port
    source: Port | None = None


@dataclass(frozen=True)
class Prepended:
    """Keys and values put in front of an attention call's own.

    ``key`` and ``value`` (R, H, L, D); ``bias`` (R, L) is added to the attention scores, minus
    infinity where a row has nothing to see.
    """

    key: "Tensor"
    value: "Tensor"
    bias: "Tensor"


class Method(ABC):
    """How an adapter changes what passes a port; one instance has one set of options.

    All adapters of a method that have the same :attr:`stack_key` share stacked tensors. Therefore
    two things must hold: *zeros are the identity* (parameters and constants that are all zero
    leave the output as it was), and *padding with zeros is exact* (a parameter may be given with
    any dimension enlarged by zeros). ``transform`` and ``prepend`` may look at the stack key's
    options and at what they are given, at nothing else: the rows belong to many adapters.
    """

    api_version: ClassVar[int] = API_VERSION
    Options: ClassVar[type[Options]]

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    def stack_key(self) -> Hashable:
        """What two adapters must have in common to be computed in one operation."""
        return ()

    @abstractmethod
    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Choose where to act; raise :class:`UsageError` or :class:`BackboneError` if nowhere."""

    @abstractmethod
    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare what is kept at a site; what it starts with must leave the output as it was."""

    def constants(self, site: Site) -> "dict[str, Tensor]":
        """Give what follows from the options alone and has to be known for every row."""
        return {}

    def transform(self, parameters: "Mapping[str, Tensor]", x: "Tensor", out: "Tensor", dropout: bool) -> "Tensor":
        """Return the new output of a linear, embedding or hidden port.

        ``parameters`` (and constants) have a leading dimension R; ``x`` (R, T, W) is the input,
        ``out`` (R, T, W) the output so far. ``dropout`` is true while this adapter is trained.
        """
        raise NotImplementedError(f"{type(self).__name__} does not act at linear or hidden ports")

    def prepend(self, parameters: "Mapping[str, Tensor]") -> Prepended:
        """Return what an attention call shall see in front of its own keys and values."""
        raise NotImplementedError(f"{type(self).__name__} does not act at attention ports")

    def reparameterise(self, start: "Mapping[str, Tensor]", generator: "torch.Generator") -> "nn.Module | None":
        """Return a module that is trained in the parameters' place, or None.

        ``start`` maps ``<port>.<parameter>`` to a tensor; calling the module with no argument must
        return such a mapping. What is saved is what it returns, so the detour leaves no trace.
        """
        return None


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


class Recipe(Options):
    """Training defaults of a task for one method; every one is an option of ``adapt train``."""

    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False)
    """Highest learning rate of AdamW."""
    epochs: int = Field(3, gt=0)
    """Times that the training data is gone through, at most."""
    batch_size: int = Field(16, gt=0)
    """Windows in a batch."""
    backbone_dropout: bool = False
    """Let the backbone drop what it dropped when it was trained: slower steps, later overfitting."""
    method_options: dict[str, Any] = {}


@dataclass(frozen=True)
class Cleaned:
    """Records as the task wants them, and what was changed on the way, in words with counts."""

    records: list[Record]
    notes: list[str] = field(default_factory=list)


class Head(ABC):
    """The last, small layer of an adapter; kept in float and stacked like a method's parameters.

    The rules for methods hold: zeros may be padded to any dimension, and heads with the same
    ``stack_key`` are computed in one operation.
    """

    reads: ClassVar[Literal["encoder", "decoder"]] = "encoder"

    @property
    def stack_key(self) -> Hashable:
        """What two heads must have in common to be computed in one operation."""
        return type(self).__name__

    @abstractmethod
    def parameters(self, width: int) -> dict[str, Parameter]:
        """Declare the head's tensors for hidden states of this width."""

    @abstractmethod
    def apply(self, parameters: "Mapping[str, Tensor]", hidden: "Tensor", mask: "Tensor") -> "Tensor":
        """Return logits, from ``hidden`` (R, T, W) and ``mask`` (R, T)."""

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


class LoadOptions(Options):
    """How a backbone is loaded."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps; with a device map this is ignored."""
    device_map: str | None = None
    """Spread the backbone with accelerate: auto, balanced, sequential."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the frozen weights; auto is float32 on a CPU and the checkpoint's own elsewhere."""
    quantize: Literal["nf4", "int8"] | None = None
    """Hold the frozen weights in 4 or 8 bit."""
    quantizer: Literal["auto", "bitsandbytes", "torchao"] = "auto"
    """The library that does it; auto takes the one that is fast on the device."""
    revision: str | None = None
    """Revision of a hub id."""
    trust_remote_code: bool = False
    """Run code that the model repository carries."""


AttentionHandler = Callable[["Port"], "list[Prepended]"]


class Backbone(ABC):
    """A loaded, frozen model with its ports.

    Attributes: ``id`` (as the user named it), ``revision``, ``architecture``, ``fingerprint`` (of
    the checkpoint's contents), ``model``, ``tokenizer``, ``ports``, ``width`` of the hidden
    states, ``max_length`` in tokens, ``causal`` (a position sees only what stands before it),
    ``vocabulary`` (a hash of which token has which number; empty if not known), ``quantized``.
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
    def forward(self, inputs: "Mapping[str, Tensor]", reads: str = "encoder") -> "Tensor":
        """Return the last hidden states (R, T, W) of the half of the model that a head reads."""

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
