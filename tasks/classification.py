"""Classification of a text: one label, or several (also under the name topic).

One label is the softmax over the classes; several labels are a sigmoid each (binary relevance). Scores can be
calibrated on the validation data: logits are divided by the temperature with the least negative log-likelihood (Guo et
al. 2017, arXiv:1706.04599).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from sys import intern
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import (
    AnnotatedText,
    AnswerKind,
    Cleaned,
    Decision,
    FitExamples,
    Head,
    Outcome,
    Record,
)
from adaptdock.plugins.toolkit.classic_answers import bag_of_words, fits_bag_of_words
from adaptdock.plugins.toolkit.heads import SequenceHead
from adaptdock.plugins.toolkit.linear_fit import fit_classes, fit_sets
from adaptdock.plugins.toolkit.nearest_class import FURTHEST, NearestClassHead, class_centres
from adaptdock.plugins.toolkit.stored import in_sequence, stored
from adaptdock.tasks.common.occlusion import joined_texts, without_word, words_of_texts
from adaptdock.tasks.common.outcomes import label_outcome, label_set_outcome
from adaptdock.tasks.common.sequences import TEXT, SequenceTask, mean
from adaptdock.tasks.labels.class_labels import (
    CHOICES,
    annotated_labels,
    check_number_of_classes,
    check_one_each,
    class_name,
    count_printed,
    divided,
    label_notes,
    only_name,
    with_label,
)
from adaptdock.tasks.labels.class_metrics import (
    OUT_OF_SCOPE,
    best_temperature,
    calibration_error,
    percent,
    score_classes,
    score_sets,
)
from adaptdock.tasks.labels.classification_options import ClassificationOptions
from adaptdock.tasks.labels.label_lists import check_lists
from adaptdock.tasks.labels.label_survey import LabelSurvey
from adaptdock.tasks.labels.out_of_scope import (
    OUT_OF_SCOPE_NAME,
    best_threshold,
    in_scope,
    is_out_of_scope,
    scope_metrics,
    scoped,
)
from adaptdock.tasks.labels.uncounted import labelled_records

IMBALANCE = 10
"""Ratio of the largest to the smallest class from which a note says that the classes are uneven."""
NAMED = 20
"""Most classes that a description, an error or a prediction lists."""
REJECT_BELOW = "reject_below"
NOT_COUNTED = -100
"""The target of a record that the loss does not count."""


class Classification(SequenceTask):
    """Gives a text one of several labels, or any number of them."""

    Options = ClassificationOptions
    options: ClassificationOptions
    columns = {
        "text": TEXT,
        "label": ("label", "labels", "category", "class", "intent", "sentiment", "topic", "target", "1"),
    }
    class_field = "label"
    metric = "accuracy"
    keeps_words = False
    sample = Path(__file__).parent / "samples" / "classification"

    # ------------------------------------------------------------------------------------- data

    @classmethod
    def annotated(cls, text: AnnotatedText) -> Record | None:
        """Return a text with the list of its labels; None where nobody has looked for labels of the whole text."""
        if text.labels is None:
            return None
        second = next((text.fields[name] for name in cls.columns.get("second", ()) if name in text.fields), None)
        if "second" in cls.columns and second is None:
            return None
        pair = {} if second is None else {"second": second}
        return {"text": text.text, **pair, CHOICES: list(text.labels)}

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Check texts and labels; note uneven classes, and values that suggest a wrong column."""
        labelled, survey, unlabelled = self._labelled(in_sequence(records), split)
        if not self.options.multi_label:
            if survey.lists or survey.missing:
                check_one_each(in_scope(labelled), split)
        elif split == "train" and not self.options.labels:
            unlabelled += check_lists(labelled, self.options.label_separator, split)
        cleaned = super().clean(labelled, split)
        cleaned.notes[:0] = unlabelled
        counts = self._class_counts(survey, cleaned.records)
        if split == "train" and counts and max(counts.values()) >= IMBALANCE * min(counts.values()):
            (most, largest), (least, smallest) = counts.most_common()[0], counts.most_common()[-1]
            cleaned.notes.append(
                f"the classes are uneven: {most!r} has {largest} records, {least!r} {smallest}. --class-weights "
                f"balanced weighs them in the loss; macro F1 measures the small classes"
            )
        if self.options.multi_label:
            cleaned.notes.extend(count_printed(labelled, split))
            return cleaned
        if survey.lists:
            cleaned.notes.append(f"{split}: labels are lists with one name each, and are read as that name")
        cleaned.notes.extend(label_notes(survey.counts, counts, split))
        if split == "train" and not self.options.labels:
            cleaned.notes.extend(check_number_of_classes(counts))
        return cleaned

    def _labelled(self, records: Sequence[Record], split: str) -> tuple[Sequence[Record], LabelSurvey, list[str]]:
        """Return raw records with a label or out of scope, the survey of their labels, and notes on the others."""
        survey, several = LabelSurvey.of(records), self.options.multi_label
        notes: list[str] = []
        if survey.annotated:
            records, notes = annotated_labels(records, split, several)
            survey = LabelSurvey.of(records)
        counted, uncounted = labelled_records(records, survey, split, self.options.labels)
        if counted is not records:
            survey = LabelSurvey.of(counted)
        labelled, scope = (counted, []) if several else scoped(counted, survey, split, self.options.out_of_scope)
        if labelled is not counted:
            survey = LabelSurvey.of(labelled)
        return labelled, survey, [*notes, *uncounted, *scope]

    def _checked(self, record: Record) -> Record:
        if not is_out_of_scope(record):
            return super()._checked(record)
        return {**record, **self._texts(record, str(record.get("where", "a record"))), "label": None}

    def label(self, value: Any, where: str) -> Any:
        """Return a name, or a sorted list of names for several labels; numbers and truth values become text."""
        if not self.options.multi_label:
            return intern(class_name(only_name(value), where, self.options.labels))
        parts = divided(value, self.options.label_separator, where)
        return sorted({class_name(part, where, self.options.labels) for part in parts if part != ""})

    def labels(self, record: Record) -> list[str]:
        """Return the class, or the classes; an empty list has none."""
        if record.get(CHOICES) == [] or is_out_of_scope(record, self.options.out_of_scope):
            return []
        return _listed(self._checked(with_label(record, self.options.multi_label))["label"])

    def annotation(self, prediction: Mapping[str, Any]) -> AnnotatedText:
        """Return the text with its labels; a rejected text has none."""
        labels = prediction["labels"] if self.options.multi_label else [prediction["label"]]
        fields = {"second": prediction["second"]} if "second" in prediction else {}
        return AnnotatedText(
            prediction["text"], "", labels=tuple(label for label in labels if label is not None), fields=fields
        )

    def shown(self, record: Record) -> str:
        """Return the text behind its label."""
        labels = ", ".join(_listed(record["label"])) or "no label"
        labels = OUT_OF_SCOPE_NAME if is_out_of_scope(record) else labels
        return f"[{labels}] {' / '.join(record[name] for name in ('text', 'second') if name in record)}"

    def fit(self, records: Sequence[Record]) -> Self:
        """Learn the classes."""
        labels = self.options.labels or tuple(sorted(self._counts(records)))
        if len(labels) < 2:
            raise DataError(
                f"the training data has one class only ({', '.join(labels) or 'none'}): nothing to distinguish"
            )
        length = self.options.vector_length or ("unit" if self.options.pooling == "mean" else "plain")
        fitted = type(self)(
            self.options.model_copy(update={"labels": labels, "vector_length": length, "nearest_class": {}})
        )
        fitted.check(records, "train")
        return fitted

    def check(self, records: Sequence[Record], split: str) -> None:
        """Refuse a class that training has not seen."""
        classes = set(self.options.labels)
        for record in records:
            unknown = next((name for name in _listed(record["label"]) if name not in classes), None)
            if unknown is not None:
                raise DataError(
                    f"{record.get('where', split)}: the label {unknown!r} occurs in {split}, but neither in the "
                    f"training data nor in the options: {', '.join(sorted(classes)[:NAMED])}"
                    f"{_nearest(unknown, classes)}"
                )

    def unknown(self, records: Sequence[Record]) -> Counter[str]:
        """Count the labels that training has not seen; :meth:`score` counts them as missed."""
        counts = self._counts(records)
        return Counter({name: count for name, count in counts.items() if name not in self.options.labels})

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count texts and classes; of more than 20 classes, show the largest and the smallest."""
        counts = self._counts(records)
        shown = counts.most_common()
        if len(shown) > NAMED:
            shown = [shown[0], shown[-1]]
        outside = sum(map(is_out_of_scope, records))
        described = {"texts": len(records), "labels": len(counts), "by label": dict(shown)}
        return described | ({OUT_OF_SCOPE_NAME: outside} if outside else {})

    def class_weights(self, records: Sequence[Record]) -> list[float] | None:
        """Return weights that give every class the same sum; with several labels, the same sum as its absence."""
        counts = self._counts(records)
        if self.options.multi_label:
            return [(len(records) - counts[name]) / max(1, counts[name]) for name in self.options.labels]
        total = sum(counts.values())
        return [total / (len(self.options.labels) * max(1, counts[name])) for name in self.options.labels]

    def _class_counts(self, survey: LabelSurvey, records: Sequence[Record]) -> Counter[str]:
        """Return the number of records of each class: by the raw labels where each is a name, else by the records."""
        if self.options.multi_label or survey.lists or survey.missing:
            return self._counts(records)
        counts: Counter[str] = Counter()
        for (_, label), count in survey.counts.items():
            counts[self.label(label, "a record")] += count
        return counts

    def _counts(self, records: Sequence[Record]) -> Counter[str]:
        return Counter(name for record in records for name in _listed(record["label"]))

    # ------------------------------------------------------------------------------------ model

    def head(self) -> Head:
        """Return a linear layer from the pooled hidden states to the classes."""
        options = self.options
        length = options.vector_length or "plain"  # files of releases without this option read vectors as they are
        kind = NearestClassHead if options.nearest_class else SequenceHead
        return kind(
            len(options.labels), options.pooling, options.hidden_layers, options.reads_prompt, length, options.norms
        )

    def target(self, record: Record) -> Any:
        """Return the number of the class, or one 0 or 1 per class for several labels.

        A class that training has not seen is not counted in the loss.
        """
        labels = self.options.labels
        if self.options.multi_label:
            return [int(name in record["label"]) for name in labels]
        return labels.index(record["label"]) if record["label"] in labels else NOT_COUNTED

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the cross entropy of logits (R, classes); the binary one for several labels."""
        logits = logits[..., : len(self.options.labels)]
        if self.options.multi_label:
            return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), pos_weight=weights)
        return functional.cross_entropy(logits, labels, weights)

    def fit_head(self, examples: FitExamples, strength: float | None) -> dict[str, Tensor] | None:
        """Return a logistic regression; of several labels one for each."""
        if self.options.multi_label:
            return fit_sets(examples, strength)
        return fit_classes(examples, len(self.options.labels), strength)

    def settle(self, records: Sequence[Record], digests: Sequence[Sequence[Tensor]]) -> Self:
        """Learn the temperature if ``calibrate`` is on, and ``reject_below`` from texts that are out of scope."""
        logits = torch.stack([self._class_logits(windows) for windows in digests])
        learnt: dict[str, Any] = {}
        if self.options.calibrate:
            targets = torch.tensor([self.target(record) for record in records])
            best = best_temperature(lambda temperature: float(self.loss(logits / temperature, targets, None)))
            learnt["temperature"] = round(best, 4)
        outside = [is_out_of_scope(record) for record in records]
        if self.options.nearest_class:
            similarities = [mean(windows)[-1].item() for windows in digests]
            learnt |= {"nearest_class": {REJECT_BELOW: best_threshold(similarities, outside, FURTHEST)}}
        elif any(outside) and not all(outside) and not self.options.reject_below:
            temperature = learnt.get("temperature", self.options.temperature)
            scores = (logits / temperature).softmax(-1).amax(-1).tolist()
            learnt[REJECT_BELOW] = best_threshold(scores, outside)
        return type(self)(self.options.model_copy(update=learnt)) if learnt else self

    def separation(self, records: Sequence[Record], digests: Sequence[Sequence[Tensor]]) -> float | None:
        """Return the area under the ROC curve of scores or similarities; None if a person has set ``reject_below``."""
        if self.options.multi_label or self.options.reject_below:
            return None
        predictions = [self.decode(record, [], windows) for record, windows in zip(records, digests, strict=True)]
        return scope_metrics(records, predictions).get("out_of_scope_auroc")

    def by_distance(self, vectors: Tensor, labels: Tensor) -> tuple[Self, dict[str, Tensor]]:
        """Return this task with the mean vectors of the classes, and those."""
        options = self.options.model_copy(update={"nearest_class": {REJECT_BELOW: FURTHEST}, REJECT_BELOW: 0.0})
        return type(self)(options), class_centres(vectors, labels, len(self.options.labels))

    def _class_logits(self, digests: Sequence[Tensor]) -> Tensor:
        """Return the mean logits of the classes, without the similarity of a :class:`NearestClassHead`."""
        return mean(digests)[: len(self.options.labels)]

    def decode(self, record: Record, features: Sequence[Any], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the label with its score, or the labels, and the scores of the most probable classes."""
        logits = self._class_logits(digests) / self.options.temperature
        scores = logits.sigmoid() if self.options.multi_label else logits.softmax(-1)
        order = scores.argsort(descending=True)[:NAMED].tolist()
        values: list[float] = scores.tolist()
        scores_by_label = {self.options.labels[number]: round(values[number], 4) for number in order}
        texts: dict[str, Any] = {name: record[name] for name in ("text", "second") if name in record}
        if self.options.multi_label:
            labels = sorted(self.options.labels[n] for n, score in enumerate(scores) if score >= self.options.threshold)
            return {**texts, "labels": labels, "scores": scores_by_label}
        best, score = self.options.labels[order[0]], values[order[0]]
        prediction: dict[str, Any] = {**texts, "label": best, "score": round(score, 4), "scores": scores_by_label}
        rejected = score < self.options.reject_below
        if self.options.nearest_class:
            similarity = mean(digests)[-1].item()
            prediction["similarity"] = round(similarity, 4)
            rejected = rejected or similarity < self.options.nearest_class[REJECT_BELOW]
        return prediction | {"label": None} if rejected else prediction

    def pseudo(self, record: Record, features: Sequence[Any], digests: Sequence[Tensor]) -> tuple[Record, float]:
        """Return the most probable class and its probability; for several labels, that of the least certain one."""
        logits = self._class_logits(digests) / self.options.temperature
        names = self.options.labels
        if not self.options.multi_label:
            probability, number = logits.softmax(-1).max(-1)
            return {**record, "label": names[int(number)]}, probability.item()
        scores = logits.sigmoid()
        label = sorted(name for name, score in zip(names, scores, strict=True) if score >= self.options.threshold)
        return {**record, "label": label}, torch.maximum(scores, 1 - scores).min().item()

    @property
    def answer_kind(self) -> AnswerKind:
        """One label, or any number of them."""
        return "labels" if self.options.multi_label else "label"

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes."""
        return self.options.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes; none for several labels."""
        return () if self.options.multi_label else self.options.labels

    def labelled_part(self, record: Record, feature: Any, position: int) -> str:
        """Return the text, or both texts."""
        return " / ".join(record[name] for name in ("text", "second") if name in record)

    def margin(self, record: Record, features: Sequence[Any], digests: Sequence[Tensor]) -> float:
        """Return the difference between the two greatest probabilities; for several labels, of yes and no."""
        logits = self._class_logits(digests) / self.options.temperature
        if self.options.multi_label:
            return (2 * logits.sigmoid() - 1).abs().min().item()
        first, second = logits.softmax(-1).topk(2).values.tolist()
        return float(first - second)

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return accuracy, macro F1 and MCC, and precision, recall and F1 by class, in percent (scikit-learn).

        Macro F1 is the mean over the classes that occur among labels or answers, as in scikit-learn.
        A rejected text counts as wrong unless it is out of scope. ``answered`` is the share of all other texts, and
        ``accuracy_of_answered`` is their accuracy. ``ece`` is the expected calibration error over 15 bins.
        :func:`scope_metrics` has more about texts out of scope. For several labels, an answer is right if the whole
        set is.
        """
        if self.options.multi_label:
            return score_sets(self._measured(records), records, predictions)
        gold, predicted = (
            [OUT_OF_SCOPE if row["label"] is None else row["label"] for row in rows] for rows in (records, predictions)
        )
        metrics = score_classes(self._measured(records), gold, predicted)
        metrics["ece"] = calibration_error(gold, predictions)
        metrics |= scope_metrics(records, predictions)
        if self.options.reject_below or self.options.nearest_class:
            answered = [(want, got) for want, got in zip(gold, predicted, strict=True) if got]
            right = sum(want == got for want, got in answered)
            metrics["answered"] = percent(len(answered) / len(gold))
            metrics["accuracy_of_answered"] = percent(right / len(answered)) if answered else 0.0
        return {**metrics, "by_class": metrics.pop("by_class")}  # the long table comes last

    def sums(self, record: Record, prediction: Mapping[str, Any]) -> tuple[float, ...]:
        """Return whether the label, or the whole set of labels, is right, and 1."""
        if self.options.multi_label:
            return float(set(record["label"]) == set(prediction["labels"])), 1.0
        return float(record["label"] == prediction["label"]), 1.0

    def of_sums(self, sums: Sequence[float]) -> float:
        """Return the accuracy in percent."""
        return 100 * sums[0] / sums[1]

    def outcome(self, record: Record, prediction: Mapping[str, Any]) -> Outcome:
        """Compare the label, or the set of labels."""
        if self.options.multi_label:
            return label_set_outcome(record, prediction, self.options.threshold)
        return label_outcome(record, prediction)

    def explained_text(self, record: Record) -> str:
        """Return the text, or both texts joined by a line break."""
        return joined_texts(record)

    def word_spans(self, record: Record) -> list[tuple[int, int]]:
        """Return the words of the text, or of both texts joined by a line break."""
        return words_of_texts(record)

    def occluded(self, record: Record, word: int, filler: str) -> Record:
        """Return the record without a word, or with a filler in its place."""
        return without_word(record, word, filler)

    def decisions(self, record: Record, features: Sequence[Any], digests: Sequence[Tensor]) -> list[Decision]:
        """Return the label, or the predicted labels; if no label reaches its limit, the most probable one."""
        prediction = self.decode(record, features, digests)
        labels = prediction["labels"] if self.options.multi_label else [prediction["label"]]
        names = [name for name in labels if name] or [next(iter(prediction["scores"]))]
        return [Decision(name, 0, len(joined_texts(record))) for name in names]

    def log_probability(
        self, record: Record, features: Sequence[Any], digests: Sequence[Tensor], decision: Decision
    ) -> float:
        """Return the log-probability of a label."""
        logits = self._class_logits(digests) / self.options.temperature
        scores = functional.logsigmoid(logits) if self.options.multi_label else logits.log_softmax(-1)
        return scores[self.options.labels.index(decision.label)].item()

    def _measured(self, records: Sequence[Record]) -> list[str]:
        """Return the classes of the metrics: those of the adapter, then others of the records."""
        return [*self.options.labels, *sorted(self.unknown(records))]

    def baseline(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return the metrics of the most frequent class, or set of classes, for every text."""
        sets = Counter(tuple(_listed(record["label"])) for record in in_scope(records) or records)
        labels = list(sets.most_common(1)[0][0])
        scores = dict.fromkeys(labels, 1.0)
        answer = {"labels": labels} if self.options.multi_label else {"label": labels[0], "score": 1.0}
        return self.score(records, [{**answer, "scores": scores}] * len(records))

    def classic_answers(self, train: Sequence[Record], records: Sequence[Record]) -> dict[str, list[dict[str, Any]]]:
        """Return the classes that a bag of the words gives; nothing for several labels."""
        if self.options.multi_label:
            return {}
        labelled = stored(record for record in train if record["label"] in self.options.labels)
        if not fits_bag_of_words(len(labelled), len(self.options.labels)):
            return {}
        texts, asked = ([joined_texts(record) for record in part] for part in (labelled, records))
        scores = bag_of_words(texts, [record["label"] for record in labelled], asked)
        if scores is None:
            return {}
        best = [(row, max(row, key=row.__getitem__)) for row in scores]
        ordered = [(label, row[label], dict(sorted(row.items(), key=lambda item: -item[1]))) for row, label in best]
        answers = [{"label": label, "score": score, "scores": by_label} for label, score, by_label in ordered]
        return {"logistic regression on TF-IDF of the words": answers}

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Write the label before the text: ``[card arrival 0.93] Where is my card?``."""
        if "labels" in prediction:
            shown = ", ".join(f"{name} {prediction['scores'][name]:.2f}" for name in prediction["labels"]) or "no label"
        else:
            shown = f"{prediction['label'] or 'out of scope'} {prediction['score']:.2f}"
        texts = " / ".join(prediction[name] for name in ("text", "second") if name in prediction)
        return f"[{shown}] {texts}"


# ------------------------------------------------------------------------------------------ helpers


def _nearest(name: str, labels: Iterable[str]) -> str:
    """Return a sentence with the label that differs in case or in a letter or two; empty if there is none."""
    plain = {label.casefold(): label for label in labels}
    near = get_close_matches(name.casefold(), plain, n=1, cutoff=0.8)
    return f". Is {plain[near[0]]!r} meant?" if near else ""


def _listed(label: Any) -> list[str]:
    if label is None:
        return []
    return label if isinstance(label, list) else [label]
