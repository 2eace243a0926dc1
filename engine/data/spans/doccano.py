"""doccano: its JSON lines for spans, for spans with relations, and for labels of whole texts."""

from collections.abc import Iterator, Mapping
from typing import Any

from adaptdock.engine.data.spans.findings import Findings
from adaptdock.engine.data.spans.marked_text import has_tags, is_spans, read_spans
from adaptdock.engine.data.spans.tool import RowTool, identifier_of, text_column, unprinted
from adaptdock.errors import DataError
from adaptdock.plugins.annotations import AnnotatedText, Relation

LABELS = ("label", "labels", "cats")
"""Where a row has its labels; where there are spans too, they are under ``entities`` and labels under ``cats``."""
ENTITIES = "entities"


class Doccano(RowTool):
    """doccano: ``label`` holds [start, end, label] or names of classes; with relations there is ``entities``."""

    name = "doccano"
    title = "doccano's export"
    writes_empty_lists = True

    def recognises(self, row: Any) -> bool:
        """Tell a row with spans or names of classes under doccano's names."""
        if not isinstance(row, Mapping) or text_column(row) is None or has_tags(row):
            return False
        if ENTITIES in row:
            entities = unprinted(row[ENTITIES])
            is_object = is_spans(entities) and isinstance(entities[0], Mapping) and "start_offset" in entities[0]
            return is_object or isinstance(row.get("cats"), list)
        return any(_is_labels(row.get(name)) for name in LABELS)

    def is_blank(self, row: Any) -> bool:
        """Return whether a row has a text, and an empty list where doccano writes its labels."""
        if not isinstance(row, Mapping) or text_column(row) is None or has_tags(row):
            return False
        return any(unprinted(row.get(name)) == [] for name in (ENTITIES, *LABELS))

    def read(self, row: Any, place: str, findings: Findings) -> Iterator[AnnotatedText]:
        """Yield the text of a row; a row without a list has not been annotated."""
        text = self.text_of(row, place)
        identifier = identifier_of(row)
        if ENTITIES in row:
            entities = unprinted(row[ENTITIES]) or []
            spans = read_spans(entities, place, findings)
            has_ids = len(spans) == len(entities) and all(isinstance(entity, Mapping) for entity in entities)
            relations = _relations(row, entities, place, findings) if has_ids else ()
            labels = row.get("cats")
            yield AnnotatedText(
                text, place, spans, None if labels is None else tuple(labels), relations, identifier=identifier
            )
            return
        column = next((name for name in LABELS if name in row), "")
        value = unprinted(row.get(column))
        if value == []:
            yield AnnotatedText(text, place, (), (), fields=row, identifier=identifier)
        elif isinstance(value, list | tuple) and all(isinstance(label, str) for label in value):
            yield AnnotatedText(text, place, labels=tuple(value), fields=row, identifier=identifier)
        elif isinstance(value, str):
            raise DataError(
                f"{place}: the label is {value!r:.60}, where other rows have a list of labels: write a list, "
                f"or read the column as it is: --columns label={column}"
            )
        elif value is None:
            yield AnnotatedText(text, place, fields=row, identifier=identifier)
        else:
            yield AnnotatedText(text, place, read_spans(value, place, findings), fields=row, identifier=identifier)


def _is_labels(value: Any) -> bool:
    """Tell spans, and a list of names; names that were printed into a cell may be of any table."""
    if isinstance(value, str):
        return is_spans(unprinted(value))
    if not isinstance(value, list | tuple) or not value:
        return False
    return is_spans(value) or all(isinstance(label, str) for label in value)


def _relations(
    row: Mapping[str, Any], entities: list[Mapping[str, Any]], place: str, findings: Findings
) -> tuple[Relation, ...]:
    numbers = {entity.get("id"): number for number, entity in enumerate(entities)}
    relations = []
    for relation in unprinted(row.get("relations")) or []:
        if not isinstance(relation, Mapping):
            raise DataError(f"{place}: a relation is an object with from_id, to_id and type; found {relation!r:.60}")
        ends = [numbers.get(relation.get(name)) for name in ("from_id", "to_id")]
        if ends[0] is None or ends[1] is None:
            findings.add("relations name a span that is not there and are left out", place)
            continue
        relations.append(Relation(ends[0], ends[1], str(relation.get("type", ""))))
    return tuple(relations)
