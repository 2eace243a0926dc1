"""Label Studio's JSON_MIN, CSV and TSV: a row for each annotation, its results in a column for each control."""

from collections.abc import Iterator, Mapping
from typing import Any

from adaptdock.engine.data.spans.findings import Findings
from adaptdock.engine.data.spans.label_studio import WHOLE, names_of
from adaptdock.engine.data.spans.marked_text import is_spans, read_spans
from adaptdock.engine.data.spans.tool import RowTool, identifier_of, text_column, unprinted
from adaptdock.errors import DataError
from adaptdock.plugins.annotations import AnnotatedText

ANNOTATION, ANNOTATOR = "annotation_id", "annotator"
NOTHING: tuple[Any, ...] = (None, "", [], "[]")
META = (ANNOTATION, ANNOTATOR, "created_at", "updated_at", "lead_time", "id", "agreement", "history")


class LabelStudioMin(RowTool):
    """Label Studio's short forms; of a text with several annotations that differ the last is read."""

    name = "label-studio-min"
    title = "Label Studio's JSON_MIN or CSV"

    def recognises(self, row: Any) -> bool:
        """Tell a row with the number of an annotation and its annotator."""
        return isinstance(row, Mapping) and ANNOTATION in row and ANNOTATOR in row and text_column(row) is not None

    def read(self, row: Any, place: str, findings: Findings) -> Iterator[AnnotatedText]:
        """Yield the text of a row, with the spans or the labels of its annotation."""
        text, identifier = self.text_of(row, place), identifier_of(row)
        cells = {name: unprinted(value) for name, value in row.items() if name not in META}
        fields = {name: value for name, value in cells.items() if value != text}
        if row[ANNOTATION] in (None, ""):
            yield AnnotatedText(text, place, fields=fields, identifier=identifier)
            return
        marked = [name for name, value in cells.items() if is_spans(value)]
        spans = tuple(span for name in marked for span in read_spans(cells[name], place, findings))
        columns = [name for name in self._result_columns(row) if name not in marked and row[name] not in NOTHING]
        columns = [name for name in columns if row[name] != text]
        labels: tuple[str, ...] | None = None
        if len(columns) < 2:
            labels = tuple(name for column in columns for name in _names(cells[column]))
        elif marked:
            findings.add(f"rows have several columns that could be labels of the text ({', '.join(columns)})", place)
        else:
            raise DataError(
                f"{place}: the columns {', '.join(columns)} could all hold the label of the text. Say which with "
                f"--columns label={columns[0]}"
            )
        yield AnnotatedText(text, place, spans, labels, fields=fields, identifier=identifier)

    def _result_columns(self, row: Mapping[str, Any]) -> list[str]:
        """Return the columns that may have results: those that the data of the task did not have.

        JSON_MIN writes the data, then ``id``, the results, and the annotator. A table sorts its columns.
        """
        names = list(row)
        preferred = [name for name in self.preferred if name in row]
        if preferred or names == sorted(names):
            return preferred or [name for name in names if name not in META]
        first = names.index("id") if "id" in names else -1
        return names[first + 1 : names.index(ANNOTATOR)]

    def finish(self, texts: list[AnnotatedText], findings: Findings) -> list[AnnotatedText]:
        """Return one text for each task: of several annotations that differ the last."""
        tasks: dict[Any, AnnotatedText] = {}
        for number, text in enumerate(texts):
            key = number if text.identifier is None else (text.identifier, text.text)
            before = tasks.get(key)
            if before is not None and (before.spans, before.labels) != (text.spans, text.labels):
                findings.add("texts have annotators who differ; the last one is read", text.place)
            tasks[key] = text
        return list(tasks.values())


def _names(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for part in value for name in _names(part)]
    if not isinstance(value, Mapping):
        return names_of(value)
    return [name for key in WHOLE.values() if key in value for name in names_of(value[key])]
