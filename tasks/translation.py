"""Translation: a text of one language written in another.

An encoder-decoder reads the text as it is, a decoder reads it in a prompt. Written translations are compared by
BLEU (Papineni et al., 2002) and chrF (Popović, 2015) of the whole split, by sacrebleu with its own settings.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Cleaned, Reading, Record
from adaptdock.tasks.prompts import Asked, fill
from adaptdock.tasks.writing import Writing, WritingOptions, given, joined, required_text, required_texts, several


class TranslationOptions(WritingOptions):
    """Options of ``translation``."""

    named = ("source",)

    source_lang: str = ""
    """Language to translate from, named in the prompt; where data holds texts by language, its key there."""
    target_lang: str = ""
    """Language to translate to, as above."""


class Translation(Writing):
    """Writes translations."""

    Options = TranslationOptions
    options: TranslationOptions
    columns = {
        "source": ("source", "src", "source_text", "translation"),
        "target": ("target", "tgt", "target_text", "translation"),
    }
    sample = Path(__file__).parent / "samples" / "translation"

    @classmethod
    def group(cls, record: Record) -> Hashable:
        """Keep the translations of one text in one split; of texts by language, the first language's."""
        source = record["source"]
        return str(next(iter(source.values()), "")) if isinstance(source, Mapping) else str(source)

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Take the two languages out of each record, and make a list of the translations."""
        cleaned = []
        for record in records:
            where = str(record.get("where", split))
            source = required_text(self._in(record["source"], "source_lang", where), "source", where)
            target = required_texts(self._in(record["target"], "target_lang", where), "target", where)
            cleaned.append({**record, "source": source, "target": target})
        return Cleaned(cleaned, several(cleaned, "target", split))

    def read(self, item: Any) -> Record:
        """Read a text, or an object with one under a name that data sets use, such as ``source``."""
        found = given(item, self.columns["source"]) if isinstance(item, Mapping) else item
        return {"source": joined(self._in(found, "source_lang", "an input"), "source", "an input")}

    def ask(self, record: Record, reading: Reading) -> Asked:
        """Fill the prompt with the text."""
        return fill(self.options.prompt or self._own(reading), {"source": record["source"]})

    def references(self, record: Record) -> list[str]:
        """Return the translations."""
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

    def _own(self, reading: Reading) -> str:
        if reading.decoder_start is not None:
            return "{source}"
        named = (("from", self.options.source_lang), ("to", self.options.target_lang))
        told = "".join(f" {word} {language}" for word, language in named if language)
        return f"Translate{told.replace('{', '{{').replace('}', '}}')}:\n{{source}}\n\nTranslation:\n"

    def _in(self, value: Any, option: str, where: str) -> Any:
        """Return a text in the language that an option names, of texts by language; anything else as it is."""
        if not isinstance(value, Mapping):
            return value
        language, flag = getattr(self.options, option), f"--{option.replace('_', '-')}"
        if language not in value:
            raise DataError(
                f"{where}: there are translations in {', '.join(value)}; {flag} says which, not {language!r}"
            )
        return value[language]
