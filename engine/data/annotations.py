"""Annotated texts as records and inputs of a task: which of them the task learns from, and what it is asked."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from adaptdock.engine.data.confirmation import confirmed_texts
from adaptdock.engine.data.spans.findings import shortened
from adaptdock.engine.data.spans.label_studio import LabelStudio
from adaptdock.engine.data.spans.reading import Export
from adaptdock.engine.data.spans.spacy_examples import SpacyExamples
from adaptdock.engine.data.spans.tool import FileTool, RowTool
from adaptdock.engine.data.tables import Say
from adaptdock.errors import DataError
from adaptdock.plugins.annotations import AnnotatedText
from adaptdock.plugins.contracts import Annotatable, Record, Task
from adaptdock.plugins.task_abilities import DOCUMENT

NESTED = (LabelStudio, SpacyExamples)
"""Tools whose rows do not have the text in a column, so that only they can say what the input is."""


@dataclass(frozen=True)
class AnnotatedFile:
    """A file that is an export of a tool."""

    export: Export
    tool: FileTool | RowTool

    def records(self, task: type[Task], say: Say) -> list[Record]:
        """Return the raw records of a task; texts whose annotation says nothing for it are left out and counted.

        Raises :class:`DataError` where that is every text.
        """
        reader: Any = task
        if not isinstance(reader, Annotatable):
            raise DataError(
                f"{self.export.path}: read as {self.tool.title}, which this task does not learn from: it reads columns "
                f"with {', '.join(name for name in task.columns if name not in task.optional)}"
            )
        texts = self.export.read(self.tool, say)
        if not texts:
            raise DataError(f"{self.export.path}: read as {self.tool.title}, but there is no text in it")
        texts = confirmed_texts(texts, say)
        if self.tool.writes_empty_lists and not any(text.spans or text.labels for text in texts):
            raise DataError(f"{self.export.path}: read as {self.tool.title}, but none of its texts has been annotated")
        records, left_out = [], []
        for text in texts:
            record = reader.annotated(text)
            if record is None:
                left_out.append(text.place)
            else:
                records.append({"where": text.place, **record, **_names(text)})
        if not records:
            raise DataError(f"{self.export.path}: read as {self.tool.title}, {_nothing(texts)}")
        if left_out:
            say(
                f"{self.export.path}: {len(left_out)} texts have no annotation for this task and are left out: "
                f"{shortened(left_out)}"
            )
        return records

    def inputs(self, task: type[Task], say: Say) -> Iterator[tuple[Any, str]]:
        """Yield what a task is asked of each text, and its place; whether it was annotated makes no difference."""
        reader: Any = task
        for text in self.export.read(self.tool, say):
            asked = replace(text, spans=text.spans or (), labels=text.labels or ())
            record = reader.annotated(asked) if isinstance(reader, Annotatable) else None
            values = {name: record[name] for name in task.asks if record and name in record}
            yield values or {"text": text.text}, text.place


def annotated_file(export: Export, tool_name: str | None) -> AnnotatedFile | None:
    """Return a file as an export of a tool, which may be named; None where it is not one."""
    tool = export.tool(tool_name)
    return None if tool is None else AnnotatedFile(export, tool)


def has_nested_texts(file: AnnotatedFile) -> bool:
    """Tell an export of which only the tool knows where the texts are."""
    return isinstance(file.tool, (FileTool, *NESTED))


def _names(text: AnnotatedText) -> Record:
    """Return what a record is called, and of what document it is."""
    names = {"id": text.identifier, DOCUMENT: text.document}
    return {name: value for name, value in names.items() if value is not None}


def _nothing(texts: Iterable[AnnotatedText]) -> str:
    """Say why no text of a file is of use."""
    if any(text.labels for text in texts):
        return "but it has labels of whole texts only, which --task classification learns from"
    if any(text.spans for text in texts):
        return "but it has spans of characters only, which --task ner learns from"
    return "but none of its texts has been annotated"
