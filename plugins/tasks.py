"""Tasks: the purpose of an adapter, from records to head, loss, metrics and readable predictions.

Letters of shapes: R rows of a batch, T positions, W the width of the hidden states,
V words of the vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from adaptdock.plugins.methods import Parameter
from adaptdock.plugins.options import API_VERSION, Options, Recipe
from adaptdock.plugins.processors import TEXT, Content, Processor

if TYPE_CHECKING:
    from torch import Tensor

Record = dict[str, Any]


@dataclass
class Feature:
    """One window of a record, ready for the backbone.

    ``inputs`` are the model's inputs by name, with an integer for each position, or a list of integers of fixed
    length (the characters of a word). ``alignment`` is any value that the task needs to decode predictions. ``cut`` is
    the number of tokens without room.

    ``labels`` are the labels for the loss, None in prediction. All features of a task have labels of one form:

    ============================  =======================================  ====================================
    form                          argument of the loss                     for
    ============================  =======================================  ====================================
    an int                        (R), integers                            a class for each row
    a float                       (R), float32                             a number for each row
    a list of ints                (R, longest), integers, padded on the    a class for each position of the head's
                                  right with -100, which does not count    output, a span
    a list of floats              (R, longest), float32, padded with -100  a yes or no for each class
    ============================  =======================================  ====================================

    ``row_inputs`` are additional numbers for the head, by the names in :attr:`Head.row_inputs`: an int or a float
    becomes (R), a list (R, longest), padded on the right with the number in :attr:`Head.row_inputs`. Positions count
    the window's tokens from 0, special tokens included, without the virtual tokens of a method.
    """

    inputs: dict[str, list[Any]]
    labels: Any = None
    alignment: Any = None
    cut: int = 0
    row_inputs: dict[str, int | float | list[int] | list[float]] = field(default_factory=dict)
    content: Content | None = None
    """The image or sound of the window; the backbone's processor makes the float inputs of it, batch by batch."""


@dataclass(frozen=True)
class Reading:
    """The reading side of a backbone: its tokenizer, the longest window in tokens, and whether it is causal.

    A backbone that reads images or sounds has a ``processor`` and no tokenizer.

    The tokenizer is a fast tokenizer of transformers, or has the part of its interface that tasks use. If its
    ``takes_words`` is true, it gets the known ``words`` of a text, as spans.

    ``decoder_start`` is the first token of the answer of an encoder-decoder; None for other models.
    """

    tokenizer: Any
    max_length: int
    causal: bool = False
    decoder_start: int | None = None
    processor: Processor | None = None


@dataclass(frozen=True)
class Cleaned:
    """Records in the form of the task, and notes on the changes, with counts.

    Large data is a sequence in a file (``stored`` of the toolkit), each reading of which gives new records.
    """

    records: Sequence[Record]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tied:
    """Hidden states (R, T, W), and the frozen input embeddings (V, W) as weight of an LM head."""

    states: "Tensor"
    embeddings: "Tensor"


@dataclass(frozen=True)
class WithRowInputs:
    """The usual input of a head, and its row inputs by name, (R) or (R, longest)."""

    hidden: "Tensor | Tied"
    inputs: "Mapping[str, Tensor]"


class Head(ABC):
    """The last, small layer of an adapter; kept in float and stacked like a method's parameters.

    Heads with the same ``stack_key`` are computed in one operation; the dimensions in ``grows`` may be padded with
    zeros.
    """

    reads: ClassVar[Literal["encoder", "decoder"]] = "encoder"
    """The half of an encoder-decoder whose hidden states the head reads; ignored for other models."""
    over: ClassVar[Literal["hidden", "vocabulary", "embeddings"]] = "hidden"
    """The input of the head: the last hidden states, the logits of the frozen language model, or the states with the
    frozen input embeddings (:class:`Tied`)."""
    row_inputs: ClassVar[Mapping[str, int | float]] = {}
    """The names of additional numbers of each row (the positions of two entities), with the number that pads their
    lists. A head with row inputs gets :class:`WithRowInputs`. Padding must not change its output."""
    grows: ClassVar[Mapping[str, int]] = {}
    """By the name of a tensor, the dimension with a size set by an option (classes)."""
    front: int = 0
    """The number of positions before the text, of the adapter's own prompt, that the head reads too."""

    @property
    def stack_key(self) -> Hashable:
        """The options that must be equal for two heads to be computed in one operation."""
        return type(self).__name__

    @abstractmethod
    def parameters(self, width: int) -> dict[str, Parameter]:
        """Declare the head's tensors for hidden states of this width."""

    @abstractmethod
    def apply(self, parameters: "Mapping[str, Tensor]", hidden: Any, mask: "Tensor") -> "Tensor":
        """Return logits, from ``hidden`` (R, T, W) or the input named by :attr:`over`, and ``mask`` (R, T)."""

    @abstractmethod
    def trim(self, logits: "Tensor", length: int) -> "Tensor":
        """Cut one row's logits (without R) to this head's own size and to ``length`` positions."""


class Task(ABC):
    """The purpose of an adapter; one instance has one set of options (label names included).

    Optional abilities are protocols in ``task_abilities.py``.
    """

    api_version: ClassVar[int] = API_VERSION
    Options: ClassVar[type[Options]]
    columns: ClassVar[Mapping[str, tuple[str, ...]]]
    """The fields of a record, each with the column names of known data sets."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """The fields that a data set may lack."""
    asks: ClassVar[tuple[str, ...]] = ("text",)
    """The fields of an input for prediction; with a single field, an input may be the bare text."""
    modality: ClassVar[str] = TEXT
    """What the task reads; a backbone of another modality is refused. See :attr:`Processor.modality`."""
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The fields with a path or a data URL, each with the suffixes of its files in lower case (``.png``).

    A relative path in a data file is relative to the folder of that file. A server opens no path of a request."""
    texts: ClassVar[tuple[str, ...]] = ()
    """The fields with a text that augmentation may change; not fields with labels that are offsets.

    An augmented copy of a record has its number, from 1, under ``copy``."""
    words: ClassVar[tuple[str, str] | None] = None
    """The field with words that augmentation may change, and the field with the tags of these words."""
    sample: ClassVar[Path]
    """The folder of the task's sample data."""
    recipes: ClassVar[Mapping[str, Recipe]] = {}
    """Tuned defaults of training, by the name of the method."""
    default_recipe: ClassVar[Recipe] = Recipe()
    """Defaults of training for methods without an entry in :attr:`recipes`."""
    layout: ClassVar[str] = "lines"
    """The format of a text file with an unknown suffix: ``conll``, ``lines`` or ``document``."""
    metric: ClassVar[str]
    """The metric that selects the best weights."""
    lower_is_better: ClassVar[bool] = False
    """Whether a lower value of :attr:`metric` is better."""
    baseline_answer: ClassVar[str] = "the same answer to every input"
    """The subject of a sentence about :meth:`baseline`, in the singular."""
    measured_before: ClassVar[bool] = False
    """Whether validation also measures the bare backbone, which can solve the task without training."""
    together: ClassVar[bool] = False
    """Whether the features of a record must be in one batch, because the loss compares them."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def labels(self, record: Record) -> Iterable[Hashable]:
        """Return the labels of a raw or cleaned record (a class, tags); by default none.

        The last training example of a label is never held out for validation. Raises :class:`DataError` like
        :meth:`clean`.
        """
        return ()

    @abstractmethod
    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Check and normalise raw records; raise :class:`DataError` with the place of the record."""

    @abstractmethod
    def fit(self, records: Sequence[Record]) -> Self:
        """Return this task with the options learnt from the training records (the label names)."""

    def notes(self) -> list[str]:
        """Return, after :meth:`fit`, notes on guesses that the user should know."""
        return []

    def suit(self, reading: Reading) -> Self:
        """Return this task, after :meth:`fit`, with the options learnt from the backbone's tokenizer.

        Raises :class:`BackboneError` or :class:`UsageError` for a backbone that does not suit the task.
        """
        return self

    @abstractmethod
    def check(self, records: Sequence[Record], split: str) -> None:
        """Raise :class:`DataError` for records that do not fit the learnt options, such as an unknown label."""

    @abstractmethod
    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return counts by which the user recognises the data (for reports and ``--dry-run``)."""

    @abstractmethod
    def head(self) -> Head:
        """Return the head for the learnt options."""

    @abstractmethod
    def read(self, item: Any) -> Record:
        """Convert an input of ``predict`` (a text, or a JSON object) into a record."""

    @abstractmethod
    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Convert a record into features; a long text becomes several windows, without a cut."""

    @abstractmethod
    def loss(self, logits: "Tensor", labels: "Tensor", weights: "Tensor | None") -> "Tensor":
        """Return the mean loss of a batch; positions labelled -100 do not count."""

    def without(self, record: Record, kept: Sequence[int]) -> Record:
        """Return a record with only the :attr:`words` at these places, and a legal sequence of tags."""
        return {**record, **{name: [record[name][place] for place in kept] for name in type(self).words or ()}}

    def digest(self, feature: Feature, logits: "Tensor") -> "Tensor":
        """Reduce the logits of a window to the values that :meth:`decode` needs; by default all logits."""
        return logits

    @abstractmethod
    def decode(self, record: Record, features: Sequence[Feature], digests: "Sequence[Tensor]") -> dict[str, Any]:
        """Convert the results of :meth:`digest` for the windows of a record into a prediction in JSON."""

    @abstractmethod
    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Compare predictions with the labels of the records; :attr:`metric` is one of the keys."""

    def support(self, records: Sequence[Record]) -> int:
        """Return the number of answers that :attr:`metric` compares: texts, words, entities; by default of records.

        With few answers, validation cannot select the best weights reliably.
        """
        return len(records)

    def baseline(self, records: Sequence[Record]) -> dict[str, Any] | None:
        """Return the metrics of the best constant answer (the majority class), or None, the default.

        An adapter with no better metrics has learnt nothing useful. Another answer that takes no training needs
        :attr:`baseline_answer`.
        """
        return None

    @abstractmethod
    def render(self, prediction: Mapping[str, Any]) -> str:
        """Return a prediction as readable text."""


class ColumnInspector(Task):
    """A task that recognises columns by their values, and explains data that it cannot read."""

    @classmethod
    def locate(cls, sentences: Sequence[Sequence[Sequence[str]]]) -> dict[str, int]:
        """Return field -> column, counted from 0, of sentences with columns without names.

        ``sentences`` are lists of columns of words. Fields that the values do not show are omitted; :attr:`columns`
        decides on them.
        """
        return {}

    @classmethod
    def explain(cls, row: Mapping[str, Any]) -> str:
        """Return an explanation of a row that lacks a field, and the way out; empty if there is none."""
        return ""


class Writer(Task):
    """A task with answers generated by the backbone's language model.

    Training and validation use the logits of reference answers; :meth:`decode` returns their probability.
    """

    @property
    @abstractmethod
    def written(self) -> int:
        """The number of records of an evaluation, from the first, with generated and compared answers."""

    @abstractmethod
    def search(self) -> dict[str, Any]:
        """Return the options of the search: ``max_new_tokens``, ``num_beams`` and the like."""

    @abstractmethod
    def prompt(self, record: Record, reading: Reading) -> Feature:
        """Return the prompt, or the input of an encoder, in at most ``reading.max_length`` tokens."""

    @abstractmethod
    def answer(self, record: Record, text: str) -> dict[str, Any]:
        """Convert a generated text into a prediction in JSON."""

    @abstractmethod
    def compare(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return metrics of generated answers against the references."""
