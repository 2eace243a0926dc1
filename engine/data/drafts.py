"""Drafts: proposed answers for texts without labels, as files that annotation tools and training read.

An answer is JSON: the name of a label, a list of names, spans ``[start, end, label]``, or a tag for each word
(:data:`AnswerKind`). A row of JSON lines has the answer as training data has it, the answers of the adapter and the
teacher beside it, and ``confirmed``, false until a person has accepted the row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptdock.engine.data.confirmation import CONFIRMED
from adaptdock.engine.data.prediction_files import encoded_texts
from adaptdock.engine.data.sources import Reader
from adaptdock.engine.data.spans.reading import Export
from adaptdock.errors import DataError
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan
from adaptdock.plugins.contracts import AnswerKind
from adaptdock.plugins.escapes import json_text

FORMS = ("jsonl", "doccano", "label-studio", "prodigy")
BY_ADAPTER, BY_TEACHER = "adapter", "teacher"
KIND = "kind"
"""The field of a row with the form of its answer."""
NESTED = ("data", "meta", "metadata")
"""The objects in which tools keep fields of a row that are not theirs."""


@dataclass(frozen=True)
class Draft:
    """A text with the answers of the adapter and of the teacher, None where one has none.

    ``text`` has the adapter's annotation, and ``place`` of it is where the text came from.
    """

    text: AnnotatedText
    margin: float
    adapter: Any
    teacher: Any = None
    taught: bool = False
    """Whether a teacher was asked; its answer is then the draft, even if it has none."""

    @property
    def answer(self) -> Any:
        """The answer to confirm or correct."""
        return self.teacher if self.taught else self.adapter


@dataclass(frozen=True)
class ConfirmedText:
    """A text with its confirmed answer, and the drafts that were made of it, by their names."""

    place: str
    answer: Any
    drafts: Mapping[str, Any]


def answer_of(text: AnnotatedText, kind: AnswerKind) -> Any:
    """Return the answer that an annotation is; None for a text without a label where it needs one."""
    if kind == "label":
        return text.labels[0] if text.labels else None
    if kind == "labels":
        return None if text.labels is None else sorted(text.labels)
    if kind == "tags":
        return [word.label for word in text.words]
    return None if text.spans is None else [[span.start, span.end, span.label] for span in text.spans]


def with_answer(text: AnnotatedText, kind: AnswerKind, answer: Any) -> AnnotatedText:
    """Return a text with another answer."""
    if kind == "label":
        return replace(text, labels=() if answer is None else (answer,))
    if kind == "labels":
        return replace(text, labels=tuple(answer or ()))
    if kind == "tags":
        words = tuple(
            replace(word, label=tag) for word, tag in zip(text.words, answer or [""] * len(text.words), strict=True)
        )
        return replace(text, words=words, spans=words if answer else ())
    return replace(text, spans=tuple(LabelledSpan(*span) for span in answer or ()))


def row_of(draft: Draft, kind: AnswerKind) -> dict[str, Any]:
    """Return the row of a draft in JSON lines."""
    text = draft.text
    answer: dict[str, Any] = {"label": draft.answer}
    if kind == "tags":
        answer = {"tokens": [word.stated for word in text.words], "tags": draft.answer}
    return {**text.fields, "text": text.text, **answer, **_beside(draft), KIND: kind, CONFIRMED: False}


def encoded_drafts(drafts: Sequence[Draft], form: str, kind: AnswerKind, labels: Sequence[str]) -> bytes:
    """Return the content of a file; forms of tools have the answers of adapter and teacher as fields of the text."""
    if form == "jsonl":
        return "".join(f"{json_text(row_of(draft, kind))}\n" for draft in drafts).encode()
    texts = [
        replace(with_answer(draft.text, kind, draft.answer), fields={**draft.text.fields, **_beside(draft)})
        for draft in drafts
    ]
    return encoded_texts(texts, form, labels)


def _beside(draft: Draft) -> dict[str, Any]:
    """Return the answers by their authors, the margin, and the place of the text."""
    taught = {BY_TEACHER: draft.teacher} if draft.taught else {}
    return {BY_ADAPTER: draft.adapter, **taught, "margin": round(draft.margin, 4), "place": draft.text.place}


# ----------------------------------------------------------------------------------------- confirmed


def read_confirmed(reader: Reader, path: Path, kind: AnswerKind) -> tuple[list[ConfirmedText], int]:
    """Return the confirmed texts of a file of drafts, or of its export from an annotation tool, and the others' number.

    Raises :class:`DataError` where no text is confirmed, and where no row has an answer of the adapter beside it.
    """
    if not path.is_file():
        raise DataError(f"{path}: the file does not exist")
    layout = "json" if reader.layout(path, "jsonl") == "json" else "jsonl"
    rows = list(Export(path, layout, reader.texts, list).rows())
    drafts = {text: answers for row, place in rows for text, answers in [_drafts(row, place)]}
    annotated = reader.annotated(path)
    if annotated is None:
        texts = [(row["text"], place, _plain_answer(row, kind)) for row, place in rows]
    else:
        read = annotated.export.read(annotated.tool, lambda line: None)
        texts = [(text.text, text.place, answer_of(text, kind)) for text in read]
    open_places = {place for row, place in rows if row.get(CONFIRMED) is False}
    confirmed = [
        ConfirmedText(place, answer, drafts.get(text, {}))
        for text, place, answer in texts
        if place not in open_places and answer is not None
    ]
    if not confirmed:
        raise DataError(f"{path}: none of its {len(rows)} texts is confirmed: confirm them in the page or in a tool")
    if not any(BY_ADAPTER in text.drafts for text in confirmed):
        raise DataError(
            f"{path}: no text has the answer of an adapter beside it, so there is nothing to compare: "
            f"adapt label writes such files, and tools keep the answers as fields of the text"
        )
    return confirmed, len(rows) - len(confirmed)


def _drafts(row: Any, place: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: a row of drafts is an object with a text; found {row!r:.60}")
    levels = [row, *(row[name] for name in NESTED if isinstance(row.get(name), Mapping))]
    fields: dict[str, Any] = {name: value for level in reversed(levels) for name, value in level.items()}
    if not isinstance(fields.get("text"), str):
        raise DataError(f"{place}: a row of drafts has a text; there is {', '.join(map(str, row)) or 'none'}")
    return fields["text"], {name: fields[name] for name in (BY_ADAPTER, BY_TEACHER) if name in fields}


def _plain_answer(row: Mapping[str, Any], kind: AnswerKind) -> Any:
    return row.get(answer_field(kind))


def answer_field(kind: AnswerKind) -> str:
    """Return the field of a row of JSON lines that holds the answer."""
    return "tags" if kind == "tags" else "label"


def agreement(kind: AnswerKind, pairs: Sequence[tuple[Any, Any]]) -> tuple[str, float]:
    """Return the name and the value, in percent, of how well drafts fit: pairs of a confirmed answer and a draft.

    The accuracy of texts or words, or F1 of spans; a draft of None is wrong.
    """
    if kind == "spans":
        sets = [[{tuple(span) for span in answer or ()} for answer in pair] for pair in pairs]
        right = sum(len(expected & drafted) for expected, drafted in sets)
        total = sum(len(expected) + len(drafted) for expected, drafted in sets)
        return "f1", 200 * right / total if total else 100.0
    if kind == "tags":
        words = [
            want == got
            for expected, drafted in pairs
            for want, got in zip(expected, drafted or [None] * len(expected), strict=True)
        ]
        return "accuracy", 100 * sum(words) / max(1, len(words))
    if kind == "labels":
        pairs = [(set(expected), None if drafted is None else set(drafted)) for expected, drafted in pairs]
    return "accuracy", 100 * sum(expected == drafted for expected, drafted in pairs) / max(1, len(pairs))
