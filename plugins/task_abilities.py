"""Optional abilities of tasks, one protocol each, which the engine finds by ``isinstance``.

A task has an ability if it has its function; it does not inherit or register anything.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, runtime_checkable

from adaptdock.plugins.annotations import AnnotatedText
from adaptdock.plugins.outcomes import Decision, Outcome, Passage
from adaptdock.plugins.tasks import Feature, Record, Task

if TYPE_CHECKING:
    from torch import Tensor

DOCUMENT = "document"
"""The field of a raw record that names the document of which its text is a part."""


@runtime_checkable
class Calibrated(Protocol):
    """A task that learns from the validation records after the best weights are known (a temperature, a threshold)."""

    def settle(self, records: Sequence[Record], digests: "Sequence[Sequence[Tensor]]") -> Self:
        """Return this task with the learnt options; ``digests`` are those of the records' windows."""


@runtime_checkable
class PseudoLabelling(Protocol):
    """A task whose predictions can become labels, for self-training on texts without labels."""

    def pseudo(
        self, record: Record, features: Sequence[Feature], digests: "Sequence[Tensor]"
    ) -> tuple[Record, float] | None:
        """Return a record of :meth:`Task.read` with predicted labels, and their probability, 0 to 1.

        None if the model predicts no labels.
        """


@runtime_checkable
class Weighted(Protocol):
    """A task with classes, which can be weighted in the loss."""

    def class_weights(self, records: Sequence[Record]) -> list[float] | None:
        """Return a weight for each class that balances the classes; None if the options exclude weights."""


@runtime_checkable
class Grouped(Protocol):
    """A task with records that must go into the same split, because they have a text in common."""

    @classmethod
    def group(cls, record: Record) -> Hashable:
        """Return the key of a raw record's group, such as the common text; None for a record without a group."""


@runtime_checkable
class WindowSampling(Protocol):
    """A task that learns from some of the windows of a long text, not from all."""

    def sampled_windows(self, windows: Sequence[Feature]) -> list[Feature]:
        """Return the windows of one record to learn from, in their order."""


@runtime_checkable
class Annotatable(Protocol):
    """A task that learns from annotated texts, as annotation tools export them."""

    @classmethod
    def annotated(cls, text: AnnotatedText) -> Record | None:
        """Return the raw record of a text; None where its annotation says nothing for this task."""


@runtime_checkable
class Annotating(Protocol):
    """A task with predictions that annotate a text, so that annotation tools can show and correct them."""

    def annotation(self, prediction: Mapping[str, Any]) -> AnnotatedText:
        """Return the text of a prediction with its labels or spans, and its words; the place is empty.

        Words with a tag each have it as their label, and their token as ``stated``.
        """


AnswerKind = Literal["label", "labels", "spans", "tags"]
"""A label of the text, any number of them, labelled spans, or a tag for each word."""


@runtime_checkable
class Labelling(Protocol):
    """A task whose answers a person can give or correct by choosing labels, and that knows how sure it is."""

    @property
    def answer_kind(self) -> AnswerKind:
        """The form of an answer."""

    @property
    def label_names(self) -> Sequence[str]:
        """The labels to choose from."""

    def margin(self, record: Record, features: Sequence[Feature], digests: "Sequence[Tensor]") -> float:
        """Return how sure the answer is, 0 to 1: its probability minus that of the next one; of several the least."""


@runtime_checkable
class UnknownLabels(Protocol):
    """A task whose metrics count labels that it does not know as wrong, so that it can be measured on any data."""

    def unknown(self, records: Sequence[Record]) -> Mapping[str, int]:
        """Return how often labels that the task does not know occur in cleaned records; empty if it knows all."""


@runtime_checkable
class ClassLabelled(Protocol):
    """A task with classes, each of which a table may hold as a column of 0 and 1, and a folder as a file or folder."""

    class_field: ClassVar[str]
    """The field of the class; its value is the name of the column, file or folder, or a list of such names."""


@runtime_checkable
class Shown(Protocol):
    """A task that can show a person a cleaned record with its labels, on one line."""

    def shown(self, record: Record) -> str:
        """Return the record as text, like a prediction of :meth:`Task.render`."""


@runtime_checkable
class LinearHead(Protocol):
    """A head whose logits are a linear map of vectors that depend on none of its own weights."""

    def vectors(self, hidden: "Tensor", mask: "Tensor") -> "Tensor | None":
        """Return the vectors (R, W) or (R, T, W) that the map reads, from hidden states (R, T, W) and mask (R, T).

        None where trained layers precede the map, so that its weights alone cannot be fitted.
        """


@runtime_checkable
class CandidateHead(Protocol):
    """A head that scores candidates, each made of several hidden states, and that can be fitted on some of them."""

    def candidates(self, hidden: Any, labels: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
        """Return the vectors (N, V) of some candidates of a batch, their labels (N, classes), and their rows (N).

        ``hidden`` is the usual input of the head, ``labels`` are those of the loss.
        """


@dataclass(frozen=True)
class FitExamples:
    """What a head is fitted on: ``vectors`` (N, W), float32, and ``labels`` (N) or (N, classes), as the loss has them.

    Vectors with the same number in ``groups`` (words of a sentence, windows of a text) stay in one fold. ``weights``
    are those of :meth:`Weighted.class_weights`, if the loss has any.
    """

    vectors: "Tensor"
    labels: "Tensor"
    groups: Sequence[int]
    weights: "Tensor | None" = None
    seed: int = 0


@runtime_checkable
class FittedHead(Protocol):
    """A task whose head can be fitted on the vectors of a frozen backbone, without gradient steps.

    The head is a :class:`LinearHead` or a :class:`CandidateHead`.
    """

    def fit_head(self, examples: FitExamples, strength: float | None) -> "Mapping[str, Tensor] | None":
        """Return the head's tensors by name; None where the labels allow no fit.

        ``strength`` is the inverse of the regularisation (C) for vectors of length 1; None takes the one that
        cross-validation finds best.
        """


@runtime_checkable
class LabelChecked(Protocol):
    """A task with one class for each text or word, whose labels can be checked one by one for errors."""

    @property
    def class_names(self) -> Sequence[str]:
        """The classes in the order of the head's output; empty if a text may have several."""

    def labelled_part(self, record: Record, feature: Feature, position: int) -> str:
        """Return the part of the text that the label at a position of a window belongs to: the text, or a word."""


@runtime_checkable
class Scoped(Protocol):
    """A task that recognises inputs out of scope, by its scores or by the distance to the training data."""

    def separation(self, records: Sequence[Record], digests: "Sequence[Sequence[Tensor]]") -> float | None:
        """Return how well the records out of scope are separated from the others, or None without both kinds."""

    def by_distance(self, vectors: "Tensor", labels: "Tensor") -> "tuple[Self, Mapping[str, Tensor]]":
        """Return this task with a head that measures distances, and the additional tensors of that head.

        ``vectors`` (N, W) are those that the head reads of the training data, with their classes (N).
        """


@runtime_checkable
class Probed(Protocol):
    """A task whose inputs differ from its raw records, so that it makes the inputs of golden probes itself."""

    def probe(self, record: Record) -> Any:
        """Return an input for :meth:`Task.read`, made from a raw record; None if the record yields no input."""


@runtime_checkable
class Reported(Protocol):
    """A task that says how a prediction compares with its record, for the report of a run."""

    def outcome(self, record: Record, prediction: Mapping[str, Any]) -> Outcome:
        """Compare a prediction of :meth:`Task.decode` or :meth:`Writer.answer` with its labelled record."""


@runtime_checkable
class Summable(Protocol):
    """A task whose metric depends only on sums over records: resampling is then fast, and exact."""

    def sums(self, record: Record, prediction: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the numbers of a record that are summed, such as (right, all)."""

    def of_sums(self, sums: Sequence[float]) -> float:
        """Return the metric from the sums over at least one record, without rounding."""


@runtime_checkable
class ClassicallyAnswered(Protocol):
    """A task that simple methods can answer without a backbone; a run says where they do better than its adapter."""

    def classic_answers(
        self, train: Sequence[Record], records: Sequence[Record]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Return predictions of the records, as :meth:`Task.score` reads them, by the name of each method.

        The methods learn from the cleaned records ``train``. The name is the subject of a sentence: "logistic
        regression on TF-IDF of the words". Empty where none applies.
        """


@runtime_checkable
class Occludable(Protocol):
    """A task whose answers can be explained by leaving out words of the text (occlusion)."""

    keeps_words: bool
    """Whether a word can be replaced only, not removed, because each word has an answer."""

    def explained_text(self, record: Record) -> str:
        """Return the text whose words are left out."""

    def word_spans(self, record: Record) -> list[tuple[int, int]]:
        """Return the spans of the words of the explained text, in characters."""

    def occluded(self, record: Record, word: int, filler: str) -> Record:
        """Return a record of :meth:`Task.read` with a word replaced by the filler; an empty filler removes it."""

    def decisions(self, record: Record, features: Sequence[Feature], digests: "Sequence[Tensor]") -> list[Decision]:
        """Return the answers for a record, from the digests of its windows."""

    def log_probability(
        self, record: Record, features: Sequence[Feature], digests: "Sequence[Tensor]", decision: Decision
    ) -> float:
        """Return the log-probability of an answer, for the record itself or an occluded one."""


def class_weights(task: Task, records: Sequence[Record]) -> list[float] | None:
    """Return the weights of a task's classes; None for a task without weights."""
    return task.class_weights(records) if isinstance(task, Weighted) else None


def group(task: Task | type[Task], record: Record) -> Hashable:
    """Return the group of a raw record: the one of its task, else its document; None for a record by itself."""
    return task.group(record) if isinstance(task, Grouped) else record.get(DOCUMENT)


def outcome(task: Task, record: Record, prediction: Mapping[str, Any]) -> Outcome:
    """Return how a prediction compares with its record; without the ability, by the metric of this record alone.

    The error is then the distance of the metric from 100, or the metric itself if a lower value is better.
    """
    if isinstance(task, Reported):
        return task.outcome(record, prediction)
    kind = type(task)
    value = float(task.score([record], [prediction])[kind.metric])
    inputs = [Passage(name, str(record[name])) for name in kind.asks if name in record]
    labels = {name: record[name] for name in kind.columns if name in record and name not in kind.asks}
    expected = task.shown(record) if isinstance(task, Shown) else json.dumps(labels, ensure_ascii=False, default=str)
    passages = (*inputs, Passage("expected", expected), Passage("predicted", task.render(prediction)))
    return Outcome(value if kind.lower_is_better else max(0.0, 100 - value), passages)
