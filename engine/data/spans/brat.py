"""brat: a text file and its annotation in standoff form beside it (``a.txt`` and ``a.ann``), or a folder of them."""

from collections.abc import Iterator
from pathlib import Path

from adaptdock.engine.data.spans.findings import Findings
from adaptdock.engine.data.spans.tool import FileTool, whole_number
from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan, Relation

TEXT, STANDOFF = ".txt", ".ann"


class Brat(FileTool):
    """brat's standoff; a span in several pieces is read from its first character to its last."""

    name = "brat"
    title = "brat's standoff"

    def recognises(self, path: Path, texts: Texts) -> bool:
        """Tell a folder with annotations beside texts, an annotation, or a text that has one beside it."""
        if path.is_dir():
            return any(file.with_suffix(TEXT).is_file() for file in path.glob(f"*{STANDOFF}"))
        pair = {TEXT: STANDOFF, STANDOFF: TEXT}.get(path.suffix.lower())
        return pair is not None and path.is_file() and path.with_suffix(pair).is_file()

    def read(self, path: Path, texts: Texts, findings: Findings) -> Iterator[AnnotatedText]:
        """Yield the texts, a document each, in the order of their names."""
        standoffs = sorted(path.glob(f"*{STANDOFF}")) if path.is_dir() else [path.with_suffix(STANDOFF)]
        annotated = {file.stem for file in standoffs}
        for file in sorted(path.glob(f"*{TEXT}")) if path.is_dir() else []:
            if file.stem not in annotated:
                findings.add("texts have no annotation file beside them and are left out", str(file))
        for file in standoffs:
            source = file.with_suffix(TEXT)
            if not source.is_file():
                findings.add("annotation files have no text beside them and are left out", str(file))
                continue
            yield _document(source, file, texts, findings)


def _document(source: Path, standoff: Path, texts: Texts, findings: Findings) -> AnnotatedText:
    text = texts.whole(source)
    spans: dict[str, LabelledSpan] = {}
    links: list[tuple[str, str, str, str]] = []
    for number, line in texts.lines(standoff):
        place = f"{standoff}:{number}"
        name, _, content = line.partition("\t")
        if name.startswith("T"):
            spans[name] = _span(content, text, place, findings)
        elif name.startswith("R"):
            kind, _, arguments = content.partition(" ")
            ends = [argument.partition(":")[2] for argument in arguments.split()[:2]]
            links += [(kind, *ends, place)] if len(ends) == 2 else []  # type: ignore[list-item]
    numbers = {name: number for number, name in enumerate(spans)}
    relations = []
    for kind, head, tail, place in links:
        if head in numbers and tail in numbers:
            relations.append(Relation(numbers[head], numbers[tail], kind))
        else:
            findings.add("relations name a span that is not there and are left out", place)
    return AnnotatedText(text, str(source), tuple(spans.values()), relations=tuple(relations), document=source.stem)


def _span(content: str, text: str, place: str, findings: Findings) -> LabelledSpan:
    """Return the span of a line ``LABEL START END;START END<tab>TEXT`` without its first column."""
    header, _, stated = content.partition("\t")
    label, _, bounds = header.partition(" ")
    pieces = [piece.split() for piece in bounds.split(";")]
    if not label or not all(len(piece) == 2 for piece in pieces):
        raise DataError(
            f"{place}: not brat's standoff: a span is LABEL START END, then a tab and its text: {content!r:.80}"
        )
    offsets = [[whole_number(offset, place, "offset") for offset in piece] for piece in pieces]
    start, end = min(piece[0] for piece in offsets), max(piece[1] for piece in offsets)
    if len(pieces) > 1:
        findings.add("spans are in several pieces, and are read from the first character to the last", place)
        return LabelledSpan(start, end, label)
    return LabelledSpan(start, end, label, stated or None)
