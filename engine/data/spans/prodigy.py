"""Prodigy: spans, choices, categories and yes-or-no answers, as ``prodigy db-out`` writes them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from adaptdock.engine.data.spans.findings import Findings
from adaptdock.engine.data.spans.marked_text import read_spans
from adaptdock.engine.data.spans.tool import RowTool, identifier_of, text_column, unprinted, whole_number
from adaptdock.errors import DataError
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan, Relation

ANSWERS = ("accept", "reject", "ignore")
HASHES = ("_input_hash", "_task_hash")
CHOSEN = 0.5
"""From this value on a category of ``cats`` holds."""
DENIED = "not "
"""What is put before the only label of a file for the texts that were rejected."""


class Prodigy(RowTool):
    """Prodigy: accepted answers are read; a rejected or ignored text is left out, unless it says "not this label"."""

    name = "prodigy"
    title = "Prodigy's export"

    def __init__(self, preferred: Any = ()) -> None:
        super().__init__(preferred)
        self.rejected: list[tuple[AnnotatedText, str]] = []
        """Texts of which an annotator has said that they do not have this label."""

    def recognises(self, row: Any) -> bool:
        """Tell a row with an answer, or with Prodigy's hashes."""
        if not isinstance(row, Mapping) or text_column(row) is None:
            return False
        return row.get("answer") in ANSWERS or any(name in row for name in HASHES)

    def read(self, row: Any, place: str, findings: Findings) -> Iterator[AnnotatedText]:
        """Yield an accepted text, with its spans, its choices or its label."""
        text, answer = self.text_of(row, place), row.get("answer", "accept")
        identifier = identifier_of(row)
        if answer == "ignore":
            findings.add("texts were ignored by the annotator and are left out", place)
        elif answer == "reject":
            if isinstance(row.get("label"), str) and not row.get("spans"):
                denied = AnnotatedText(text, place, identifier=identifier)
                self.rejected.append((denied, row["label"]))
            else:
                findings.add("texts were rejected by the annotator and are left out", place)
        else:
            spans = None if row.get("spans") is None else read_spans(unprinted(row["spans"]), place, findings)
            relations = _relations(row, spans, place, findings)
            labels = _labels(row, place)
            if spans is None and labels is None and "answer" in row and row.get("tokens") is not None:
                spans = ()  # ner.manual leaves "spans" out where nothing was marked
            words = _words(row, place)
            yield AnnotatedText(text, place, spans, labels, relations, words, identifier=identifier)

    def finish(self, texts: list[AnnotatedText], findings: Findings) -> list[AnnotatedText]:
        """Add the texts that were rejected: where one label was asked for, they are the class "not LABEL"."""
        asked = {label for _, label in self.rejected} | {label for text in texts for label in text.labels or ()}
        if len(asked) != 1:
            for text, _ in self.rejected:
                findings.add("texts were rejected for one of several labels and are left out", text.place)
            return texts
        for text, label in self.rejected:
            findings.add(f"texts were rejected for the only label and are read as {DENIED + label!r}", text.place)
        return [*texts, *(replace(text, labels=(DENIED + label,)) for text, label in self.rejected)]


def _labels(row: Mapping[str, Any], place: str) -> tuple[str, ...] | None:
    """Return the labels of a text: choices, categories, or the label that was asked for and accepted."""
    if isinstance(row.get("accept"), list):
        return tuple(map(str, row["accept"]))
    if isinstance(row.get("cats"), Mapping):
        return chosen_categories(row["cats"], place)
    if isinstance(row.get("label"), str) and not row.get("spans"):
        return (row["label"],)
    return None


def chosen_categories(cats: Mapping[str, Any], place: str) -> tuple[str, ...]:
    """Return the categories that hold: those whose value is true, or at least one half."""
    for name, value in cats.items():
        if not isinstance(value, int | float):
            raise DataError(
                f"{place}: the value of the category {name!r} is a number or true or false; found {value!r}"
            )
    return tuple(name for name, value in cats.items() if value >= CHOSEN)


def _words(row: Mapping[str, Any], place: str) -> tuple[LabelledSpan, ...]:
    tokens = row.get("tokens") or []
    if not all(isinstance(token, Mapping) and {"text", "start", "end"} <= token.keys() for token in tokens):
        return ()
    return tuple(
        LabelledSpan(
            whole_number(token["start"], place, "start"), whole_number(token["end"], place, "end"), stated=token["text"]
        )
        for token in tokens
    )


def _relations(
    row: Mapping[str, Any], spans: tuple[LabelledSpan, ...] | None, place: str, findings: Findings
) -> tuple[Relation, ...]:
    """Return the relations between spans; one between words that are no spans has nothing to be linked to."""
    numbers: dict[Any, int] = {(span.start, span.end): number for number, span in enumerate(spans or ())}
    relations = []
    for relation in row.get("relations") or []:
        ends = [relation.get(name) or {} for name in ("head_span", "child_span")]
        head, tail = (numbers.get((end.get("start"), end.get("end"))) for end in ends)
        if head is None or tail is None:
            findings.add("relations name a span that is not there and are left out", place)
        else:
            relations.append(Relation(head, tail, str(relation.get("label", ""))))
    return tuple(relations)
