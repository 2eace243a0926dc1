"""Reading annotated texts: which tool a file is of, told by its content, and its texts."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from adaptdock.engine.data.formats import parsed
from adaptdock.engine.data.spans.brat import Brat
from adaptdock.engine.data.spans.cas import Cas
from adaptdock.engine.data.spans.doccano import Doccano
from adaptdock.engine.data.spans.findings import Findings
from adaptdock.engine.data.spans.label_studio import LabelStudio
from adaptdock.engine.data.spans.label_studio_min import LabelStudioMin
from adaptdock.engine.data.spans.marked_text import MarkedText
from adaptdock.engine.data.spans.offsets import settled
from adaptdock.engine.data.spans.prodigy import Prodigy
from adaptdock.engine.data.spans.spacy_docs import SpacyDocs
from adaptdock.engine.data.spans.spacy_examples import SpacyExamples
from adaptdock.engine.data.spans.tool import FileTool, RowTool
from adaptdock.engine.data.spans.webanno import WebAnno
from adaptdock.engine.data.tables import Say
from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError
from adaptdock.plugins.annotations import AnnotatedText

ROW_TOOLS: tuple[type[RowTool], ...] = (LabelStudio, LabelStudioMin, Prodigy, SpacyExamples, Doccano, MarkedText)
"""In the order in which they are asked: the more particular ones first."""
FILE_TOOLS: tuple[type[FileTool], ...] = (SpacyDocs, WebAnno, Cas, Brat)
NAMES = (*(tool.name for tool in ROW_TOOLS), *(tool.name for tool in FILE_TOOLS))
LOOKED_AT = 200
"""Rows that are looked at to tell the tool; in some exports the first texts have no annotation."""
LABELS_SHOWN = 6
LISTS = ("data", "annotations", "examples", "common_examples", "rasa_nlu_data")
"""Under what name an object has the list of rows: those of annotators for spaCy, and of Rasa."""

IN_MEMORY = "in memory"
"""The format of rows in memory, without a file."""

Row = tuple[Any, str]


@dataclass(frozen=True)
class Export:
    """A file or folder that may be a tool's: its format is that of its rows, which ``table`` reads where it is one."""

    path: Path
    layout: str
    texts: Texts
    table: Callable[[], Iterable[Row]]
    preferred: Collection[str] = ()
    """Columns that a person has named."""

    def rows(self) -> Iterator[Row]:
        """Yield the rows of a file, each with its place; none of a format that has no rows."""
        if self.layout == "jsonl":
            for number, line in self.texts.lines(self.path):
                if line.strip():
                    yield parsed(line, f"{self.path}:{number}"), f"{self.path}:{number}"
        elif self.layout == "json":
            content = parsed("\n".join(line for _, line in self.texts.lines(self.path)), str(self.path))
            for number, row in enumerate(_listed(content)):
                if row is not None:
                    yield row, f"{self.path}[{number}]"
        elif self.layout in ("csv", "tsv", "parquet", IN_MEMORY):
            yield from self.table()

    def tool(self, tool_name: str | None) -> FileTool | RowTool | None:
        """Return the tool that the file is an export of: the one that was named, or that the content tells."""
        is_file = self.layout != IN_MEMORY
        for kind in FILE_TOOLS if is_file else ():
            if kind.name == tool_name or (tool_name is None and kind().recognises(self.path, self.texts)):
                return kind()
        for tool in ROW_TOOLS:
            if tool.name == tool_name:
                return tool(self.preferred)
        if tool_name is not None or (is_file and self.path.is_dir()):
            return None
        try:
            head = [row for row, _ in islice(self.rows(), LOOKED_AT)]
        except DataError:  # it is no such format, which is for the usual reader to say
            return None
        kinds = (LabelStudio, MarkedText) if self.preferred else ROW_TOOLS  # others have columns of their own
        recognised = (tool for tool in (kind(self.preferred) for kind in kinds) if any(map(tool.recognises, head)))
        return next(recognised, None) or self._unannotated(head)

    def _unannotated(self, head: Sequence[Any]) -> RowTool | None:
        """Return doccano, which alone writes empty lists, for rows that nobody has annotated yet."""
        tool = Doccano()
        return tool if head and not self.preferred and all(map(tool.is_blank, head)) else None

    def read(self, tool: FileTool | RowTool, say: Say) -> list[AnnotatedText]:
        """Return the texts, their spans in characters; ``say`` hears what they were read as, and what was odd.

        Raises :class:`DataError` naming the place for what cannot be read.
        """
        findings = Findings()
        if isinstance(tool, FileTool):
            annotated = list(tool.read(self.path, self.texts, findings))
        else:
            read = (text for row, place in self.rows() for text in tool.read(row, place, findings))
            annotated = tool.finish(list(read), findings)
        annotated, counted = settled(annotated, findings)
        annotated = _looked_for(annotated)
        say(f"{self.path}: read as {tool.title} (--format {tool.name}): {_counts(annotated)}")
        for line in ([f"{self.path}: {counted}"] if counted else []) + findings.notes(str(self.path)):
            say(line)
        return annotated


def is_annotated_folder(path: Path) -> bool:
    """Tell a folder that is one export as a whole."""
    return path.is_dir() and any(kind().recognises(path, Texts()) for kind in FILE_TOOLS)


def _listed(content: Any) -> list[Any]:
    """Return the rows of a document of JSON: a list, or an object with one; any other object is a row."""
    if isinstance(content, list):
        return content
    if isinstance(content, dict):
        inner = next((content[name] for name in LISTS if isinstance(content.get(name), list | dict)), None)
        if isinstance(inner, list) or (isinstance(inner, dict) and any(name in inner for name in LISTS)):
            return [content] if "text" in content or "paragraphs" in content else _listed(inner)
    return [content]


def _looked_for(texts: list[AnnotatedText]) -> list[AnnotatedText]:
    """Return texts that have neither kind of annotation where no text of the file has it: nobody has looked for it."""
    has_spans, has_labels = any(text.spans for text in texts), any(text.labels for text in texts)
    if has_spans == has_labels:
        return texts
    return [
        replace(text, spans=text.spans if has_spans else None, labels=text.labels if has_labels else None)
        for text in texts
    ]


def _counts(texts: list[AnnotatedText]) -> str:
    parts = [f"{len(texts)} texts"]
    for name, labels in (
        ("spans", [span.label for text in texts for span in text.spans or ()]),
        ("labels", [label for text in texts for label in text.labels or ()]),
        ("relations", [relation.label for text in texts for relation in text.relations]),
    ):
        if labels:
            counts = Counter(labels).most_common()
            shown = ", ".join(f"{label} {count}" for label, count in counts[:LABELS_SHOWN])
            parts.append(f"{len(labels)} {name} ({shown}{', ...' if len(counts) > LABELS_SHOWN else ''})")
    return ", ".join(parts)
