"""Back-translation: texts translated into another language and back, as paraphrases.

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
"""A bare model writes up to this many times the tokens of a text, rounded up to a power of two."""


def back_translated(texts: Sequence[str], through: Sequence[str], backbone: Backbone) -> list[str | None]:
    """Return texts translated there and back; None for a text that is too long for a translator.

    ``through`` names two adapter files of a task that writes, or two backbones that translate by themselves
    (encoder-decoders). ``backbone`` is reused for adapters trained on it. Raises :class:`UsageError` for an adapter
    or backbone that cannot translate.
    """
    translations: list[str | None] = list(texts)
    for name in through:
        pending = [text for text in translations if text]
        translated = iter(translator(name, backbone)(pending))
        translations = [next(translated) if text else None for text in translations]
    return translations


class Translator:
    """A translator in one direction: a dock with an adapter, or a bare backbone."""

    def __init__(self, backbone: Backbone, adapter: AdapterFile | None) -> None:
        self.dock, self.adapter = Dock(backbone), adapter

    def __call__(self, texts: Sequence[str]) -> list[str | None]:
        """Return translations; None for a text that is longer than the room."""
        return self._bare(texts) if self.adapter is None else self._adapted(texts, self.adapter)

    def _adapted(self, texts: Sequence[str], adapter: AdapterFile) -> list[str | None]:
        name = self.dock.dock(adapter, "translator")
        try:
            if not isinstance(self.dock.assembly(name).task, Writer):
                raise UsageError(
                    f"the adapter {adapter.card.name!r} writes nothing: it is for {adapter.card.task.name}"
                )
            predictions = self.dock.predict(name, texts, BATCH)
        finally:
            self.dock.unload(name)
        return [None if prediction.get("cut_tokens") else str(prediction["text"]).strip() for prediction in predictions]

    def _bare(self, texts: Sequence[str]) -> list[str | None]:
        tokenizer, limit = self.dock.backbone.tokenizer, self.dock.backbone.max_length
        by_room: dict[int, list[int]] = {}  # each text's room depends on that text alone, so neighbours change nothing
        for number, text in enumerate(texts):
            tokens = len(tokenizer(text, verbose=False)["input_ids"])
            if tokens <= limit:
                by_room.setdefault(min(limit - 1, LONGER << tokens.bit_length()), []).append(number)
        translations: dict[int, str] = {}
        for room, numbers in by_room.items():
            answers = self.dock.generate(None, [texts[number] for number in numbers], BATCH, max_new_tokens=room)
            translations.update(zip(numbers, answers, strict=True))
        return [translations[number].strip() if number in translations else None for number in range(len(texts))]


def translator(name: str, backbone: Backbone) -> Translator:
    """Return the translator of an adapter file or of a backbone's name.

    Raises :class:`UsageError` for a bare decoder, which continues a text instead of translating it.
    """
    path = Path(name)
    if path.is_file() and path.suffix != ".gguf":
        adapter = read_adapter(path)
        origin = adapter.card.backbone
        if origin.fingerprint == backbone.fingerprint:
            return Translator(backbone, adapter)
        options = LoadOptions(drop_layers=origin.drop_layers, revision=origin.revision)
        return Translator(load_backbone(origin.id, options), adapter)
    loaded = load_backbone(name, LoadOptions())
    if not loaded.encoder_decoder:
        raise UsageError(
            f"back-translation by {name!r}: it is not an encoder-decoder, so it translates nothing by itself. Name an "
            f"adapter file that was trained to translate (--task translation)"
        )
    return Translator(loaded, None)
