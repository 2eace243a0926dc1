"""Masked language modelling: hidden tokens of texts without labels, for a backbone that reads both ways.

Of the tokens of a block 15 % are chosen; of these 80 % become the mask token, 10 % a random token and 10 % stay
(Devlin et al. 2019). Which ones depends on the block alone, so validation always asks the same. Features are made
once for all epochs; training data are therefore masked in several copies, which hide different tokens as long as
there are any. Texts follow each other, divided by the tokenizer's token for that, and each block stands between the
special tokens of a text.
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
from adaptdock.tasks.language_modelling import (
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
"""Shares of the chosen tokens that become the mask token, and a random one."""


class MLMOptions(LanguageModellingOptions):
    """Options of ``mlm``."""

    mask_share: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens that are to be predicted."""
    copies: int = Field(4, gt=0)
    """Times that each training block stands in an epoch, each time with other tokens masked."""
    guesses: int = Field(5, gt=0)
    """Tokens that a prediction offers for each mask."""


@dataclass(frozen=True)
class Blanks:
    """The masks of a window that is to be filled."""

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
        """Join the texts of a split; those of the training data are masked in several copies."""
        cleaned = super().clean(records, split)
        copies = self.options.copies if split == "train" else 1
        return Cleaned([{**record, "copies": copies} for record in cleaned.records], cleaned.notes)

    def head(self) -> MaskedLanguageHead:
        """Return a trained transform before the frozen input embeddings."""
        return MaskedLanguageHead()

    def read(self, item: Any) -> Record:
        """Read a text, or an object with ``text``, in which each ``[MASK]`` is to be filled."""
        text = item.get("text") if isinstance(item, Mapping) else item
        if not isinstance(text, str):
            raise DataError(f"mlm reads a text, or an object with 'text'; found {type(item).__name__}")
        return {"text": text}

    def probe(self, record: Record) -> str | None:
        """Return the beginning of a raw record's text with its middle word masked."""
        words = str(record["text"]).split()[:PROBE_WORDS]
        return " ".join(MASK if place == len(words) // 2 else word for place, word in enumerate(words)) or None

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Mask the blocks of a record's texts; or find the masks in a text that is to be filled."""
        tokenizer = reading.tokenizer
        if tokenizer.mask_token_id is None:
            raise BackboneError(
                f"{type(tokenizer).__name__} has no mask token: mlm is for backbones that were trained with one, such "
                f"as BERT; for a causal language model there is the task clm"
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
                if targets.positions:
                    feature = window(tokenizer, ids, targets)
                    feature.labels = targets.labels(len(ids)) if labelled else None
                    features.append(feature)
        return features

    def digest(self, feature: Feature, logits: Tensor) -> Tensor:
        """Return (3) in place of logits (T, V); for masks to be filled (masks, 2 * guesses), scores before tokens."""
        if isinstance(feature.alignment, Blanks):
            best = logits[feature.alignment.positions].float().softmax(-1).topk(self.options.guesses)
            return torch.cat([best.values, best.indices.float()], dim=-1)
        targets: Targets = feature.alignment
        return targets.measure(logits)

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the text with its masks filled, and the guesses for each; or the perplexity of masked texts."""
        if "texts" in record:
            return measures(digests)
        guesses = []
        for feature, found in zip(features, digests, strict=True):
            for row in found:
                scores, tokens = row.tensor_split(2)
                guesses.append(_guesses(scores.tolist(), tokens.long().tolist(), feature.alignment.tokenizer))
        return _filled(re.split(_marks(features), record["text"]), guesses)

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Show the best guess and the others at each mask: ``a [queen|drone, worker] lays eggs``."""
        text, done, parts = prediction["text"], 0, []
        for fill in prediction["fills"]:
            others = ", ".join(guess["token"] for guess in fill["guesses"][1:])
            parts += [text[done : fill["start"]], f"[{fill['guesses'][0]['token']}|{others}]"]
            done = fill["end"]
        return "".join([*parts, text[done:]])


class _Masker:
    """Chooses and hides tokens; what it does to a block depends on nothing but the block's number and the copy's."""

    def __init__(self, tokenizer: Any, share: float) -> None:
        self.mask_token, self.share = tokenizer.mask_token_id, share
        self.special = frozenset(tokenizer.all_special_ids)
        self.ordinary = [token for token in range(len(tokenizer)) if token not in self.special]

    def mask(self, ids: list[int], number: int, copy: int) -> tuple[list[int], Targets]:
        """Return a block with tokens hidden, and which they were."""
        places = [place for place, token in enumerate(ids) if token not in self.special]
        order = Random(number).sample(places, len(places))
        count = min(len(places), max(1, round(self.share * len(places))))
        chosen = sorted(order[(copy * count + place) % len(order)] for place in range(count))
        draw, hidden = Random(f"{number} {copy}"), list(ids)
        for place in chosen:
            fate = draw.random()
            if fate < HIDDEN:
                hidden[place] = self.mask_token
            elif fate < HIDDEN + RANDOM:
                hidden[place] = draw.choice(self.ordinary)
        return hidden, Targets(chosen, [ids[place] for place in chosen])


def _stream(texts: Sequence[str], tokenizer: Any) -> list[int]:
    """Return the tokens of texts, divided by the token that stands between two."""
    between = next((token for token in (tokenizer.sep_token_id, tokenizer.eos_token_id) if token is not None), None)
    ids: list[int] = []
    for text in texts:
        ids += [between] if ids and between is not None else []
        ids += tokenise(tokenizer, text)
    return ids


def _to_fill(text: str, tokenizer: Any, room: int) -> list[Feature]:
    """Return the windows of a text in which there is a mask."""
    before, after = frame(tokenizer)
    features = []
    for block in blocks(tokenise(tokenizer, text.replace(MASK, tokenizer.mask_token)), room):
        ids = [*before, *block, *after]
        positions = [place for place, token in enumerate(ids) if token == tokenizer.mask_token_id]
        if positions:
            features.append(window(tokenizer, ids, Blanks(positions, tokenizer)))
    return features


def _marks(features: Sequence[Feature]) -> str:
    """Return a pattern of how a mask may be written."""
    return "|".join(
        re.escape(mark) for mark in {MASK, *(feature.alignment.tokenizer.mask_token for feature in features)}
    )


def _guesses(scores: Sequence[float], tokens: Sequence[int], tokenizer: Any) -> list[dict[str, Any]]:
    return [
        {"token": tokenizer.decode([token]).strip(), "score": round(score, 4)}
        for score, token in zip(scores, tokens, strict=True)
    ]


def _filled(pieces: Sequence[str], guesses: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    """Return a text with the best guess between each two pieces, and where each of them stands."""
    text, fills = pieces[0], []
    for piece, offered in zip(pieces[1:], guesses, strict=True):
        best = offered[0]["token"]
        fills.append({"start": len(text), "end": len(text) + len(best), "guesses": offered})
        text += best + piece
    return {"text": text, "fills": fills}
