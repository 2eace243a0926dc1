"""Classification by a prompt: the language model's own words for the classes, without a trained head.

A text fills a template, and the probability of a class is that of its words (its verbaliser) in the blank:
pattern-exploiting training (Schick and Schütze 2021, arXiv:2001.07676) in the form of LM-BFF (Gao et al. 2021,
arXiv:2012.15723), with the cross entropy over these words alone as loss. The logit of a class is the mean of its words'
logits. It works without training, and learns from few examples.

A template with ``[MASK]`` is for bidirectional backbones. Without it the answer is the next token of a causal model, or
the first token of a decoder. The LM head of a masked model is that of ``mlm``: a trained transform before the frozen
input embeddings.
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
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.labels.classification_options import ClassificationOptions
from adaptdock.tasks.writing.language_modelling import NOT_COUNTED, window
from adaptdock.tasks.writing.prompts import Token, checked_template, fill, leading, plain, read_whole, shortened, tokens

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
"""For each class, the tokens of its words."""


class PromptedOptions(ClassificationOptions):
    """Options of ``prompted``."""

    template: str = Field("{text}\\nCategory:", validate_default=True)
    """Prompt with {text} (and {second}); a bidirectional backbone fills [MASK], others continue the prompt."""
    verbalizer: tuple[str, ...] = ()
    """Words of each class, such as positive=great|good,negative=terrible; by default the name of the class."""
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
            raise ValueError("a prompt has one blank: it assigns one label to a text, not several (multi_label)")
        return self

    @property
    def masked(self) -> bool:
        """Whether the template contains the blank."""
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
        return torch.stack([hidden[..., list(tokens)].mean(-1) for tokens in self.words], dim=-1)


class MaskedVerbalizerHead(MaskedLanguageHead):
    """A masked language model's logits at the words of each class: (R, T, W) -> (R, T, classes)."""

    def __init__(self, words: Words) -> None:
        self.words = words

    @property
    def stack_key(self) -> Hashable:
        """Other words are another operation."""
        return type(self).__name__, self.words

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tied, mask: Tensor) -> Tensor:
        """Return the mean logit of each class's words (R, T, classes), computing only these columns of the LM head."""
        needed = [token for tokens in self.words for token in tokens]
        logits = super().apply(parameters, Tied(hidden.states, hidden.embeddings[needed]), mask)
        parts = torch.split(logits, [len(tokens) for tokens in self.words], dim=-1)
        return torch.stack([part.mean(-1) for part in parts], dim=-1)


class Prompted(Classification):
    """Gives a text one of several labels, by the words that a language model expects in a blank."""

    Options = PromptedOptions
    options: PromptedOptions
    measured_before = True
    recipes = RECIPES
    default_recipe = Recipe(batch_size=8)

    # ------------------------------------------------------------------------------------- words

    def suit(self, reading: Reading) -> Self:
        """Find the token of each word; raise :class:`UsageError` for a word of several tokens."""
        _check_blank(self.options, reading)
        words = self._verbalizer()
        tokens_by_label = {
            label: [self._token(label, word, reading) for word in words[label]] for label in self.options.labels
        }
        label_by_token: dict[int, str] = {}
        for label, candidates in tokens_by_label.items():
            for token in candidates:
                if label_by_token.setdefault(token, label) != label:
                    word = reading.tokenizer.decode([token]).strip()
                    raise UsageError(
                        f"the word {word!r} stands for {label_by_token[token]!r} and for {label!r}: give others"
                    )
        return type(self)(self.options.model_copy(update={"words": tokens_by_label}))

    def _verbalizer(self) -> dict[str, list[str]]:
        """Return the words of each label; raise :class:`UsageError` for an unknown label."""
        words_by_label = {}
        for entry in self.options.verbalizer:
            label, _, words = entry.partition("=")
            words_by_label[label.strip()] = [word.strip() for word in words.split("|")]
        wrong = next((label for label in words_by_label if label not in self.options.labels), None)
        if wrong is not None:
            classes = ", ".join(self.options.labels)
            raise UsageError(f"the verbalizer names the label {wrong!r}, which is not in the data: {classes}")
        return {label: words_by_label.get(label, [label]) for label in self.options.labels}

    def _token(self, label: str, word: str, reading: Reading) -> int:
        ids = self._ids(word, reading)
        tokenizer = reading.tokenizer
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return ids[0]
        pieces = " ".join(tokenizer.convert_ids_to_tokens(ids))
        near = ", ".join(self._near(word, reading))
        raise UsageError(
            f"the word {word!r} of the label {label!r} is {len(ids)} tokens of this backbone ({pieces}), and a blank "
            f"has room for one: choose another word for it by --verbalizer"
            f"{f', such as {near}' if near else ''}"
        )

    def _ids(self, word: str, reading: Reading) -> list[int]:
        """Return the tokens of a word in the blank, including the space before it where the template needs one."""
        before = self.options.template.partition(MASK)[0]
        spaced = word if not before or (before[-1].isspace() and before[-1] != " ") else f" {word}"
        if reading.decoder_start is not None:
            return list(reading.tokenizer(word, add_special_tokens=False)["input_ids"])
        if self.options.masked:
            spaced = f" {word}" if before.endswith(" ") else word
            return list(reading.tokenizer(spaced, add_special_tokens=False)["input_ids"])
        prompt = fill(self.options.template, dict.fromkeys(FIELDS, "a"))
        return [token.id for token in tokens(plain(prompt, None, spaced), reading.tokenizer, []) if token.written]

    def _near(self, word: str, reading: Reading) -> list[str]:
        """Return the most similar words that are a single token."""
        vocabulary = {token.lstrip("\u0120\u2581") for token in reading.tokenizer.get_vocab()}
        near = get_close_matches(word, [name for name in vocabulary if name.isalpha()], n=8, cutoff=0.5)
        return [name for name in near if len(self._ids(name, reading)) == 1][:3]

    # ------------------------------------------------------------------------------------- model

    def head(self) -> Head:
        """Return a head that selects the logits of the classes' words."""
        words = tuple(tuple(self.options.words[label]) for label in self.options.labels)
        return MaskedVerbalizerHead(words) if self.options.masked else VerbalizerHead(words)

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Fill the template; a too long text is cut at its end, and ``cut`` counts the tokens."""
        _check_blank(self.options, reading)
        whole = self._prompt(record, reading)
        fitted = shortened(whole, reading.max_length)
        if len(fitted) > reading.max_length:
            raise DataError(f"the template alone has {len(fitted)} tokens, and windows have {reading.max_length}")
        ids = [token.id for token in fitted]
        position = len(ids) - 1
        if self.options.masked:
            mask = reading.tokenizer.mask_token_id
            position = next(place for place, token in enumerate(fitted) if token.id == mask and not token.of_field)
        feature = window(reading.tokenizer, ids, position)
        feature.cut = len(whole) - len(fitted)
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
        """Return the cross entropy of the classes (..., classes) at the labelled positions."""
        return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), weights)

    def digest(self, feature: Feature, logits: Tensor) -> Tensor:
        """Return the logits (classes) at the blank, in place of the logits of all positions."""
        return logits[feature.alignment]

    def decode(self, record: Record, features: Sequence[Any], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the label with its score, as in classification, and the number of cut tokens, if any."""
        cut = {"cut_tokens": features[0].cut} if features[0].cut else {}
        return super().decode(record, features, digests) | cut


def _check_blank(options: PromptedOptions, reading: Reading) -> None:
    """Raise :class:`BackboneError` if the backbone cannot fill the template's blank."""
    writes = reading.causal or reading.decoder_start is not None
    if options.masked and (writes or reading.tokenizer.mask_token_id is None):
        raise BackboneError(
            f"the template has {MASK}, which a generative backbone, or a backbone without a mask token, cannot "
            f"fill: let the template end where the answer begins"
        )
    if not options.masked and not writes:
        raise BackboneError(
            f"the backbone is bidirectional and generates nothing: put {MASK} into the template where the word "
            f"belongs, such as --template '{{text}} It was {MASK}.', or take a language model (--backbone smollm2)"
        )
