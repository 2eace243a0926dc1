"""Back-translation: texts written in another language and back again, which says the same in other words.

Sennrich et al. 2016 (arXiv:1511.06709), Edunov et al. 2018 (arXiv:1808.09381).
"""

from collections.abc import Sequence
from pathlib import Path

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.registry.admission import read_adapter
from adaptdock.plugins.contracts import Backbone, LoadOptions, Writer

BATCH = 16
LONGER = 2
"""A bare model writes up to this many times the tokens of a text, whose number is rounded up to a power of two."""


def back_translated(texts: Sequence[str], through: Sequence[str], backbone: Backbone) -> list[str | None]:
    """Return texts after a translation there and one back; None for those that are too long for one of them.

    ``through`` names two adapter files of a task that writes, or two backbones that translate by themselves
    (encoder-decoders). ``backbone`` is used for adapters that belong to it. Raises :class:`UsageError` for what
    does not write.
    """
    found: list[str | None] = list(texts)
    for name in through:
        left = [text for text in found if text]
        written = iter(translator(name, backbone)(left))
        found = [next(written) if text else None for text in found]
    return found


class Translator:
    """What translates in one direction: a dock with an adapter, or a bare one."""

    def __init__(self, backbone: Backbone, adapter: AdapterFile | None) -> None:
        self.dock, self.adapter = Dock(backbone), adapter

    def __call__(self, texts: Sequence[str]) -> list[str | None]:
        """Return translations; None where there was no room for the whole text."""
        return self._bare(texts) if self.adapter is None else self._adapted(texts, self.adapter)

    def _adapted(self, texts: Sequence[str], adapter: AdapterFile) -> list[str | None]:
        name = self.dock.dock(adapter, "translator")
        try:
            if not isinstance(self.dock.assembly(name).task, Writer):
                raise UsageError(
                    f"the adapter {adapter.card.name!r} writes nothing: it is for {adapter.card.task.name}"
                )
            found = self.dock.predict(name, texts, BATCH)
        finally:
            self.dock.unload(name)
        return [None if prediction.get("cut_tokens") else str(prediction["text"]).strip() for prediction in found]

    def _bare(self, texts: Sequence[str]) -> list[str | None]:
        read, limit = self.dock.backbone.tokenizer, self.dock.backbone.max_length
        alike: dict[int, list[int]] = {}  # room -> texts that get it, whatever else there is
        for number, text in enumerate(texts):
            tokens = len(read(text, verbose=False)["input_ids"])
            if tokens <= limit:
                alike.setdefault(min(limit - 1, LONGER << tokens.bit_length()), []).append(number)
        found: dict[int, str] = {}
        for room, numbers in alike.items():
            written = self.dock.generate(None, [texts[number] for number in numbers], BATCH, max_new_tokens=room)
            found.update(zip(numbers, written, strict=True))
        return [found[number].strip() if number in found else None for number in range(len(texts))]


def translator(name: str, backbone: Backbone) -> Translator:
    """Return what an adapter file or the name of a backbone stands for.

    Raises :class:`UsageError` for a bare decoder: it goes on with a text, and does not translate it.
    """
    path = Path(name)
    if path.is_file() and path.suffix != ".gguf":
        adapter = read_adapter(path)
        mine = adapter.card.backbone
        if mine.fingerprint == backbone.fingerprint:
            return Translator(backbone, adapter)
        options = LoadOptions(drop_layers=mine.drop_layers, revision=mine.revision)
        return Translator(load_backbone(mine.id, options), adapter)
    loaded = load_backbone(name, LoadOptions())
    if not loaded.encoder_decoder:
        raise UsageError(
            f"back-translation by {name!r}: it is no encoder-decoder, so it translates nothing by itself. Name an "
            f"adapter file that was trained to translate (--task translation)"
        )
    return Translator(loaded, None)
