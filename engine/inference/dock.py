"""The dock: a backbone to which adapters are docked, and which predicts and writes with them."""

from collections.abc import Sequence
from typing import Any, Self

from adaptdock.engine.core.assembly import validated
from adaptdock.engine.core.docked_adapters import NAMES, DockedAdapters
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.generation import GenerationOptions, generate
from adaptdock.engine.inference.prediction import predict
from adaptdock.errors import UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import LoadOptions
from adaptdock.plugins.sequences import listed, size, text

INPUTS = "inputs", "['a text', 'another text']"
TEXTS = "texts", INPUTS[1]


class Dock(DockedAdapters):
    """A backbone with its ports open, and the answers of the adapters docked to it.

    Safe for use by many threads: a batch finishes with the adapters it started with, whatever is
    docked or undocked meanwhile.
    """

    @classmethod
    def open(cls, backbone: str = registry.DEFAULT_BACKBONE, **options: Any) -> Self:
        """Load a backbone by alias, path or hub id and open its ports.

        ``options`` are those of :class:`LoadOptions`: ``device``, ``dtype``, ``quantize``, ...
        """
        chosen = validated(LoadOptions, options, "loading")
        return cls(load_backbone(backbone, chosen))

    def predict(self, name: str | Sequence[str], inputs: Sequence[Any], batch_size: int = 32) -> list[dict[str, Any]]:
        """Return a prediction for each input: a text, or whatever the adapter's task reads.

        ``name`` is one adapter's, or one for each input; ``lower+upper`` names a stack, whose upper
        adapter answers. Inputs of different adapters share batches. A single text is given as a list of one. Raises
        :class:`UsageError` for what is no list.
        """
        items = listed(inputs, *INPUTS)
        names = _one_each(name, items, "inputs")
        if None in names:
            raise UsageError("each input needs the name of an adapter: a bare row has no head that could answer")
        return predict(self, names, items, size(batch_size, "batch size"))

    def generate(
        self, names: str | Sequence[str | None] | None, texts: Sequence[str], batch_size: int = 8, **options: Any
    ) -> list[str]:
        """Return what a language model writes after each text, with adapters as in :meth:`predict`.

        None is the bare backbone. ``options`` are those of :class:`GenerationOptions`. Raises
        :class:`BackboneError` where the backbone cannot write.
        """
        chosen = validated(GenerationOptions, options, "writing")
        given = [text(item, f"text {number}") for number, item in enumerate(listed(texts, *TEXTS))]
        batch = size(batch_size, "batch size")
        answers: list[str] = []
        with self.boarding(_one_each(names, given, "texts")) as rows:
            for start in range(0, len(given), batch):
                part = slice(start, start + batch)
                answers += generate(self, rows[part], given[part], chosen)
        return answers


def _one_each(names: Any, inputs: Sequence[Any], what: str) -> list[Any]:
    every = [names] * len(inputs) if names is None or isinstance(names, str) else listed(names, *NAMES)
    if len(every) != len(inputs):
        raise UsageError(f"{len(every)} adapter names for {len(inputs)} {what}: give one name, or one for each")
    return every
