"""Relation classification: a text with two entities in square brackets, ``[Ada] was born in [London]``, gets a label.

The classes are read from the states at the first token of each entity, side by side (Baldini Soares et al. 2019,
arXiv:1906.03158, section 3.2, "entity start"): logits = W [h(first); h(second)] + b. The head is given the two
positions of each row as the row input ``entities``.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import regex
import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import (
    Cleaned,
    Feature,
    Head,
    Labels,
    Options,
    Parameter,
    Reading,
    Recipe,
    Record,
    Task,
    WithRowInputs,
)
from adaptdock.plugins.toolkit.batched_linear import linear

MARKED = regex.compile(r"\[([^\[\]]*[^\s\[\]][^\[\]]*)\]")
"""An entity in square brackets."""


class RelationOptions(Options):
    """Options of ``relation``."""

    labels: Labels = ()
    """The relations, in the order of the head's outputs; those of the training data unless given."""


class EntityPairHead(Head):
    """A linear map from the states at two positions, side by side, to the classes: (R, T, W) -> (R, classes)."""

    grows = {"weight": 0, "bias": 0}
    row_inputs = {"entities": 0}

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Keep a weight (classes, 2 W) and a bias (classes)."""
        return {"weight": Parameter((self.classes, 2 * width), _normal), "bias": Parameter((self.classes,))}

    def apply(self, parameters: Mapping[str, Tensor], hidden: WithRowInputs, mask: Tensor) -> Tensor:
        """Return logits (R, classes), from states (R, T, W) and ``entities`` (R, 2)."""
        states, entities = hidden.hidden, hidden.inputs["entities"]
        rows = torch.arange(len(entities), device=entities.device).unsqueeze(1)
        pair = states[rows, entities].flatten(1).unsqueeze(1)  # (R, 1, 2 W)
        return linear(pair, parameters["weight"], parameters["bias"]).squeeze(1)

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (classes) of a row's (padded classes)."""
        return logits[: self.classes]


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(0.0, 0.02, generator=generator)


class Relation(Task):
    """Names the relation between two marked entities of a text."""

    Options = RelationOptions
    options: RelationOptions
    columns = {"text": ("text", "sentence"), "label": ("label", "relation")}
    layout = "jsonl"
    metric = "accuracy"
    sample = Path(__file__).parent / "sample"
    default_recipe = Recipe(learning_rate=2e-3, epochs=12, batch_size=8)

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Check texts, marks and labels."""
        cleaned = []
        for record in records:
            where = str(record.get("where", split))
            _marks(record["text"], where)
            if not isinstance(record["label"], str) or not record["label"].strip():
                raise DataError(f"{where}: the label is the name of a relation; found {record['label']!r:.60}")
            cleaned.append({**record, "label": record["label"].strip()})
        return Cleaned(cleaned)

    def labels(self, record: Record) -> list[str]:
        """Return the relation."""
        return [str(record["label"])]

    def fit(self, records: Sequence[Record]) -> Self:
        """Learn the relations, sorted by name, unless they were given."""
        labels = self.options.labels or tuple(sorted({record["label"] for record in records}))
        return type(self)(self.options.model_copy(update={"labels": labels}))

    def check(self, records: Sequence[Record], split: str) -> None:
        """Refuse a relation that training has not seen."""
        for record in records:
            if record["label"] not in self.options.labels:
                known = ", ".join(self.options.labels)
                raise DataError(f"{record['where']}: the relation {record['label']!r} is new; training had {known}")

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count texts and relations."""
        return {"texts": len(records), "relations": len({record["label"] for record in records})}

    def class_weights(self, records: Sequence[Record]) -> list[float]:
        """Return weights that would give every relation the same sum."""
        counts = [sum(record["label"] == label for record in records) for label in self.options.labels]
        return [len(records) / (len(counts) * max(1, count)) for count in counts]

    def head(self) -> EntityPairHead:
        """Return a linear map from the states at the two entities."""
        return EntityPairHead(len(self.options.labels))

    def read(self, item: Any) -> Record:
        """Read a text with two marked entities, or an object with ``text``."""
        text = item.get("text") if isinstance(item, Mapping) else item
        _marks(text, "the input")
        return {"text": text}

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Tokenise the text without its brackets, cut around the entities where it is longer than a window."""
        text, spans = _marks(record["text"], str(record.get("where", "the input")))
        text, spans, cut = _around(text, spans, reading)
        found = reading.tokenizer(text, return_offsets_mapping=True, return_attention_mask=True)
        inputs = {name: found[name] for name in reading.tokenizer.model_input_names if name in found}
        feature = Feature(inputs, cut=cut)
        feature.row_inputs["entities"] = [_first_token(found["offset_mapping"], start) for start, _ in spans]
        if labelled:
            feature.labels = self.options.labels.index(record["label"])
        return [feature]

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the cross entropy."""
        return functional.cross_entropy(logits, labels, weights)

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the most probable relation with its probability, and the two entities."""
        text, spans = _marks(record["text"], "the input")
        shares = digests[0].float().softmax(-1)
        best = int(shares.argmax())
        entities = [text[start:end] for start, end in spans]
        return {"entities": entities, "label": self.options.labels[best], "score": round(float(shares[best]), 4)}

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the share of right relations, in percent."""
        right = sum(record["label"] == found["label"] for record, found in zip(records, predictions, strict=True))
        return {"accuracy": round(100 * right / len(records), 2)}

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Write the relation between the entities."""
        first, second = prediction["entities"]
        return f"{first} -- {prediction['label']} -- {second}"


def _marks(text: Any, where: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a text without its brackets, and the spans of its two entities; raise :class:`DataError` for others."""
    found = list(MARKED.finditer(text)) if isinstance(text, str) else []
    if len(found) != 2:
        raise DataError(
            f"{where}: a text has two entities in square brackets, such as '[Ada] was born in [London].'; found "
            f"{text!r:.60}"
        )
    spans = [(match.start(1) - 1 - 2 * number, match.end(1) - 1 - 2 * number) for number, match in enumerate(found)]
    return MARKED.sub(r"\1", text), spans


def _around(text: str, spans: list[tuple[int, int]], reading: Reading) -> tuple[str, list[tuple[int, int]], int]:
    """Return the part of a text that fits a window, with both entities, their spans in it, and the tokens cut off."""
    offsets = reading.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokens = offsets["offset_mapping"]
    room = reading.max_length - reading.tokenizer.num_special_tokens_to_add()
    if len(tokens) <= room:
        return text, spans, 0
    first, last = (_first_token(tokens, spans[place][0]) for place in (0, 1))
    if last - first >= room:
        raise DataError(f"the two entities are {last - first} tokens apart; a window has {room}: {text!r:.60}")
    begin = max(0, min(first - (room - (last - first)) // 2, len(tokens) - room))
    start, end = tokens[begin][0], tokens[begin + room - 1][1]
    return text[start:end], [(low - start, high - start) for low, high in spans], len(tokens) - room


def _first_token(offsets: Sequence[tuple[int, int]], start: int) -> int:
    """Return the position of the first token that ends behind a character."""
    return next(place for place, (low, high) in enumerate(offsets) if high > max(low, start))
