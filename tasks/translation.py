"""Translation: a text of one language in another language.

An encoder-decoder reads the text as it is, a decoder reads it in a prompt. Generated translations are measured by BLEU
(Papineni et al., 2002) and chrF (Popović, 2015) of the whole split, by sacrebleu with its default settings.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Cleaned, Reading, Record
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.tasks.writing.prompts import Conversation, fill
from adaptdock.tasks.writing.written_answers import (
    Writing,
    WritingOptions,
    first_value,
    joined,
    required_text,
    required_texts,
    several,
)


class TranslationOptions(WritingOptions):
    """Options of ``translation``."""

    prompt_fields = ("source",)

    source_lang: str = ""
    """Source language for the prompt; also its key in data with texts by language."""
    target_lang: str = ""
    """Target language, likewise."""


class Translation(Writing):
    """Generates translations."""

    Options = TranslationOptions
    options: TranslationOptions
    columns = {
        "source": ("source", "src", "source_text", "translation"),
        "target": ("target", "tgt", "target_text", "translation"),
    }
    sample = Path(__file__).parent / "samples" / "translation"

    @classmethod
    def group(cls, record: Record) -> Hashable:
        """Return the source text, whose translations all go into the same split; of texts by language, the first."""
        source = record["source"]
        return str(next(iter(source.values()), "")) if isinstance(source, Mapping) else str(source)

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Select the two languages of each record, and make a list of the translations."""

        def in_two_languages(record: Record) -> Record:
            where = str(record.get("where", split))
            source = required_text(self._in(record["source"], "source_lang", where), "source", where)
            target = required_texts(self._in(record["target"], "target_lang", where), "target", where)
            return {**record, "source": source, "target": target}

        cleaned = stored(map(in_two_languages, records))
        return Cleaned(cleaned, several(cleaned, "target", split))

    def read(self, item: Any) -> Record:
        """Read a text, or an object with a text in a field such as ``source``."""
        value = first_value(item, self.columns["source"]) if isinstance(item, Mapping) else item
        return {"source": joined(self._in(value, "source_lang", "an input"), "source", "an input")}

    def ask(self, record: Record, reading: Reading) -> Conversation:
        """Return the prompt template, filled with the text."""
        return fill(self.options.prompt or self._default_prompt(reading), {"source": record["source"]})

    def references(self, record: Record) -> list[str]:
        """Return the reference translations."""
        return list(record["target"])

    def compare(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return BLEU and chrF, 0 to 100."""
        import sacrebleu

        texts = [prediction["text"] for prediction in predictions]
        streams = list(zip_longest(*map(self.references, records)))
        return {
            "bleu": round(sacrebleu.corpus_bleu(texts, streams).score, 2),
            "chrf": round(sacrebleu.corpus_chrf(texts, streams).score, 2),
        }

    def _default_prompt(self, reading: Reading) -> str:
        if reading.decoder_start is not None:
            return "{source}"
        languages = (("from", self.options.source_lang), ("to", self.options.target_lang))
        direction = "".join(f" {word} {language}" for word, language in languages if language)
        return f"Translate{direction.replace('{', '{{').replace('}', '}}')}:\n{{source}}\n\nTranslation:\n"

    def _in(self, value: Any, option: str, where: str) -> Any:
        """Return the text in the language of an option, from texts by language; anything else as it is."""
        if not isinstance(value, Mapping):
            return value
        language, flag = getattr(self.options, option), f"--{option.replace('_', '-')}"
        if language not in value:
            raise DataError(
                f"{where}: there are translations in {', '.join(value)}; {flag} says which, not {language!r}"
            )
        return value[language]
