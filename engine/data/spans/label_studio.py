"""Label Studio: tasks with the results of their annotators (JSON).

Offsets of a result count UTF-16 units, as its page does; each result states its text, which tells.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from adaptdock.engine.data.spans.findings import Findings
from adaptdock.engine.data.spans.tool import TEXT, RowTool, identifier_of, label_name, whole_number
from adaptdock.errors import DataError
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan, Relation

RESULTS = ("annotations", "completions")
"""Where a task has its annotations; the second is that of releases before 1.0."""
WHOLE = {"choices": "choices", "taxonomy": "taxonomy", "rating": "rating", "number": "number"}
"""Types of results that label the whole text, and where their value has the label."""


class LabelStudio(RowTool):
    """Label Studio's JSON; of several annotators the annotation that most of them share is read."""

    name = "label-studio"
    title = "Label Studio's JSON"

    def __init__(self, preferred: Collection[str] = ()) -> None:
        super().__init__(preferred)
        self._predicted: list[AnnotatedText] = []
        """The tasks with predictions of a model, annotated by these predictions."""

    def recognises(self, row: Any) -> bool:
        """Tell a task: an object with data, and a list of annotations."""
        return (
            isinstance(row, Mapping)
            and isinstance(row.get("data"), Mapping)
            and any(isinstance(row.get(name), list) for name in (*RESULTS, "predictions"))
        )

    def read(self, row: Any, place: str, findings: Findings) -> Iterator[AnnotatedText]:
        """Yield the text of a task; one that nobody has annotated has neither spans nor labels."""
        predictions = [part for part in row.get("predictions") or () if isinstance(part, Mapping)]
        if predictions:
            self._predicted.append(self._annotated(row, predictions[-1:], place, Findings()))
        annotations = [part for name in RESULTS for part in row.get(name) or () if isinstance(part, Mapping)]
        finished = [part for part in annotations if not part.get("was_cancelled") and not part.get("skipped")]
        if len(finished) < len(annotations):
            findings.add("annotations were cancelled or skipped and are left out", place)
        yield self._annotated(row, finished, place, findings)

    def finish(self, texts: list[AnnotatedText], findings: Findings) -> list[AnnotatedText]:
        """Return the texts; if a file has no annotation at all, predictions of a model annotate its texts."""
        if not self._predicted or any(text.spans is not None or text.labels is not None for text in texts):
            return texts
        for text in self._predicted:
            findings.add("texts have predictions of a model and nobody has annotated any; they are read", text.place)
        predicted = {text.place: text for text in self._predicted}
        return [predicted.get(text.place, text) for text in texts]

    def _annotated(
        self, row: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], place: str, findings: Findings
    ) -> AnnotatedText:
        """Return the text of a task, annotated by the majority of the annotations."""
        data = row.get("data")
        if not isinstance(data, Mapping):
            raise DataError(f"{place}: read as {self.title}, but the task has no data")
        results = _agreed(annotations, place, findings)
        text = self._text(data, results or [], place)
        fields = {name: value for name, value in data.items() if value != text}
        identifier = identifier_of(row)
        if results is None:
            return AnnotatedText(text, place, fields=fields, identifier=identifier)
        numbered = _spans(results, place, findings)
        spans = tuple(span for _, span in numbered)
        numbers = {name: number for number, (name, _) in enumerate(numbered)}
        labels = _labels(results, numbers, place, findings)
        relations = _relations(results, numbers, place, findings)
        return AnnotatedText(text, place, spans, labels, relations, fields=fields, identifier=identifier)

    def _text(self, data: Mapping[str, Any], results: Sequence[Mapping[str, Any]], place: str) -> str:
        """Return the text that the results are of: the field that has what they state, or the one of a usual name."""
        texts = {name: value for name, value in data.items() if isinstance(value, str)}
        stated = [
            str(value["text"])
            for result in results
            if (value := _value(result)).get("start") is not None and isinstance(value.get("text"), str)
        ]
        if stated:
            texts = {name: text for name, text in texts.items() if all(part in text for part in stated)} or texts
        names = (*self.preferred, *TEXT, *(str(result.get("to_name")) for result in results), *texts)
        name = next((name for name in names if name in texts), None)
        if name is None:
            raise DataError(
                f"{place}: the data of the task has no text: there is {', '.join(map(str, data)) or 'none'}"
            )
        return texts[name]


def _value(result: Mapping[str, Any]) -> Mapping[str, Any]:
    value = result.get("value")
    return value if isinstance(value, Mapping) else {}


def _agreed(annotations: Sequence[Mapping[str, Any]], place: str, findings: Findings) -> list[Mapping[str, Any]] | None:
    """Return the results of one annotation; None where there is none.

    That is the one marked as ground truth; else the one that most annotators share, of several the last.
    """
    if not annotations:
        return None
    results = [
        [result for result in annotation.get("result") or () if isinstance(result, Mapping)]
        for annotation in annotations
    ]
    truth = [number for number, annotation in enumerate(annotations) if annotation.get("ground_truth")]
    contents = [frozenset(map(_content, result)) for result in results]
    if len(set(contents)) > 1:
        rule = "the ground truth is read" if truth else "what most of them say is read, of several answers the last"
        findings.add(f"texts have annotators who differ; {rule}", place)
    if truth:
        return results[truth[-1]]
    counts = Counter(contents)
    return results[max(range(len(results)), key=lambda number: (counts[contents[number]], number))]


def _content(result: Mapping[str, Any]) -> str:
    """Return what a result says, without the ids that differ between annotators."""
    value = {key: part for key, part in _value(result).items() if key != "text"}
    return repr((result.get("type"), result.get("from_name"), sorted(value.items(), key=str)))


def _spans(results: Sequence[Mapping[str, Any]], place: str, findings: Findings) -> list[tuple[str, LabelledSpan]]:
    """Return the spans with the ids of their results."""
    spans = []
    for result in results:
        value = _value(result)
        names = next((value[key] for key in ("labels", "hypertextlabels") if isinstance(value.get(key), list)), None)
        if names is None:
            continue
        document = value.get("globalOffsets")
        offsets = document if isinstance(document, Mapping) else value
        if "start" not in offsets or "end" not in offsets:
            findings.add("results are not of characters of a text and are left out", place)
        elif not names:
            findings.add("spans have no label and are left out", place)
        else:
            if len(names) > 1:
                findings.add("spans have several labels, of which the first is read", place)
            start, end = (whole_number(offsets[name], place, name) for name in ("start", "end"))
            stated = value.get("text") if isinstance(value.get("text"), str) else None
            spans.append((str(result.get("id")), LabelledSpan(start, end, label_name(names[0], place), stated)))
    return spans


def _labels(
    results: Sequence[Mapping[str, Any]], regions: Mapping[str, int], place: str, findings: Findings
) -> tuple[str, ...]:
    """Return the labels of the whole text; a choice that is made for a span is not one."""
    labels: list[str] = []
    for result in results:
        key = WHOLE.get(str(result.get("type")))
        value = _value(result)
        if key is None or key not in value:
            continue
        if str(result.get("id")) in regions or "start" in value:
            findings.add("choices are made for a span, not for the text, and are left out", place)
        else:
            labels += names_of(value[key])
    return tuple(dict.fromkeys(labels))


def names_of(value: Any) -> list[str]:
    """Return the names of choices; a path through a taxonomy is written with slashes."""
    parts = value if isinstance(value, list) else [value]
    return ["/".join(map(str, part)) if isinstance(part, list) else str(part) for part in parts]


def _relations(
    results: Sequence[Mapping[str, Any]], numbers: Mapping[str, int], place: str, findings: Findings
) -> tuple[Relation, ...]:
    relations = []
    for result in results:
        if result.get("type") != "relation":
            continue
        ends = [numbers.get(str(result.get(name))) for name in ("from_id", "to_id")]
        if result.get("direction") == "left":
            ends.reverse()
        if ends[0] is None or ends[1] is None:
            findings.add("relations name a span that is not there and are left out", place)
        else:
            relations.append(Relation(ends[0], ends[1], "/".join(map(str, result.get("labels") or ()))))
    return tuple(relations)
