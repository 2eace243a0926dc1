"""The common part of ``mlm`` and ``clm``: texts without labels, read as one stream of tokens, measured by perplexity.

The stream is cut into blocks of the longest window; the last block is shorter, and no token is lost. Perplexity is exp
of the mean negative log-likelihood, in nats, of the predicted tokens. No block sees the block before it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Cleaned, Feature, Options, Outcome, Passage, Recipe, Record, Task
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.tasks.common.examples import Examples

NOT_COUNTED = -100


class LanguageModellingOptions(Options):
    """Options of ``mlm`` and ``clm``."""

    separator: Literal["token", "line", "space"] = "token"
    """Separator of two texts: the tokenizer's own token, or a line break or space within one joined text."""


RECIPES = {
    "lora": Recipe(learning_rate=1e-3, epochs=3, batch_size=8, method_options={"roles": ["all"]}),
    "bottleneck": Recipe(
        learning_rate=2e-3, epochs=3, batch_size=8, method_options={"parallel": True, "activation": "gelu"}
    ),
    "prefix": Recipe(
        learning_rate=2e-3, epochs=3, batch_size=8, method_options={"length": 32, "learning_rate_factor": 40}
    ),
}
STREAM = 2**20
"""Characters from which texts are not joined further: their tokens are in memory together."""
JOINTS = {"line": "\n", "space": " "}


@dataclass
class _Stream:
    """Texts that are tokenised together, and the place of the first."""

    where: str
    texts: list[str] = field(default_factory=list)
    size: int = 0


@dataclass(frozen=True)
class Targets:
    """The tokens that a window's logits have to predict, and their positions."""

    positions: Sequence[int]
    tokens: Sequence[int]

    def labels(self, length: int) -> list[int]:
        """Return the label of each of ``length`` positions; -100 where no token is predicted."""
        labels = [NOT_COUNTED] * length
        for position, token in zip(self.positions, self.tokens, strict=True):
            labels[position] = token
        return labels

    def measure(self, logits: Tensor) -> Tensor:
        """Return (3): the negative log-likelihood, the number of tokens, and how many of them are the argmax."""
        predicted, tokens = logits[list(self.positions)].float(), torch.tensor(self.tokens)
        likelihood = functional.cross_entropy(predicted, tokens, reduction="sum")
        return torch.stack([likelihood, torch.tensor(len(tokens)), (predicted.argmax(-1) == tokens).sum()]).double()


class LanguageModelling(Task):
    """A task that predicts tokens of the texts themselves."""

    options: Any
    columns = {
        "text": ("text", "content", "document", "abstract", "sentence", "tokens", "words", "form", "0"),
    }
    layout = "document"
    metric = "perplexity"
    lower_is_better = True

    # ------------------------------------------------------------------------------------- data

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Join the texts of a split into one record, or into several large ones; join tokens of a list by spaces."""
        empty = Examples()
        joined = stored(map(self._joined, _streams(records, split, empty)))
        if not joined:
            raise DataError(f"{split}: there is no text")
        return Cleaned(joined, [f"{split}: {empty.count} empty texts skipped: {empty}"] if empty else [])

    def _joined(self, stream: "_Stream") -> Record:
        joint = JOINTS.get(self.options.separator)
        texts = stream.texts if joint is None else [joint.join(stream.texts)]
        return {"where": stream.where, "texts": texts, "read": len(stream.texts)}

    def fit(self, records: Sequence[Record]) -> Self:
        """Return this task; its options are not learnt from data."""
        return self

    def check(self, records: Sequence[Record], split: str) -> None:
        """Accept all records: any text can be predicted."""

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count texts and their characters."""
        return {"texts": sum(record["read"] for record in records), "characters": sum(map(characters, records))}

    def support(self, records: Sequence[Record]) -> int:
        """Return the number of words."""
        return sum(len(text.split()) for record in records for text in record["texts"])

    # ------------------------------------------------------------------------------------ model

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the mean cross entropy, in nats, over the labelled positions."""
        counted = labels != NOT_COUNTED  # select first: the softmax over unlabelled positions would be most of the work
        return functional.cross_entropy(logits[counted], labels[counted])

    def sums(self, record: Record, prediction: Mapping[str, Any]) -> tuple[float, ...]:
        """Return -log p of the predicted tokens, and their number."""
        return -float(prediction["log_likelihood"]), float(prediction["tokens"])

    def of_sums(self, sums: Sequence[float]) -> float:
        """Return the perplexity."""
        return perplexity(-sums[0], max(1.0, sums[1]))

    def outcome(self, record: Record, prediction: Mapping[str, Any]) -> Outcome:
        """Show the beginning of the text; the error is the mean of -log p of its tokens."""
        loss, tokens = self.sums(record, prediction)
        return Outcome(loss / max(1.0, tokens), (Passage("text", record["texts"][0]),))

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return perplexity, accuracy of the predicted tokens in percent, and the number of tokens."""
        tokens = sum(prediction["tokens"] for prediction in predictions)
        if not tokens:
            raise DataError(f"{records[0].get('where')}: the text has no token to predict")
        likelihood = sum(prediction["log_likelihood"] for prediction in predictions)
        right = sum(prediction["right"] for prediction in predictions)
        return {
            "perplexity": perplexity(likelihood, tokens),
            "accuracy": round(100 * right / tokens, 2),
            "tokens": tokens,
        }


def measures(digests: Sequence[Tensor]) -> dict[str, Any]:
    """Return the sums of :meth:`Targets.measure` over the windows of a text; perplexity is None without tokens."""
    loss, tokens, right = torch.stack([torch.zeros(3).double(), *digests]).sum(0).tolist()
    totals = {"tokens": int(tokens), "right": int(right), "log_likelihood": round(-loss, 4)}
    return {"perplexity": perplexity(-loss, tokens) if tokens else None, **totals}


def perplexity(log_likelihood: float, tokens: float) -> float:
    """Return exp of the mean negative log-likelihood, at most exp(700), which a float can hold."""
    return round(math.exp(min(-log_likelihood / tokens, 700.0)), 4)


def characters(record: Record) -> int:
    """Return the number of characters of a record's texts."""
    return sum(map(len, record["texts"]))


def blocks(ids: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Cut a stream into blocks of one size; the last block may be shorter."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def tokenise(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text of any length, without special tokens around it."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before a text, and those after it."""
    bare, whole = tokenise(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    start = next(start for start in range(len(whole)) if whole[start : start + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def window(tokenizer: Any, ids: Sequence[int], targets: Any) -> Feature:
    """Return a window of tokens without padding."""
    inputs = {"input_ids": list(ids), "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids)}
    input_names = {"input_ids", "attention_mask", *tokenizer.model_input_names}
    return Feature({name: inputs[name] for name in inputs if name in input_names}, alignment=targets)


def _streams(records: Iterable[Record], split: str, empty: Examples) -> Iterator[_Stream]:
    """Yield the texts of records in streams of about :data:`STREAM` characters; add the places of empty texts."""
    stream: _Stream | None = None
    for record in records:
        text, where = _text(record), str(record.get("where", split))
        if not text.strip():
            empty.add(where)
            continue
        stream = stream or _Stream(where)
        stream.texts.append(text)
        stream.size += len(text)
        if stream.size >= STREAM:
            yield stream
            stream = None
    if stream is not None:
        yield stream


def _text(record: Record) -> str:
    value = record["text"]
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return " ".join(value)
    if not isinstance(value, str):
        raise DataError(f"{record.get('where', 'a record')}: a text, or a list of tokens; found {value!r:.60}")
    return value
