"""Causal language modelling: the next token of texts without labels, by the frozen LM head.

Texts form one stream, each with the special tokens that the tokenizer puts around it. Where it puts none, its token for
the beginning (or end) of a text comes first. The label of position t of a block is token t + 1 of the stream, so every
token but the first is predicted once.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from adaptdock.errors import BackboneError, DataError
from adaptdock.plugins.contracts import Feature, Reading, Recipe, Record
from adaptdock.plugins.toolkit.heads import LanguageModelHead, VocabularyHead, VocabularyOptions
from adaptdock.tasks.writing.language_modelling import (
    RECIPES,
    LanguageModelling,
    LanguageModellingOptions,
    Targets,
    blocks,
    characters,
    frame,
    measures,
    tokenise,
    window,
)


class CLMOptions(VocabularyOptions, LanguageModellingOptions):
    """Options of ``clm``."""


class CLM(LanguageModelling):
    """Predicts the next token: a domain adapter for a causal language model."""

    Options = CLMOptions
    options: CLMOptions
    measured_before = True
    sample = Path(__file__).parent / "samples" / "clm"
    recipes = RECIPES
    default_recipe = Recipe(batch_size=8)

    def fit(self, records: Sequence[Record]) -> Self:
        """Return this task; raise :class:`UsageError` for an LM head of the adapter's own, which is not trained."""
        self.options.check_trained()
        return self

    def head(self) -> LanguageModelHead | VocabularyHead:
        """Return the frozen LM head, or an imported one of the adapter's own."""
        return self.options.language_head()

    def read(self, item: Any) -> Record:
        """Read a text, or an object with ``text``, to measure its perplexity."""
        text = item.get("text") if isinstance(item, Mapping) else item
        if not isinstance(text, str):
            raise DataError(f"clm reads a text, or an object with 'text'; found {type(item).__name__}")
        return {"texts": [text]}

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Cut the stream of a record's texts into blocks, labelled with the next token at each position."""
        if not reading.causal:
            raise BackboneError(
                "clm predicts the next token, which a bidirectional backbone sees: take a causal language model "
                "(such as --backbone smollm2), or the task mlm"
            )
        ids = _stream(record["texts"], reading.tokenizer)
        features = []
        for inputs, following in zip(
            blocks(ids[:-1], reading.max_length), blocks(ids[1:], reading.max_length), strict=True
        ):
            feature = window(reading.tokenizer, inputs, Targets(range(len(inputs)), following))
            feature.labels = list(following) if labelled else None
            features.append(feature)
        return features

    def digest(self, feature: Feature, logits: Tensor) -> Tensor:
        """Return (3) in place of logits (T, V): negative log-likelihood, tokens, tokens guessed right."""
        targets: Targets = feature.alignment
        return targets.measure(logits)

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return perplexity and log-likelihood of the text, and its bits per character."""
        totals = measures(digests)
        length = characters(record)
        return {**totals, "bits_per_character": _bits(totals["log_likelihood"], length) if length else None}

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return perplexity, accuracy and bits per character, which do not depend on the tokenizer."""
        likelihood = sum(prediction["log_likelihood"] for prediction in predictions)
        bits = _bits(likelihood, sum(map(characters, records)))
        return {**super().score(records, predictions), "bits_per_character": bits}

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Return perplexity and bits per character as a phrase."""
        if not prediction["tokens"]:
            return "no token to predict"
        bits = prediction["bits_per_character"]
        return (
            f"perplexity {prediction['perplexity']:.2f} over {prediction['tokens']} tokens, {bits:.3f} bits a character"
        )


def _stream(texts: Sequence[str], tokenizer: Any) -> list[int]:
    front, back = frame(tokenizer)
    if not front and not back:
        front = [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None][:1]
    return [token for text in texts for token in (*front, *tokenise(tokenizer, text), *back)]


def _bits(log_likelihood: float, length: int) -> float:
    return round(-log_likelihood / math.log(2) / length, 4)
