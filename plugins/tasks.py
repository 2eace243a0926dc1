"""Tasks: what an adapter is for. Data in, head, loss, metrics, readable predictions out.

Shapes are written with these letters: R rows of a batch, T positions, W the width of the hidden states,
V words of the vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from adaptdock.plugins.methods import Parameter
from adaptdock.plugins.options import API_VERSION, Options, Recipe

if TYPE_CHECKING:
    from torch import Tensor

Record = dict[str, Any]


@dataclass
class Feature:
    """One window of a record, ready for the backbone.

    ``inputs`` are the model's inputs by name, for each position an integer or a list of them, always as many
    (the characters of a word), ``alignment`` whatever the task needs to read predictions back, ``cut`` the number of
    tokens for which there was no room.

    ``labels`` are what the loss needs, None when predicting. All features of a task have labels of one form:

    ============================  =======================================  ====================================
    form                          what the loss is given                   for
    ============================  =======================================  ====================================
    an int                        (R), integers                            a class for each row
    a float                       (R), float32                             a number for each row
    a list of ints                (R, longest), integers, padded on the    a class for each position (as many as
                                  right with -100, which does not count    the head answers for), a span
    a list of floats              (R, longest), float32, padded with -100  a yes or no for each class
    ============================  =======================================  ====================================

    ``row_inputs`` are numbers that the head reads beside the states, by the names in :attr:`Head.row_inputs`: an int or
    a float becomes (R), a list of them (R, longest), padded on the right with what the head says there. Positions
    count the window's tokens from 0, special ones included, whatever a method puts in front of them.
    """

    inputs: dict[str, list[Any]]
    labels: Any = None
    alignment: Any = None
    cut: int = 0
    row_inputs: dict[str, int | float | list[int] | list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """How a backbone reads: its tokenizer, the longest window in tokens, and whether it is causal.

    A tokenizer is one of transformers' fast ones, or has the part of their interface that tasks use; one whose
    ``takes_words`` is true is told the ``words`` of a text, as spans, where they are known.

    ``decoder_start`` is the token with which the answer of an encoder-decoder begins; None for other models.
    """

    tokenizer: Any
    max_length: int
    causal: bool = False
    decoder_start: int | None = None


@dataclass(frozen=True)
class Cleaned:
    """Records as the task wants them, and what was changed on the way, in words with counts."""

    records: list[Record]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tied:
    """Hidden states (R, T, W), and the frozen input embeddings (V, W) that a head maps them to the vocabulary with."""

    states: "Tensor"
    embeddings: "Tensor"


@dataclass(frozen=True)
class WithRowInputs:
    """What a head is given otherwise, and the numbers of each row that it asks for, (R) or (R, longest) by name."""

    hidden: "Tensor | Tied"
    inputs: "Mapping[str, Tensor]"


class Head(ABC):
    """The last, small layer of an adapter; kept in float and stacked like a method's parameters.

    Heads with the same ``stack_key`` are computed in one operation; the dimensions that ``grows``
    names may be padded with zeros.
    """

    reads: ClassVar[Literal["encoder", "decoder"]] = "encoder"
    """The half of an encoder-decoder whose hidden states it is given; of any other model there is one."""
    over: ClassVar[Literal["hidden", "vocabulary", "embeddings"]] = "hidden"
    """What it is given: the last hidden states, the frozen language model's logits made of them, or the states
    with the frozen input embeddings (:class:`Tied`)."""
    row_inputs: ClassVar[Mapping[str, int | float]] = {}
    """The names of the numbers of each row that it reads beside the states (the positions of two entities), each with
    the number that pads its lists. A head with any is given :class:`WithRowInputs`. Padding must change nothing."""
    grows: ClassVar[Mapping[str, int]] = {}
    """The dimension of a tensor whose extent an option chooses (classes), by its name."""
    front: int = 0
    """How many positions in front of the text, which are the adapter's own prompt, it is given too."""

    @property
    def stack_key(self) -> Hashable:
        """What two heads must have in common to be computed in one operation."""
        return type(self).__name__

    @abstractmethod
    def parameters(self, width: int) -> dict[str, Parameter]:
        """Declare the head's tensors for hidden states of this width."""

    @abstractmethod
    def apply(self, parameters: "Mapping[str, Tensor]", hidden: Any, mask: "Tensor") -> "Tensor":
        """Return logits, from ``hidden`` (R, T, W), or what else it is given, and ``mask`` (R, T)."""

    @abstractmethod
    def trim(self, logits: "Tensor", length: int) -> "Tensor":
        """Cut one row's logits (without R) to this head's own size and to ``length`` positions."""


class Task(ABC):
    """What an adapter is for; one instance has one set of options (label names included).

    What only some tasks can do is not here: ``abilities.py`` has a protocol for each.
    """

    api_version: ClassVar[int] = API_VERSION
    Options: ClassVar[type[Options]]
    columns: ClassVar[Mapping[str, tuple[str, ...]]]
    """The fields of a record, each with the column names under which data sets are known to keep it."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """The fields of those that a data set may lack."""
    asks: ClassVar[tuple[str, ...]] = ("text",)
    """The fields of an input that a person fills in; where it is one, an input may be the bare text."""
    texts: ClassVar[tuple[str, ...]] = ()
    """The fields that hold a text whose words augmentation may change: none into which labels point by offsets.

    An altered copy of a record holds its number, 1 or more, under ``copy``."""
    words: ClassVar[tuple[str, str] | None] = None
    """The field with words that augmentation may change, and the field with a tag for each."""
    sample: ClassVar[Path]
    """The folder of the sample data that ships with the task."""
    recipes: ClassVar[Mapping[str, Recipe]] = {}
    """Tuned defaults of training, by the name of the method."""
    default_recipe: ClassVar[Recipe] = Recipe()
    """Those for methods without an entry in :attr:`recipes`."""
    layout: ClassVar[str] = "lines"
    """How a text file without a telling suffix is read: ``conll``, ``lines`` or ``document``."""
    metric: ClassVar[str]
    """The metric that decides which weights are best."""
    lower_is_better: ClassVar[bool] = False
    """Whether that metric is an error."""
    measured_before: ClassVar[bool] = False
    """Whether validation measures the bare backbone too, because it can do without training what the task asks."""
    together: ClassVar[bool] = False
    """Whether the features of a record are trained in one batch, because the loss compares them."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def labels(self, record: Record) -> Iterable[Hashable]:
        """Return the labels of a raw record (a class, tags); empty, as here, where records have none.

        The last training example of a label is never held out for validation. Raises :class:`DataError` as
        :meth:`clean` does.
        """
        return ()

    @abstractmethod
    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Check and normalise raw records; raise :class:`DataError` naming the record's place."""

    @abstractmethod
    def fit(self, records: Sequence[Record]) -> Self:
        """Return this task with what it learns from the training records (the label names)."""

    def notes(self) -> list[str]:
        """Return, after :meth:`fit`, what it has guessed and a person should know."""
        return []

    def suit(self, reading: Reading) -> Self:
        """Return this task, after :meth:`fit`, with what it learns from the backbone's tokenizer.

        Raises :class:`BackboneError` or :class:`UsageError` where they do not go together.
        """
        return self

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

    def without(self, record: Record, kept: Sequence[int]) -> Record:
        """Return a record of which only these of its :attr:`words` are left, with tags that go together still."""
        return {**record, **{name: [record[name][place] for place in kept] for name in type(self).words or ()}}

    def digest(self, feature: Feature, logits: "Tensor") -> "Tensor":
        """Return what is kept of one window's logits until a record is decoded; all of them unless they are many."""
        return logits

    @abstractmethod
    def decode(self, record: Record, features: Sequence[Feature], digests: "Sequence[Tensor]") -> dict[str, Any]:
        """Turn what :meth:`digest` gave for each window of a record into a prediction that JSON can hold."""

    @abstractmethod
    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Compare predictions with the records' own labels; :attr:`metric` is one of the keys."""

    def support(self, records: Sequence[Record]) -> int:
        """Return how many answers :attr:`metric` compares in cleaned records: texts, words, entities.

        Where they are few, validation cannot tell which weights are best. The number of records unless overridden.
        """
        return len(records)

    def baseline(self, records: Sequence[Record]) -> dict[str, Any] | None:
        """Return what :meth:`score` gives the best answer that is the same for every input (the majority class).

        An adapter that does no better has learnt nothing of use. None, as here, where there is no such answer.
        """
        return None

    @abstractmethod
    def render(self, prediction: Mapping[str, Any]) -> str:
        """Return a prediction as text for a person."""


class ColumnInspector(Task):
    """A task that can tell by the values of a column what it holds, and what data is that it cannot read."""

    @classmethod
    def locate(cls, sentences: Sequence[Sequence[Sequence[str]]]) -> dict[str, int]:
        """Return field -> column, counted from 0, of sentences whose columns have no names.

        ``sentences`` hold columns of words. Fields that the values do not tell are left out: :attr:`columns` tells.
        """
        return {}

    @classmethod
    def explain(cls, row: Mapping[str, Any]) -> str:
        """Say what a row is that lacks a field, and the way out; return an empty text where nothing is known."""
        return ""


class Writer(Task):
    """A task whose answers the backbone's language model writes.

    It is trained, and validated, on the logits of given answers; :meth:`decode` says how probable they are.
    """

    @property
    @abstractmethod
    def written(self) -> int:
        """The records of an evaluation, the first ones, for which answers are written and compared."""

    @abstractmethod
    def search(self) -> dict[str, Any]:
        """Return how answers are searched for: ``max_new_tokens``, ``num_beams`` and the like."""

    @abstractmethod
    def prompt(self, record: Record, reading: Reading) -> Feature:
        """Return what is continued, or what an encoder reads, in at most ``reading.max_length`` tokens."""

    @abstractmethod
    def answer(self, record: Record, text: str) -> dict[str, Any]:
        """Turn a written text into a prediction that JSON can hold."""

    @abstractmethod
    def compare(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return metrics of answers against the records' own."""
