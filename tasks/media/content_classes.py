"""Classification of a file: one label for an image or a sound."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import (
    Cleaned,
    Feature,
    FitExamples,
    Head,
    Labels,
    Outcome,
    Passage,
    Reading,
    Record,
    Task,
)
from adaptdock.plugins.toolkit.heads import LayeredOptions, Pooling, SequenceHead, VectorLength
from adaptdock.plugins.toolkit.linear_fit import fit_classes
from adaptdock.plugins.toolkit.sources import is_embedded, shown
from adaptdock.plugins.toolkit.stored import in_sequence, stored
from adaptdock.tasks.common.outcomes import label_outcome
from adaptdock.tasks.common.sequences import RECIPES, mean
from adaptdock.tasks.labels.class_labels import check_missing, check_number_of_classes, class_name, label_notes
from adaptdock.tasks.labels.class_metrics import calibration_error, score_classes
from adaptdock.tasks.labels.label_survey import LabelSurvey

NAMED = 20
"""Most classes that a description, an error or a prediction lists."""
LARGEST_PROBE = 4096
"""Most characters of a file that becomes a golden probe, which is part of the card."""

LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "1")
"""Names of the column with the class, most usual first; by number it is the second one."""


class ContentClassesOptions(LayeredOptions):
    """Options of tasks that give a file a label."""

    labels: Labels = ()
    """Classes; learnt from the training data unless given."""
    pooling: Pooling = "mean"
    """Input of the head: the mean, first or last hidden state; concat: last, maximum and mean. The first of an image
    model is usually its class token."""
    vector_length: VectorLength = Field("plain")
    """Length of the vector that the head reads: plain, as the backbone gives it; unit, all the same."""


class ContentClasses(Task):
    """Gives the content of a file one of several labels. Subclasses name the field, its column names and its files."""

    Options = ContentClassesOptions
    options: ContentClassesOptions
    field: ClassVar[str]
    """The field with the file."""
    class_field = "label"
    layout = "csv"
    metric = "accuracy"
    recipes = RECIPES

    @classmethod
    @abstractmethod
    def source(cls, value: Any, where: str) -> str:
        """Return the path or data URL of a value, whose content has been read; raise :class:`DataError` otherwise."""

    # ------------------------------------------------------------------------------------- data

    def labels(self, record: Record) -> list[str]:
        """Return the class."""
        return [class_name(record.get("label"), str(record.get("where", "a record")), self.options.labels)]

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Read every file once, and check the labels; note values that suggest a wrong column."""
        raw = in_sequence(records)
        check_missing(raw, split)
        cleaned = stored(self._checked(record, split) for record in raw)
        counts = _counts(cleaned)
        notes = label_notes(LabelSurvey.of(raw).counts, counts, split)
        if split == "train" and not self.options.labels:
            notes += check_number_of_classes(counts)
        return Cleaned(cleaned, notes)

    def _checked(self, record: Record, split: str) -> Record:
        where = str(record.get("where", split))
        label = class_name(record.get("label"), where, self.options.labels)
        return {**record, self.field: self.source(record.get(self.field), where), "label": label}

    def fit(self, records: Sequence[Record]) -> Self:
        """Learn the classes."""
        labels = self.options.labels or tuple(sorted(_counts(records)))
        if len(labels) < 2:
            raise DataError(
                f"the training data has one class only ({', '.join(labels) or 'none'}): nothing to distinguish"
            )
        fitted = type(self)(self.options.model_copy(update={"labels": labels}))
        fitted.check(records, "train")
        return fitted

    def check(self, records: Sequence[Record], split: str) -> None:
        """Refuse a class that training has not seen."""
        for record in records:
            if record["label"] not in self.options.labels:
                raise DataError(
                    f"{record.get('where', split)}: the label {record['label']!r} occurs in {split}, but neither in "
                    f"the training data nor in the options: {', '.join(self.options.labels[:NAMED])}"
                )

    def unknown(self, records: Sequence[Record]) -> Counter[str]:
        """Count the labels that training has not seen; :meth:`score` counts them as missed."""
        counts = _counts(records)
        return Counter({name: count for name, count in counts.items() if name not in self.options.labels})

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count files and classes; of more than 20 classes, show the largest and the smallest."""
        classes = _counts(records).most_common()
        by_label = dict(classes if len(classes) <= NAMED else [classes[0], classes[-1]])
        return {self.modality: len(records), "labels": len(classes), "by label": by_label}

    def class_weights(self, records: Sequence[Record]) -> list[float]:
        """Return weights that give every class the same sum."""
        counts, classes = _counts(records), self.options.labels
        return [len(records) / (len(classes) * max(1, counts[name])) for name in classes]

    def probe(self, record: Record) -> dict[str, str] | None:
        """Return the file itself, if it is small and embedded in the data; a path would not last."""
        source = str(record.get(self.field))
        return {self.field: source} if is_embedded(source) and len(source) <= LARGEST_PROBE else None

    # ------------------------------------------------------------------------------------ model

    def head(self) -> Head:
        """Return a linear layer from the pooled hidden states to the classes."""
        options = self.options
        return SequenceHead(
            len(options.labels), options.pooling, options.hidden_layers, 0, options.vector_length, options.norms
        )

    def read(self, item: Any) -> Record:
        """Read the path or data URL of a file, an object in memory, or an object with the field."""
        if isinstance(item, Mapping) and (names := [name for name in self.columns[self.field] if name in item]):
            item = item[names[0]]
        return {self.field: self.source(item, "an input")}

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Return the windows of the file, each with the record's label; a class that is not known does not count."""
        assert reading.processor is not None  # the engine has compared the modalities
        source = record[self.field]
        masks = reading.processor.windows(source)
        features = [Feature({"attention_mask": mask}, content=(source, n)) for n, mask in enumerate(masks)]
        if labelled:
            classes = self.options.labels
            for feature in features:
                feature.labels = classes.index(record["label"]) if record["label"] in classes else -100
        return features

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the cross entropy of logits (R, classes)."""
        return functional.cross_entropy(logits[..., : len(self.options.labels)], labels, weights)

    def fit_head(self, examples: FitExamples, strength: float | None) -> dict[str, Tensor] | None:
        """Return a logistic regression."""
        return fit_classes(examples, len(self.options.labels), strength)

    def decode(self, record: Record, features: Sequence[Any], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the label with its score, and the scores of the most probable classes."""
        scores = mean(digests)[: len(self.options.labels)].softmax(-1)
        order = scores.argsort(descending=True)[:NAMED].tolist()
        by_label = {self.options.labels[number]: round(scores[number].item(), 4) for number in order}
        best = next(iter(by_label))
        return {self.field: shown(record[self.field]), "label": best, "score": by_label[best], "scores": by_label}

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return accuracy, macro F1 and MCC, the calibration error, and the figures of each class, in percent."""
        gold, predicted = ([row["label"] for row in rows] for rows in (records, predictions))
        metrics = score_classes([*self.options.labels, *sorted(self.unknown(records))], gold, predicted)
        metrics["ece"] = calibration_error(gold, predictions)
        return {**metrics, "by_class": metrics.pop("by_class")}  # the long table comes last

    def sums(self, record: Record, prediction: Mapping[str, Any]) -> tuple[float, ...]:
        """Return whether the label is right, and 1."""
        return float(record["label"] == prediction["label"]), 1.0

    def of_sums(self, sums: Sequence[float]) -> float:
        """Return the accuracy in percent."""
        return 100 * sums[0] / sums[1]

    def baseline(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return the metrics of the most frequent class for every file."""
        best = _counts(records).most_common(1)[0][0]
        return self.score(records, [{"label": best, "score": 1.0, "scores": {best: 1.0}}] * len(records))

    def outcome(self, record: Record, prediction: Mapping[str, Any]) -> Outcome:
        """Compare the label."""
        outcome = label_outcome({"label": record["label"]}, prediction)
        passages = (Passage(self.field, shown(record[self.field])), *outcome.passages)
        return replace(outcome, passages=passages)

    def shown(self, record: Record) -> str:
        """Return the file behind its label."""
        return f"[{record['label']}] {shown(record[self.field])}"

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Write the label before the file: ``[7 0.93] seven.png``."""
        return f"[{prediction['label']} {prediction['score']:.2f}] {prediction[self.field]}"


def _counts(records: Sequence[Record]) -> Counter[str]:
    return Counter(record["label"] for record in records)
