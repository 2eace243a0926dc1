"""The component ``adaptdock``: predictions of an adapter as annotations of a ``Doc``."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import filter_spans, minibatch

from adaptdock import AdaptError, Dock, read_card

ADAPTER = "adapter.safetensors"
"""The file in the component's folder of a pipeline on disk."""


class AdapterComponent:
    """Runs an adapter on texts; the first text loads it."""

    def __init__(self, adapter: str, backbone: str | None, device: str, alignment: str, batch_size: int) -> None:
        self.adapter = Path(adapter)
        self.backbone, self.device = backbone, device
        self.alignment, self.batch_size = alignment, batch_size

    @cached_property
    def _docked(self) -> tuple[Dock, str]:
        dock = shared_dock(self.backbone or read_card(self.adapter).backbone.id, self.device)
        return dock, dock.load(self.adapter, f"spacy-{len(dock)}")

    def __call__(self, doc: Doc) -> Doc:
        """Annotate one document."""
        return self._annotated([doc])[0]

    def pipe(self, stream: Iterable[Doc], *, batch_size: int | None = None) -> Iterator[Doc]:
        """Annotate documents in batches."""
        for batch in minibatch(stream, batch_size or self.batch_size):
            yield from self._annotated(batch)

    def _annotated(self, docs: Sequence[Doc]) -> list[Doc]:
        dock, name = self._docked
        task: Any = dock.assembly(name).task
        if not hasattr(task, "annotation"):
            raise AdaptError(f"{self.adapter}: the predictions of {dock.card(name).task.name} do not annotate a text")
        for doc, prediction in zip(docs, dock.predict(name, [doc.text for doc in docs], self.batch_size), strict=True):
            annotation = task.annotation(prediction)
            if any(word.label for word in annotation.words):
                self._tag_words(doc, annotation.words)
            elif annotation.spans is not None:
                spans = [
                    doc.char_span(s.start, s.end, s.label, alignment_mode=self.alignment) for s in annotation.spans
                ]
                doc.set_ents(filter_spans([span for span in spans if span is not None]), default="outside")
            else:
                scores = prediction.get("scores", {})
                doc.cats |= {**scores, **{label: scores.get(label, 1.0) for label in annotation.labels or ()}}
        return list(docs)

    @staticmethod
    def _tag_words(doc: Doc, words: Iterable[Any]) -> None:
        """Tag the tokens that begin where a word begins."""
        tags = {word.start: word.label for word in words}
        for token in doc:
            token.tag_ = tags.get(token.idx, "")

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Copy the adapter file into the component's folder."""
        Path(path).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.adapter, Path(path) / ADAPTER)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "AdapterComponent":
        """Use the adapter file in the component's folder."""
        self.adapter = Path(path) / ADAPTER
        self.__dict__.pop("_docked", None)
        return self


@cache
def shared_dock(backbone: str, device: str) -> Dock:
    """Return the dock of a backbone, which all components share."""
    return Dock.open(backbone, device=device)


@Language.factory(
    "adaptdock",
    default_config={"backbone": None, "device": "auto", "alignment": "expand", "batch_size": 32},
)
def make_component(
    nlp: Language, name: str, adapter: str, backbone: str | None, device: str, alignment: str, batch_size: int
) -> AdapterComponent:
    """Make the component from its configuration."""
    return AdapterComponent(adapter, backbone, device, alignment, batch_size)
