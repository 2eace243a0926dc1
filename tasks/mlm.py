"""Masked language modelling: masked tokens of texts without labels, for a bidirectional backbone.

15 % of the tokens of a block are predicted; 80 % of these become the mask token, 10 % a random token, and 10 % stay
(Devlin et al. 2019). The selection depends on the block alone, so validation always predicts the same tokens. Features
are made once for all epochs, so training data is masked in several copies, which mask different tokens while there are
any. Texts are joined by the tokenizer's separator, and each block is framed by the special tokens of a text.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from adaptdock.errors import BackboneError, DataError
from adaptdock.plugins.contracts import Cleaned, Feature, Reading, Recipe, Record
from adaptdock.plugins.toolkit.heads import MaskedLanguageHead
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.tasks.writing.language_modelling import (
    RECIPES,
    LanguageModelling,
    LanguageModellingOptions,
    Targets,
    blocks,
    frame,
    measures,
    tokenise,
    window,
)

MASK = "[MASK]"
PROBE_WORDS = 15
HIDDEN, RANDOM = 0.8, 0.1
"""Shares of the predicted tokens that become the mask token, and a random token."""


class MLMOptions(LanguageModellingOptions):
    """Options of ``mlm``."""

    mask_share: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens to predict."""
    copies: int = Field(4, gt=0)
    """Copies of each training block in an epoch, each with other tokens masked."""
    guesses: int = Field(5, gt=0)
    """Number of tokens that a prediction suggests for each mask."""


@dataclass(frozen=True)
class Blanks:
    """The positions of the masks to fill in a window."""

    positions: list[int]
    tokenizer: Any


class MLM(LanguageModelling):
    """Predicts masked tokens: a domain adapter for an encoder."""

    Options = MLMOptions
    options: MLMOptions
    sample = Path(__file__).parent / "samples" / "mlm"
    recipes = RECIPES
    default_recipe = Recipe(batch_size=8)

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Join the texts of a split; training data gets several copies, masked differently."""
        cleaned = super().clean(records, split)
        copies = self.options.copies if split == "train" else 1
        return Cleaned(stored({**record, "copies": copies} for record in cleaned.records), cleaned.notes)

    def head(self) -> MaskedLanguageHead:
        """Return a trained transform followed by the frozen input embeddings."""
        return MaskedLanguageHead()

    def read(self, item: Any) -> Record:
        """Read a text, or an object with ``text``, to fill each ``[MASK]``."""
        text = item.get("text") if isinstance(item, Mapping) else item
        if not isinstance(text, str):
            raise DataError(f"mlm reads a text, or an object with 'text'; found {type(item).__name__}")
        return {"text": text}

    def probe(self, record: Record) -> str | None:
        """Return the beginning of a raw record's text with its middle word masked."""
        words = str(record["text"]).split()[:PROBE_WORDS]
        return " ".join(MASK if place == len(words) // 2 else word for place, word in enumerate(words)) or None

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Mask the blocks of a record's texts, or find the masks of a text to fill."""
        tokenizer = reading.tokenizer
        if tokenizer.mask_token_id is None:
            raise BackboneError(
                f"{type(tokenizer).__name__} has no mask token: mlm is for backbones trained with a mask token, such "
                f"as BERT; causal language models have the task clm"
            )
        before, after = frame(tokenizer)
        room = reading.max_length - len(before) - len(after)
        if room < 1:
            raise BackboneError(f"windows of {reading.max_length} tokens have no room for text")
        if "texts" not in record:
            return _to_fill(record["text"], tokenizer, room)
        masker = _Masker(tokenizer, self.options.mask_share)
        features = []
        for number, block in enumerate(blocks(_stream(record["texts"], tokenizer), room)):
            for copy in range(record["copies"]):
                ids, targets = masker.mask([*before, *block, *after], number, copy)
                if targets.positions:  # a block of special tokens has nothing to predict
                    feature = window(tokenizer, ids, targets)
                    feature.labels = targets.labels(len(ids)) if labelled else None
                    features.append(feature)
        return features

    def digest(self, feature: Feature, logits: Tensor) -> Tensor:
        """Return (3) in place of logits (T, V); for masks to fill (masks, 2 * guesses), scores before token ids."""
        if isinstance(feature.alignment, Blanks):
            best = logits[feature.alignment.positions].float().softmax(-1).topk(self.options.guesses)
            return torch.cat([best.values, best.indices.float()], dim=-1)
        targets: Targets = feature.alignment
        return targets.measure(logits)

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the text with filled masks and the guesses for each, or the perplexity of masked texts."""
        if "texts" in record:
            return measures(digests)
        guesses = []
        for feature, digest in zip(features, digests, strict=True):
            for row in digest:
                scores, tokens = row.tensor_split(2)
                guesses.append(_guesses(scores.tolist(), tokens.long().tolist(), feature.alignment.tokenizer))
        return _filled(re.split(_marks(features), record["text"]), guesses)

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Show all guesses at each mask, the best first: ``a [queen|drone, worker] lays eggs``."""
        text, end, parts = prediction["text"], 0, []
        for fill in prediction["fills"]:
            others = ", ".join(guess["token"] for guess in fill["guesses"][1:])
            parts += [text[end : fill["start"]], f"[{fill['guesses'][0]['token']}|{others}]"]
            end = fill["end"]
        return "".join([*parts, text[end:]])


class _Masker:
    """Masks tokens; the random choice depends only on the numbers of the block and of the copy."""

    def __init__(self, tokenizer: Any, share: float) -> None:
        self.mask_token, self.share = tokenizer.mask_token_id, share
        self.special = frozenset(tokenizer.all_special_ids)
        self.ordinary = [token for token in range(len(tokenizer)) if token not in self.special]

    def mask(self, ids: list[int], number: int, copy: int) -> tuple[list[int], Targets]:
        """Return a block with masked tokens, and the tokens to predict."""
        places = [place for place, token in enumerate(ids) if token not in self.special]
        # One permutation per block: consecutive copies take consecutive slices of it, so they mask different tokens.
        order = Random(number).sample(places, len(places))
        count = min(len(places), max(1, round(self.share * len(places))))
        masked = sorted(order[(copy * count + place) % len(order)] for place in range(count))
        draw, hidden = Random(f"{number} {copy}"), list(ids)
        for place in masked:
            fate = draw.random()
            if fate < HIDDEN:
                hidden[place] = self.mask_token
            elif fate < HIDDEN + RANDOM:
                hidden[place] = draw.choice(self.ordinary)
        return hidden, Targets(masked, [ids[place] for place in masked])


def _stream(texts: Sequence[str], tokenizer: Any) -> list[int]:
    """Return the tokens of texts, joined by the separator or end-of-text token."""
    between = next((token for token in (tokenizer.sep_token_id, tokenizer.eos_token_id) if token is not None), None)
    ids: list[int] = []
    for text in texts:
        ids += [between] if ids and between is not None else []
        ids += tokenise(tokenizer, text)
    return ids


def _to_fill(text: str, tokenizer: Any, room: int) -> list[Feature]:
    """Return the windows of a text with a mask."""
    before, after = frame(tokenizer)
    features = []
    for block in blocks(tokenise(tokenizer, text.replace(MASK, tokenizer.mask_token)), room):
        ids = [*before, *block, *after]
        positions = [place for place, token in enumerate(ids) if token == tokenizer.mask_token_id]
        if positions:
            features.append(window(tokenizer, ids, Blanks(positions, tokenizer)))
    return features


def _marks(features: Sequence[Feature]) -> str:
    """Return a pattern of ``[MASK]`` and the tokenizer's own mask token."""
    return "|".join(
        re.escape(mark) for mark in {MASK, *(feature.alignment.tokenizer.mask_token for feature in features)}
    )


def _guesses(scores: Sequence[float], tokens: Sequence[int], tokenizer: Any) -> list[dict[str, Any]]:
    return [
        {"token": tokenizer.decode([token]).strip(), "score": round(score, 4)}
        for score, token in zip(scores, tokens, strict=True)
    ]


def _filled(pieces: Sequence[str], guesses: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the pieces joined by the best guesses, and the spans of these guesses."""
    text, fills = pieces[0], []
    for piece, offered in zip(pieces[1:], guesses, strict=True):
        best = offered[0]["token"]
        fills.append({"start": len(text), "end": len(text) + len(best), "guesses": offered})
        text += best + piece
    return {"text": text, "fills": fills}
