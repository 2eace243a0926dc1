"""Classification by a prompt: the language model's own words for the classes, and no trained head.

A text fills a template, and a class is as likely as the words that stand for it (its verbaliser) are in the blank:
pattern-exploiting training (Schick and Schütze 2021, arXiv:2001.07676) as LM-BFF does it (Gao et al. 2021,
arXiv:2012.15723), the loss being the cross entropy over those words alone. The logit of a class is the mean of its
words' logits. It works before any training, and with few examples after some.

A template with ``[MASK]`` is for backbones that read both ways, without it the answer follows: it is the next token of
a causal model, or the first one that a decoder writes. Of a masked model the map to the vocabulary is that of ``mlm``:
a transform that is trained, before the frozen input embeddings.
"""

from collections.abc import Hashable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import BackboneError, DataError, UsageError
from adaptdock.plugins.contracts import Feature, Head, Reading, Recipe, Record, Tied
from adaptdock.plugins.toolkit.heads import LanguageModelHead, MaskedLanguageHead
from adaptdock.tasks.classification import Classification, ClassificationOptions
from adaptdock.tasks.language_modelling import NOT_COUNTED, window
from adaptdock.tasks.prompts import Token, checked_template, fill, leading, plain, read_whole, shortened, tokens

MASK = "[MASK]"
FIELDS = ("text", "second")
RECIPES = {
    "lora": Recipe(learning_rate=5e-4, epochs=5, batch_size=8, method_options={"roles": ["all"]}),
    "bottleneck": Recipe(
        learning_rate=1e-3, epochs=5, batch_size=8, method_options={"parallel": True, "activation": "gelu"}
    ),
    "prefix": Recipe(
        learning_rate=1e-3, epochs=5, batch_size=8, method_options={"length": 8, "learning_rate_factor": 40}
    ),
}

Words = tuple[tuple[int, ...], ...]
"""For each class, the tokens that stand for it."""


class PromptedOptions(ClassificationOptions):
    """Options of ``prompted``."""

    template: str = Field("{text}\\nCategory:", validate_default=True)
    """Prompt with {text} (and {second}); [MASK] is the blank for a backbone that reads both ways, else what follows."""
    verbalizer: tuple[str, ...] = ()
    """Words of each class, such as positive=great|good,negative=terrible; its own name unless given."""
    words: dict[str, list[int]] = Field(default_factory=dict)
    """Their tokens, learnt from the tokenizer."""

    @field_validator("template")
    @classmethod
    def _names_the_text(cls, template: str) -> str:
        if template.count(MASK) > 1:
            raise ValueError(f"a template has one {MASK} or none")
        return checked_template(template, FIELDS).rstrip(" ")

    @field_validator("verbalizer")
    @classmethod
    def _names_words(cls, verbalizer: tuple[str, ...]) -> tuple[str, ...]:
        for entry in verbalizer:
            label, equals, words = entry.partition("=")
            if not label.strip() or not equals or not all(word.strip() for word in words.split("|")):
                raise ValueError(f"write LABEL=WORD, or LABEL=WORD|WORD, not {entry!r}")
        return verbalizer

    @model_validator(mode="after")
    def _one_label(self) -> Self:
        if self.multi_label:
            raise ValueError("a prompt has one blank: it gives a text one label, not several (multi_label)")
        return self

    @property
    def masked(self) -> bool:
        """Whether the blank stands in the template."""
        return MASK in self.template


class VerbalizerHead(LanguageModelHead):
    """The frozen language model's logits at the words of each class: (R, T, V) -> (R, T, classes)."""

    def __init__(self, words: Words) -> None:
        self.words = words

    @property
    def stack_key(self) -> Hashable:
        """Other words are another operation."""
        return type(self).__name__, self.words

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the mean logit of each class's words (R, T, classes)."""
        return torch.stack([hidden[..., list(own)].mean(-1) for own in self.words], dim=-1)


class MaskedVerbalizerHead(MaskedLanguageHead):
    """A masked language model's logits at the words of each class: (R, T, W) -> (R, T, classes)."""

    def __init__(self, words: Words) -> None:
        self.words = words

    @property
    def stack_key(self) -> Hashable:
        """Other words are another operation."""
        return type(self).__name__, self.words

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tied, mask: Tensor) -> Tensor:
        """Return the mean logit of each class's words (R, T, classes); no other word is computed."""
        wanted = [token for own in self.words for token in own]
        logits = super().apply(parameters, Tied(hidden.states, hidden.embeddings[wanted]), mask)
        parts = torch.split(logits, [len(own) for own in self.words], dim=-1)
        return torch.stack([part.mean(-1) for part in parts], dim=-1)


class Prompted(Classification):
    """Gives a text one of several labels by what a language model would write in a blank."""

    Options = PromptedOptions
    options: PromptedOptions
    measured_before = True
    recipes = RECIPES
    default_recipe = Recipe(batch_size=8)

    # ------------------------------------------------------------------------------------- words

    def suit(self, reading: Reading) -> Self:
        """Find the token of each word; raise :class:`UsageError` for words that are no single token."""
        _check_blank(self.options, reading)
        given = self._verbalizer()
        found = {label: [self._token(label, word, reading) for word in given[label]] for label in self.options.labels}
        taken: dict[int, str] = {}
        for label, own in found.items():
            for token in own:
                if taken.setdefault(token, label) != label:
                    word = reading.tokenizer.decode([token]).strip()
                    raise UsageError(f"the word {word!r} stands for {taken[token]!r} and for {label!r}: give others")
        return type(self)(self.options.model_copy(update={"words": found}))

    def _verbalizer(self) -> dict[str, list[str]]:
        """Return the words of each label; raise :class:`UsageError` where a label is none of the classes."""
        named = {}
        for entry in self.options.verbalizer:
            label, _, words = entry.partition("=")
            named[label.strip()] = [word.strip() for word in words.split("|")]
        wrong = next((label for label in named if label not in self.options.labels), None)
        if wrong is not None:
            known = ", ".join(self.options.labels)
            raise UsageError(f"the verbalizer names the label {wrong!r}, which is none of those in the data: {known}")
        return {label: named.get(label, [label]) for label in self.options.labels}

    def _token(self, label: str, word: str, reading: Reading) -> int:
        ids = self._ids(word, reading)
        tokenizer = reading.tokenizer
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return ids[0]
        pieces = " ".join(tokenizer.convert_ids_to_tokens(ids))
        near = ", ".join(self._near(word, reading))
        raise UsageError(
            f"the word {word!r} of the label {label!r} is {len(ids)} tokens of this backbone ({pieces}), and a blank "
            f"has room for one: choose by --verbalizer another word for it"
            f"{f', such as {near}' if near else ''}"
        )

    def _ids(self, word: str, reading: Reading) -> list[int]:
        """Return the tokens of a word as it would stand in the blank."""
        before = self.options.template.partition(MASK)[0]
        spaced = word if not before or (before[-1].isspace() and before[-1] != " ") else f" {word}"
        if reading.decoder_start is not None:
            return list(reading.tokenizer(word, add_special_tokens=False)["input_ids"])
        if self.options.masked:
            spaced = f" {word}" if before.endswith(" ") else word
            return list(reading.tokenizer(spaced, add_special_tokens=False)["input_ids"])
        asked = fill(self.options.template, dict.fromkeys(FIELDS, "a"))
        return [token.id for token in tokens(plain(asked, None, spaced), reading.tokenizer, []) if token.written]

    def _near(self, word: str, reading: Reading) -> list[str]:
        """Return the words most like one that are a single token."""
        known = {token.lstrip("\u0120\u2581") for token in reading.tokenizer.get_vocab()}
        near = get_close_matches(word, [name for name in known if name.isalpha()], n=8, cutoff=0.5)
        return [name for name in near if len(self._ids(name, reading)) == 1][:3]

    # ------------------------------------------------------------------------------------- model

    def head(self) -> Head:
        """Return what picks the words of the classes."""
        words = tuple(tuple(self.options.words[label]) for label in self.options.labels)
        return MaskedVerbalizerHead(words) if self.options.masked else VerbalizerHead(words)

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Fill the template; of a text that is too long the end is cut, and ``cut`` counts its tokens."""
        _check_blank(self.options, reading)
        whole = self._prompt(record, reading)
        kept = shortened(whole, reading.max_length)
        if len(kept) > reading.max_length:
            raise DataError(f"the template alone has {len(kept)} tokens, and windows have {reading.max_length}")
        ids = [token.id for token in kept]
        position = len(ids) - 1
        if self.options.masked:
            mask = reading.tokenizer.mask_token_id
            position = next(place for place, token in enumerate(kept) if token.id == mask and not token.of_field)
        feature = window(reading.tokenizer, ids, position)
        feature.cut = len(whole) - len(kept)
        length = len(ids)
        if reading.decoder_start is not None:
            feature.inputs |= {"decoder_input_ids": [reading.decoder_start], "decoder_attention_mask": [1]}
            feature.alignment, length = 0, 1
        if labelled:
            feature.labels = [NOT_COUNTED] * length
            feature.labels[feature.alignment] = self.target(record)
        return [feature]

    def _prompt(self, record: Record, reading: Reading) -> list[Token]:
        tokenizer, template = reading.tokenizer, self.options.template
        if "{second}" in template and record.get("second") is None:
            raise DataError(f"{record.get('where', 'an input')}: the template asks for {{second}}, and there is none")
        values = {name: record.get(name) or "" for name in FIELDS}
        if self.options.masked:
            template = template.replace(MASK, tokenizer.mask_token)
        script = plain(fill(template, values), None, None)
        if self.options.masked or reading.decoder_start is not None:
            return read_whole(script, tokenizer)
        return tokens(script, tokenizer, leading(tokenizer))

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the cross entropy of the classes (..., classes) where there is a label."""
        return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), weights)

    def digest(self, feature: Feature, logits: Tensor) -> Tensor:
        """Return the logits (classes) at the blank, in place of those at each position."""
        return logits[feature.alignment]

    def decode(self, record: Record, features: Sequence[Any], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the label with its score, as classification does, and how many tokens were cut, if any."""
        cut = {"cut_tokens": features[0].cut} if features[0].cut else {}
        return super().decode(record, features, digests) | cut


def _check_blank(options: PromptedOptions, reading: Reading) -> None:
    """Raise :class:`BackboneError` where the template's blank is one that the backbone cannot fill."""
    writes = reading.causal or reading.decoder_start is not None
    if options.masked and (writes or reading.tokenizer.mask_token_id is None):
        raise BackboneError(
            f"the template has {MASK}, a blank that a backbone without a mask token, or one that writes, cannot fill: "
            f"let the template end where the answer begins"
        )
    if not options.masked and not writes:
        raise BackboneError(
            f"the backbone reads both ways and writes nothing: put {MASK} into the template where the word belongs, "
            f"such as --template '{{text}} It was {MASK}.', or take a language model (--backbone smollm2)"
        )
