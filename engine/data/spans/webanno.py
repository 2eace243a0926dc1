"""INCEpTION's and WebAnno's TSV 3: a word a line with its offsets, a column for each feature of a layer.

Format: https://inception-project.github.io/releases/36.0/docs/user-guide.html#sect_formats_webannotsv3. Offsets count
UTF-16 units of the document; here they are counted from the begin of the sentence.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from adaptdock.engine.data.spans.findings import Findings
from adaptdock.engine.data.spans.tool import FileTool
from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan

HEAD = "#FORMAT=WebAnno TSV 3"
SPAN_LAYER, CHAIN_LAYER, RELATION_LAYER, TEXT = "#T_SP=", "#T_CH=", "#T_RL=", "#Text="
BUILT_IN = ("POS", "Lemma", "Morpho", "Stem", "Surface", "Token", "Sentence", "Coreference", "SofaChangeAnnotation")
"""Layers that are not marked by hand as entities are."""
ENTITY_LAYER, ENTITY_FEATURE = "NamedEntity", "value"
NOTHING, NO_VALUE = "_", "*"
NUMBER = re.compile(r"(.*?)(?<!\\)\[(\d+)\]$", re.DOTALL)
SEPARATOR = re.compile(r"(?<!\\)\|")
ESCAPED = re.compile(r"\\(.)")
WORD = re.compile(r"\d+-\d+(\.\d+)?$")
CONTROLS = {"t": "\t", "n": "\n", "r": "\r"}


@dataclass(frozen=True)
class Feature:
    """A feature of a layer of spans, and the column that has it."""

    layer: str
    name: str
    column: int

    @property
    def title(self) -> str:
        """The layer and the feature as a person knows them: ``NamedEntity.value``."""
        return f"{self.layer}.{self.name}" if self.name else self.layer


@dataclass
class Sentence:
    """A sentence while its lines are read."""

    line: int = 0
    text: list[str] = field(default_factory=list)
    words: list[LabelledSpan] = field(default_factory=list)
    cells: list[tuple[int, int, str]] = field(default_factory=list)
    """Start, end and what the column of the labels says, of words and parts of words."""


class WebAnno(FileTool):
    """WebAnno TSV 3; the layer of named entities is read, or else the first one that was made by hand."""

    name = "webanno"
    title = "INCEpTION's TSV 3"

    def recognises(self, path: Path, texts: Texts) -> bool:
        """Tell a file by its first line."""
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(64).lstrip(b"\xef\xbb\xbf").startswith(HEAD.encode())

    def read(self, path: Path, texts: Texts, findings: Findings) -> Iterator[AnnotatedText]:
        """Yield the sentences of a document."""
        feature = _chosen(_features(path, texts), path, findings)
        sentence = Sentence()
        for number, line in texts.lines(path):
            if line.startswith(TEXT):
                sentence.text.append(_unescaped(line[len(TEXT) :]))
            elif WORD.match(line.partition("\t")[0]):
                sentence.line = sentence.line or number
                _add(sentence, line, feature, f"{path}:{number}")
            elif not line.strip() and sentence.words:
                yield _annotated(sentence, feature, path, findings)
                sentence = Sentence()
        if sentence.words:
            yield _annotated(sentence, feature, path, findings)


def _features(path: Path, texts: Texts) -> list[Feature]:
    """Return the features of the layers of spans; columns are those behind number, offsets and word."""
    features: list[Feature] = []
    column = 3
    for _, line in islice(texts.lines(path), 1000):
        kind = next((kind for kind in (SPAN_LAYER, CHAIN_LAYER, RELATION_LAYER) if line.startswith(kind)), None)
        if kind is None:
            if line.startswith(TEXT):
                break
            continue
        layer, *names = line[len(kind) :].split("|")
        short = layer.rpartition(".")[2]
        if kind == SPAN_LAYER:
            features += [Feature(short, name, column + place) for place, name in enumerate(names or [""])]
        column += max(1, len(names))
    return features


def _chosen(features: Sequence[Feature], path: Path, findings: Findings) -> Feature:
    by_hand = [feature for feature in features if not feature.layer.startswith(BUILT_IN)]
    if not by_hand:
        titles = ", ".join(feature.title for feature in features) or "none"
        raise DataError(
            f"{path}: read as INCEpTION's TSV 3, but it has no layer of spans with labels: there is {titles}"
        )
    entities = [feature for feature in by_hand if feature.layer == ENTITY_LAYER]
    valued = [feature for feature in entities or by_hand if feature.name in (ENTITY_FEATURE, "label", "type")]
    feature = (valued or entities or by_hand)[0]
    others = list(dict.fromkeys(span.layer for span in by_hand if span.layer != feature.layer))
    if others:
        findings.add(f"files have other layers of spans, which are not read ({', '.join(others)})", str(path))
    return feature


def _add(sentence: Sentence, line: str, feature: Feature, place: str) -> None:
    """Add the line of a word, or of a part of one, to its sentence."""
    cells = line.split("\t")
    bounds = cells[1].split("-") if len(cells) > 2 else []
    if len(bounds) != 2 or not all(map(str.isdecimal, bounds)):
        raise DataError(f"{place}: not INCEpTION's TSV 3: a line has a number, offsets and a word: {line!r:.80}")
    start, end = map(int, bounds)
    if "." not in cells[0]:
        sentence.words.append(LabelledSpan(start, end, stated=_unescaped(cells[2])))
    if feature.column < len(cells):
        sentence.cells.append((start, end, cells[feature.column]))


def _annotated(sentence: Sentence, feature: Feature, path: Path, findings: Findings) -> AnnotatedText:
    place, first = f"{path}:{sentence.line}", sentence.words[0].start
    whole: dict[str, tuple[int, int, str]] = {}
    for start, end, cell in sentence.cells:
        for part in SEPARATOR.split(cell):
            match = NUMBER.fullmatch(part)
            name, number = (match[1], match[2]) if match else (part, "")
            if name == NOTHING or not name:
                continue
            key = f"{name}[{number}]" if number else f"{name}@{start}"
            before = whole.get(key, (start, end, name))
            whole[key] = (min(before[0], start), max(before[1], end), name)
    spans = []
    for start, end, name in whole.values():
        if name == NO_VALUE and feature.name:
            findings.add("spans have no label and are left out", place)
        else:
            label = feature.layer if name == NO_VALUE else _unescaped(name)
            spans.append(LabelledSpan(start - first, end - first, label))
    words = tuple(LabelledSpan(word.start - first, word.end - first, stated=word.stated) for word in sentence.words)
    return AnnotatedText("\n".join(sentence.text), place, tuple(spans), words=words, document=path.stem)


def _unescaped(text: str) -> str:
    return ESCAPED.sub(lambda match: CONTROLS.get(match[1], match[1]), text)
