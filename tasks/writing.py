"""Writing: what the tasks have in common whose answers a language model writes.

On a decoder a window holds prompt and answer, x_1 ... x_n, and the end: its inputs are x_1 ... x_n, its labels
x_2 ... x_n+1, and only those of the answer count. On an encoder-decoder the encoder reads the prompt; the decoder
reads its start token and then the answer, and its labels are the answer and the end. The measure is the
perplexity of the given answers, exp(mean of -log p) over all their tokens.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import BackboneError, DataError, UsageError
from adaptdock.plugins.contracts import Feature, Reading, Recipe, Record, Writer
from adaptdock.plugins.toolkit.heads import LanguageModelHead, VocabularyHead, VocabularyOptions
from adaptdock.tasks.prompts import (
    Asked,
    Script,
    Token,
    chat,
    checked_template,
    closing,
    leading,
    plain,
    read_whole,
    shortened,
    tokens,
)

NOT_COUNTED = -100
LARGEST = 700.0
"""The greatest loss whose perplexity is a float."""


class WritingOptions(VocabularyOptions):
    """Options of every task whose answers are written."""

    named: ClassVar[tuple[str, ...]]
    """The fields that a prompt may name."""

    prompt: str | None = None
    r"""What is asked, with the record's fields in braces, \n for a line break; the task has one of its own."""
    chat: Literal["auto", "on", "off"] = "auto"
    """Ask in turns, by the chat template of the backbone's tokenizer; auto does where it has one."""
    system: str | None = None
    """What the system says first."""
    max_new_tokens: int = Field(64, gt=0)
    """Longest answer that is written, in tokens."""
    num_beams: int = Field(1, gt=0)
    """Beams of the search; 1 is greedy, or plain sampling."""
    do_sample: bool = False
    """Draw tokens by their probability instead of taking the best."""
    temperature: float = Field(1.0, gt=0)
    """Divides the logits before tokens are drawn."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw among the most probable tokens that together have this probability."""
    written: int = Field(200, ge=0)
    """Records of an evaluation for which answers are written and compared."""

    @field_validator("prompt")
    @classmethod
    def _checked(cls, value: str | None) -> str | None:
        return None if value is None else checked_template(value, cls.named)

    @model_validator(mode="after")
    def _one_search(self) -> Self:
        if self.do_sample and self.num_beams > 1:
            raise ValueError("beams and sampling are two ways to search: give num_beams or do_sample")
        return self


RECIPES = {
    "lora": Recipe(learning_rate=1e-3, epochs=3, batch_size=8, method_options={"roles": ["all"]}),
    "bottleneck": Recipe(
        learning_rate=3e-3, epochs=3, batch_size=8, method_options={"parallel": True, "activation": "gelu"}
    ),
    "prefix": Recipe(
        learning_rate=2e-3, epochs=3, batch_size=8, method_options={"length": 32, "learning_rate_factor": 40}
    ),
    "ia3": Recipe(learning_rate=1e-3, epochs=3, batch_size=8, method_options={"learning_rate_factor": 30}),
}
SEARCH = ("max_new_tokens", "num_beams", "do_sample", "temperature", "top_p")


class Writing(Writer):
    """A task whose answer follows a prompt; a cleaned record has one answer or more, of which the first is learnt."""

    options: WritingOptions
    metric = "perplexity"
    lower_is_better = True
    measured_before = True
    recipes = RECIPES
    default_recipe = Recipe(batch_size=8)

    @property
    def written(self) -> int:
        """The records of an evaluation for which answers are written and compared."""
        return self.options.written

    @abstractmethod
    def ask(self, record: Record, reading: Reading) -> Asked:
        """Return what is asked."""

    @abstractmethod
    def references(self, record: Record) -> list[str]:
        """Return the answers that a cleaned record gives."""

    # ------------------------------------------------------------------------------------- data

    def fit(self, records: Sequence[Record]) -> Self:
        """Learn nothing: what is written comes from the language model."""
        self.options.check_trained()
        return self

    def check(self, records: Sequence[Record], split: str) -> None:
        """Refuse nothing: every text can be written."""

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count records and the words of the answers that are learnt."""
        words = sum(len(self.references(record)[0].split()) for record in records)
        return {"records": len(records), "words to write": words}

    def support(self, records: Sequence[Record]) -> int:
        """Return the number of words of the answers."""
        return sum(len(self.references(record)[0].split()) for record in records)

    # ------------------------------------------------------------------------------------ model

    def head(self) -> LanguageModelHead | VocabularyHead:
        """Return the frozen language model's own head, or one of the adapter's own."""
        return self.options.language_head()

    def search(self) -> dict[str, Any]:
        """Return the options of the search."""
        return {name: getattr(self.options, name) for name in SEARCH}

    def prompt(self, record: Record, reading: Reading) -> Feature:
        """Return the tokens of the prompt, fields cut at their end, conversations at their beginning."""
        asked = self.ask(record, reading)
        script = self._script(record, asked, reading, None)
        if reading.decoder_start is not None:
            found = read_whole(script, reading.tokenizer)
        else:
            found = tokens(script, reading.tokenizer, self._lead(reading))
        kept = _fitted(found, asked, reading.max_length)
        if len(kept) > reading.max_length:
            raise UsageError(_no_room(len(kept), reading.max_length))
        return Feature(_inputs([token.id for token in kept]), cut=len(found) - len(kept))

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Return one window: the prompt with its answer where it is labelled; what is too long is cut and counted."""
        if not labelled:
            return [self.prompt(record, reading)]
        answer = self.references(record)[0]
        if reading.decoder_start is not None:
            return [self._answered(record, reading, answer, reading.decoder_start)]
        asked = self.ask(record, reading)
        script = self._script(record, asked, reading, answer)
        found = tokens(script, reading.tokenizer, self._lead(reading))
        if not script.closed:
            found.append(Token(closing(reading.tokenizer), written=True))
        room = reading.max_length + 1  # the last token is a label only
        kept = _fitted(found, asked, room)[:room]
        labels = [token.id if token.written else NOT_COUNTED for token in kept[1:]]
        if all(label == NOT_COUNTED for label in labels):
            raise UsageError(_no_room(sum(not token.written for token in kept), reading.max_length))
        return [Feature(_inputs([token.id for token in kept[:-1]]), labels, cut=len(found) - len(kept))]

    def _answered(self, record: Record, reading: Reading, answer: str, start: int) -> Feature:
        """Return the window of an encoder-decoder."""
        tokenizer, feature = reading.tokenizer, self.prompt(record, reading)
        ids = list(tokenizer(text_target=answer, verbose=False)["input_ids"])
        ids = ids if ids[-1:] == [closing(tokenizer)] else [*ids, closing(tokenizer)]
        feature.labels = ids[: reading.max_length]
        read = [start, *feature.labels[:-1]]
        feature.inputs |= {"decoder_input_ids": read, "decoder_attention_mask": [1] * len(read)}
        feature.cut += len(ids) - len(feature.labels)
        return feature

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the cross entropy over the tokens of the answers, from logits (R, T, V) and labels (R, T)."""
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), weights)

    def digest(self, feature: Feature, logits: Tensor) -> Tensor:
        """Return (-log p of the answer, its tokens), from logits (T, V); float32."""
        labels = torch.tensor(feature.labels or [NOT_COUNTED] * len(logits))
        loss = functional.cross_entropy(logits.float(), labels, ignore_index=NOT_COUNTED, reduction="sum")
        return torch.stack([loss, (labels != NOT_COUNTED).sum()])

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return -log p of the given answer (``nll``, in nats) and its ``tokens``."""
        return {
            "nll": sum(float(found[0]) for found in digests),
            "tokens": sum(int(found[1]) for found in digests),
        }

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the loss of a token, in nats, and its perplexity."""
        total = sum(prediction["nll"] for prediction in predictions)
        loss = total / max(1, sum(prediction["tokens"] for prediction in predictions))
        return {"perplexity": round(math.exp(min(loss, LARGEST)), 4), "loss": round(loss, 4)}

    def answer(self, record: Record, text: str) -> dict[str, Any]:
        """Return the written text without white space around it."""
        return {"text": text.strip()}

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Return the text in one line."""
        return " ".join(prediction["text"].split())

    # ----------------------------------------------------------------------------------- inside

    def _script(self, record: Record, asked: Asked, reading: Reading, answer: str | None) -> Script:
        if not reading.causal and reading.decoder_start is None:
            raise BackboneError("the backbone only reads; text is written by a decoder, such as --backbone smollm2")
        if not self._chats(reading):
            return plain(asked, self.options.system, answer)
        try:
            return chat(asked, self.options.system, answer, reading.tokenizer)
        except DataError as error:
            raise DataError(f"{record.get('where', 'an input')}: {error}") from None

    def _chats(self, reading: Reading) -> bool:
        possible = reading.decoder_start is None and bool(reading.tokenizer.chat_template)
        if self.options.chat == "on" and not possible:
            raise UsageError("--chat on needs a decoder whose tokenizer has a chat template, which this one has not")
        return possible and self.options.chat != "off"

    def _lead(self, reading: Reading) -> list[int]:
        """Return the tokens before the text; a chat template writes its own."""
        return [] if self._chats(reading) else leading(reading.tokenizer)


def given(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return what stands under the first of several names that an object has; None where it has none of them."""
    return next((item[name] for name in names if name in item), None)


def joined(value: Any, name: str, where: str) -> str:
    """Return a text, or sentences as one; raise :class:`DataError` for anything else."""
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        value = " ".join(part.strip() for part in value)
    if not isinstance(value, str):
        found = "it is missing" if value is None else f"found {value!r:.60}"
        raise DataError(f"{where}: the {name} is a text, or a list of sentences; {found}")
    return value.strip()


def required_text(value: Any, name: str, where: str) -> str:
    """Return a text as :func:`joined` does; raise :class:`DataError` where it is empty too."""
    text = joined(value, name, where)
    if not text:
        raise DataError(f"{where}: the {name} is empty")
    return text


def required_texts(value: Any, name: str, where: str) -> list[str]:
    """Return a text, or each of several that are equally right; raise :class:`DataError` for anything else."""
    if not isinstance(value, list | tuple):
        return [required_text(value, name, where)]
    if not value:
        raise DataError(f"{where}: the {name} is missing")
    return [required_text(part, name, where) for part in value]


def several(records: Sequence[Record], name: str, split: str) -> list[str]:
    """Say how many records have more than one right answer."""
    count = sum(len(record[name]) > 1 for record in records)
    return [f"{split}: {count} records have several answers: the first is learnt, all are compared"] if count else []


def _fitted(found: list[Token], asked: Asked, room: int) -> list[Token]:
    """Return at most ``room`` tokens where fields or earlier turns can be cut; of a conversation the last ones."""
    return found[-room:] if len(asked.messages) > 1 else shortened(found, room)


def _inputs(ids: list[int]) -> dict[str, list[int]]:
    return {"input_ids": ids, "attention_mask": [1] * len(ids)}


def _no_room(needed: int, room: int) -> str:
    return (
        f"the prompt has {needed} tokens besides the record's own text, and windows of {room} tokens have no room for "
        f"more: shorten --prompt or --system, or raise --max-length"
    )
