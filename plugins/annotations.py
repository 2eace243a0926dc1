"""Annotated texts: what annotation tools say of a text, in one form for every tool.

Offsets count characters (Unicode code points) of the text, from 0; ``text[start:end]`` is what a span covers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LabelledSpan:
    """A stretch of a text with its label, and the text that the tool says stands there, None where it says nothing."""

    start: int
    end: int
    label: str = ""
    stated: str | None = None


@dataclass(frozen=True)
class Relation:
    """A labelled link from one span to another; both are numbers of :attr:`AnnotatedText.spans`."""

    head: int
    tail: int
    label: str


@dataclass(frozen=True)
class AnnotatedText:
    """A text with its annotation; ``place`` is where in which file it stands.

    ``spans`` and ``labels`` are empty where an annotator has found none, and None where nobody has looked for any.
    """

    text: str
    place: str
    spans: tuple[LabelledSpan, ...] | None = None
    labels: tuple[str, ...] | None = None
    """Labels of the whole text."""
    relations: tuple[Relation, ...] = ()
    words: tuple[LabelledSpan, ...] = ()
    """The words that the tool has divided the text into; their labels are empty."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What else the tool keeps beside the text, such as a question."""
    identifier: str | int | None = None
    document: str | None = None
    """The document of which the text is a part."""
