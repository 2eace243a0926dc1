"""Files of predictions, in forms that other programs read and that training reads back as data.

Offsets count characters (code points); Label Studio's count UTF-16 units, as its page does.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptdock.engine.data.formats import FORMATS
from adaptdock.errors import UsageError
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan
from adaptdock.plugins.contracts import Annotating, Task
from adaptdock.plugins.escapes import json_text

Predictions = Sequence[Mapping[str, Any]]
LABEL_STUDIO = {"from_name": "label", "to_name": "text"}
"""The names of the controls in a result, as in the templates of Label Studio."""

BLANKS = " \t\n\r"
"""Separators of columns and lines in CoNLL."""


def form_of(path: Path, form_name: str | None) -> str:
    """Return the form of a file: ``form_name``, or the form of the suffix; raise :class:`UsageError` without either."""
    form = form_name or FORMATS.get(path.suffix.lower())
    if form not in FORMS:
        raise UsageError(f"the suffix of {path} does not name the format: add --output-format {'|'.join(FORMS)}")
    return str(form)


def check_form(form: str, task: type[Task], name: str) -> None:
    """Raise :class:`UsageError` if the form needs annotated texts and the task does not annotate."""
    if form in ANNOTATION_FORMS and not issubclass(task, Annotating):
        raise UsageError(
            f"{form} is for annotated texts, and the predictions of the task {name!r} do not annotate a text: give "
            f"--output-format {', '.join(PLAIN_FORMS)}"
        )


def encoded(predictions: Predictions, form: str, task: Any = None) -> tuple[bytes, list[str]]:
    """Return the content of a file, and notes on texts that it leaves out.

    ``task`` is the task of the predictions; forms of annotation tools need it (:func:`check_form`).
    """
    if form in PLAIN_FORMS:
        return PLAIN_FORMS[form](predictions), []
    assert isinstance(task, Annotating)
    texts = [task.annotation(prediction) for prediction in predictions]
    if form != "conll":
        return encoded_texts(texts, form), []
    if any(text.words == () and text.labels is not None for text in texts):
        raise UsageError("conll has a tag for each word, and the predictions are labels of whole texts: give doccano")
    empty = sum(not text.words for text in texts)
    return _conll(texts), [f"{empty} texts have no word and are left out"] if empty else []


def encoded_texts(texts: Sequence[AnnotatedText], form: str, labels: Sequence[str] = ()) -> bytes:
    """Return the content of a file of annotated texts.

    With ``labels`` the annotation is a draft for a person who chooses among them: Prodigy's rows have all labels as
    options, and no answer yet. Label Studio's rows are predictions, drafts at any time.
    """
    if form == "prodigy" and labels:
        return _json_lines(_prodigy_row(text, labels) for text in texts)
    return ANNOTATION_FORMS[form](texts)


# ------------------------------------------------------------------------------------- rows as they are


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(f"{json_text(row)}\n" for row in rows).encode()


def _csv(rows: Predictions) -> bytes:
    """Return a table; lists and objects are JSON in their cells."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, _columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {name: json_text(value) if isinstance(value, list | Mapping) else value for name, value in row.items()}
        )
    return stream.getvalue().encode()


def _parquet(rows: Predictions) -> bytes:
    import pyarrow
    from pyarrow import parquet

    columns = {name: [row.get(name) for row in rows] for name in _columns(rows)}
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


def _columns(rows: Predictions) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


# ------------------------------------------------------------------------------------- annotated texts


def _conll(texts: Iterable[AnnotatedText]) -> bytes:
    """Return a word and its tag in each line, and an empty line after each text."""
    sentences = ["".join(map(_conll_line, zip(text.words, _tags(text), strict=True))) for text in texts if text.words]
    return "\n".join(sentences).encode()


def _conll_line(pair: tuple[LabelledSpan, str]) -> str:
    word, tag = pair
    if any(blank in str(word.stated) for blank in BLANKS):
        raise UsageError(
            f"the word {word.stated!r:.40} has a space, which divides the columns of conll: give --output-format jsonl"
        )
    return f"{word.stated}\t{tag}\n"


def _tags(text: AnnotatedText) -> list[str]:
    """Return the labels of the words, or the BIO tags of the spans, which begin and end with words."""
    tags = [word.label or "O" for word in text.words]
    for span in text.spans or () if not any(word.label for word in text.words) else ():
        for number, word in enumerate(text.words):
            if span.start <= word.start < span.end:
                tags[number] = f"{'B' if word.start == span.start else 'I'}-{span.label}"
    return tags


def _doccano(texts: Iterable[AnnotatedText]) -> bytes:
    return _json_lines(
        {**text.fields, "id": number, "text": text.text, "label": _doccano_labels(text)}
        for number, text in enumerate(texts, 1)
    )


def _doccano_labels(text: AnnotatedText) -> list[Any]:
    if text.spans is None:
        return list(text.labels or ())
    return [[span.start, span.end, span.label] for span in text.spans]


def _prodigy(texts: Iterable[AnnotatedText]) -> bytes:
    return _json_lines({**_prodigy_row(text, text.labels or ()), "answer": "accept"} for text in texts)


def _prodigy_row(text: AnnotatedText, options: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {**text.fields, "text": text.text}
    if text.spans is None:
        return row | {"options": [{"id": label, "text": label} for label in options], "accept": list(text.labels or ())}
    spans = [
        {"start": span.start, "end": span.end, "label": span.label, "text": text.text[span.start : span.end]}
        for span in text.spans
    ]
    return row | {"spans": spans}


def label_studio_task(text: AnnotatedText) -> dict[str, Any]:
    """Return a task of Label Studio with one prediction."""
    if text.spans is None:
        choices = {"type": "choices", "value": {"choices": list(text.labels or ())}}
        results = [LABEL_STUDIO | choices] if text.labels else []
    else:
        results = [_label_studio_span(text.text, span) for span in text.spans]
    return {"data": {**text.fields, "text": text.text}, "predictions": [{"result": results}]}


def _label_studio_span(text: str, span: LabelledSpan) -> dict[str, Any]:
    start, end = (len(text[:offset].encode("utf-16-le")) // 2 for offset in (span.start, span.end))
    value = {"start": start, "end": end, "text": text[span.start : span.end], "labels": [span.label]}
    return LABEL_STUDIO | {"type": "labels", "value": value}


def _label_studio(texts: Iterable[AnnotatedText]) -> bytes:
    return f"{json_text([label_studio_task(text) for text in texts], indent=1)}\n".encode()


PLAIN_FORMS: dict[str, Callable[[Predictions], bytes]] = {"jsonl": _json_lines, "csv": _csv, "parquet": _parquet}
"""Forms of any prediction."""
ANNOTATION_FORMS: dict[str, Callable[[Sequence[AnnotatedText]], bytes]] = {
    "conll": _conll,
    "doccano": _doccano,
    "label-studio": _label_studio,
    "prodigy": _prodigy,
}
"""Forms of predictions that annotate a text."""
FORMS = (*PLAIN_FORMS, *ANNOTATION_FORMS)
