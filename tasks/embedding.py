"""Sentence embeddings: texts that belong together get vectors that point the same way.

The vector is the mean hidden state, as it is (so an adapter that has not been trained gives what the bare backbone
gives) or through a trained projection. It is trained with multiple negatives ranking: each anchor has to find its own
positive among all positives and hard negatives of the batch (InfoNCE, van den Oord et al. 2018, with the cosine
times a scale as Henderson et al. 2017 and sentence-transformers have it):

    loss = -log( exp(s * cos(a, p)) / sum over candidates c of exp(s * cos(a, c)) )

Candidates that are known to belong to the anchor are no negatives: those of its own label, and those that pairs with
a text in common connect with it. A text is one window; what is longer is cut, and the cut counted.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Cleaned, Feature, Options, Reading, Recipe, Record, Task
from adaptdock.plugins.toolkit.heads import EmbeddingHead
from adaptdock.tasks.labels import class_name

ANCHOR, POSITIVE, NEGATIVE = range(3)
TEXTS = ("text", "positive", "negative")
RANKS = (1, 5, 10)
QUERIES_AT_ONCE = 1024
SHOWN = 5
"""So many places or numbers stand in a note, or for a person."""

RECIPES = {
    "lora": Recipe(learning_rate=5e-4, epochs=2, batch_size=32, method_options={"roles": ["all"]}),
    "bottleneck": Recipe(
        learning_rate=1e-3, epochs=2, batch_size=32, method_options={"parallel": True, "activation": "gelu"}
    ),
}


class EmbeddingOptions(Options):
    """Options of ``embedding``."""

    scale: float = Field(20.0, gt=0)
    """Cosines are multiplied by this in the loss (an inverse temperature)."""
    dimension: int | None = Field(None, gt=0)
    """Numbers of an embedding, by a trained projection; the backbone's own width without one, unless given."""
    rounds: int = Field(1, gt=0)
    """Times that each training text is paired with another of its label; for data with labels."""
    highest_score: float | None = Field(None, gt=0)
    """The score of equal texts; 1 or 5, found out for each split, unless given."""
    positive_from: float = Field(0.5, ge=0, le=1)
    """Pairs whose score, as a share of the highest, is lower are trained as negatives."""


class Embedding(Task):
    """Gives texts vectors, near to each other where the texts belong together."""

    Options = EmbeddingOptions
    options: EmbeddingOptions
    columns = {
        "text": ("text", "anchor", "sentence1", "query", "question", "question1", "text1", "sentence_A"),
        "positive": ("positive", "sentence2", "answer", "question2", "text2", "sentence_B", "paraphrase"),
        "negative": ("negative", "hard_negative"),
        "score": ("score", "similarity_score", "similarity", "relatedness_score", "is_duplicate"),
        "label": ("label", "category", "intent", "class", "topic"),
    }
    optional = frozenset({"positive", "negative", "score", "label"})
    texts = TEXTS
    metric = "recall@1"
    together = True
    sample = Path(__file__).parent / "samples" / "embedding"
    recipes = RECIPES
    default_recipe = Recipe(batch_size=32)

    @classmethod
    def group(cls, record: Record) -> Hashable:
        """Return the anchor of a pair: all pairs of it stand in the same split."""
        return record["text"] if record.get("positive") is not None else None

    # ------------------------------------------------------------------------------------- data

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Check pairs and number what belongs together; make pairs of texts with labels."""
        checked = [_checked(record) for record in records]
        kept = [record for record in checked if all(record[name] for name in TEXTS if name in record)]
        if not kept:
            raise DataError(f"{split}: there is no text")
        notes = _skipped(f"{split}: %d records with an empty text skipped", checked, kept)
        paired = [record for record in kept if "positive" in record]
        if len(paired) not in (0, len(kept)):
            odd = next(record for record in kept if "positive" not in record)
            raise DataError(f"{_where(odd)}: no second text (positive), which other records of {split} have")
        made = self._pairs(paired, split) if paired else self._labelled(kept, split)
        numbers = {number for record in made.records for number in record["numbers"].values()}
        if len(numbers) < 2:
            raise DataError(f"{split}: all texts belong together (one label, or one pair), so nothing tells them apart")
        if not any(self._role(record, name) == POSITIVE for record in made.records for name in record["numbers"]):
            raise DataError(
                f"{split}: no two texts belong together: there is neither a pair nor a label that two share"
            )
        return Cleaned(made.records, [*notes, *made.notes])

    def labels(self, record: Record) -> list[str]:
        """Return the label of a text without a second one."""
        checked = _checked(record)
        return [checked["label"]] if "label" in checked and "positive" not in checked else []

    def fit(self, records: Sequence[Record]) -> Self:
        """Return this task: nothing but weights is learnt."""
        return self

    def check(self, records: Sequence[Record], split: str) -> None:
        """Accept all: texts and labels that training has not seen are what embeddings are for."""

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count pairs, hard negatives, scores, different texts and labels."""
        found = {
            "pairs": sum("positive" in record for record in records),
            "hard negatives": sum("negative" in record for record in records),
            "scores": sum("score" in record for record in records),
            "texts": len({record[name] for record in records for name in record["numbers"]}),
            "labels": len({record["label"] for record in records if "label" in record}),
        }
        return {name: count for name, count in found.items() if count}

    def _pairs(self, records: Sequence[Record], split: str) -> Cleaned:
        kept = [record for record in records if record["text"] != record["positive"]]
        notes = _skipped(f"{split}: %d pairs of a text with itself skipped", records, kept)
        scores = [_score(record) for record in kept]
        given = [score for score in scores if score is not None]
        highest = self.options.highest_score or (1.0 if max(given, default=0.0) <= 1 else 5.0)
        if given and highest != 1:
            notes.append(f"{split}: scores read as 0 to {highest:g}")
        made = []
        for record, score in zip(kept, scores, strict=True):
            if score is not None and not 0 <= score <= highest:
                raise DataError(f"{_where(record)}: the score {score:g} is not in 0 to {highest:g} (--highest-score)")
            share = {} if score is None else {"score": score / highest}
            made.append({key: value for key, value in record.items() if key not in ("score", "label")} | share)
        numbers = _numbers(texts for record in made for texts in self._alike(record))
        for unit, record in enumerate(made):
            record["numbers"] = {name: numbers[record[name]] for name in TEXTS if name in record}
            record["unit"] = unit
        return Cleaned(made, notes)

    def _alike(self, record: Record) -> list[list[str]]:
        """Return the texts of a record, those together that belong together."""
        named = {name: self._role(record, name) for name in TEXTS if name in record}
        together = [record[name] for name, role in named.items() if role != NEGATIVE]
        return [together, *([record[name]] for name, role in named.items() if role == NEGATIVE)]

    def _role(self, record: Record, name: str) -> int:
        if name == "positive" and record.get("score", 1.0) < self.options.positive_from:
            return NEGATIVE
        return TEXTS.index(name)

    def _labelled(self, records: Sequence[Record], split: str) -> Cleaned:
        """Pair each text with another of its label; those alone with theirs are candidates for others."""
        by_label: dict[str, dict[str, Record]] = {}
        for record in records:
            if "label" not in record:
                raise DataError(
                    f"{_where(record)}: a text alone: a second text (positive) or a label has to go with it"
                )
            name = class_name(record["label"], _where(record))
            by_label.setdefault(name, {}).setdefault(record["text"], record)
        made: list[Record] = []
        for number, (label, texts) in enumerate(sorted(by_label.items())):
            for one, other in _partners(sorted(texts), self.options.rounds if split == "train" else 1):
                fields = {"negative": one} if other is None else {"text": one, "positive": other}
                origin = {"where": _where(texts[one]), "label": label, "unit": len(made)}
                made.append({**origin, **fields, "numbers": dict.fromkeys(fields, number)})
        unique = [record for texts in by_label.values() for record in texts.values()]
        pairs = [record for record in made if "positive" in record]
        notes = [f"{split}: {len(unique)} texts with {len(by_label)} labels made into {len(pairs)} pairs"]
        notes += _skipped(
            f"{split}: %d texts that stand there twice, with the same label, left out once", records, unique
        )
        notes += _skipped(f"{split}: %d texts are alone with their label, and nothing but candidates", made, pairs)
        return Cleaned(made, notes)

    # ------------------------------------------------------------------------------------ model

    def head(self) -> EmbeddingHead:
        """Return the mean of the hidden states, projected if a dimension is given."""
        return EmbeddingHead(self.options.dimension)

    def read(self, item: Any) -> Record:
        """Read a text, or an object with ``text``."""
        text = item.get("text") if isinstance(item, Mapping) else item
        if not isinstance(text, str):
            raise DataError(f"embedding reads a text, or an object with 'text'; found {type(item).__name__}")
        return {"text": text}

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Tokenise each text of a record as one window, labelled with number, role and unit."""
        features = []
        unit = -record["copy"] if "copy" in record else record.get("unit")  # an altered copy is a pair of its own
        for name in TEXTS:
            feature = _window(record[name], reading) if name in record else None
            if feature is not None:
                feature.alignment = name
                if labelled:
                    feature.labels = [record["numbers"][name], self._role(record, name), unit]
                features.append(feature)
        return features

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the mean ranking loss over the anchors of vectors (R, W), with labels (R, 3)."""
        number, role, unit = labels.unbind(1)
        own = (unit.unsqueeze(1) == unit) & (role == POSITIVE)
        anchors = (role == ANCHOR) & own.any(1)
        if not anchors.any():
            return logits.sum() * 0.0
        vectors = functional.normalize(logits, dim=-1)
        scores = self.options.scale * vectors @ vectors.mT
        known = (number.unsqueeze(1) == number) & ~own
        scores = scores.masked_fill(known | (role == ANCHOR), float("-inf"))
        return functional.cross_entropy(scores[anchors], own[anchors].int().argmax(1))

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the embedding, of length 1; of a pair, those of its other texts by their fields."""
        prediction: dict[str, Any] = {"embedding": []}
        for feature, found in zip(features, digests, strict=True):
            name = "embedding" if feature.alignment == "text" else feature.alignment
            prediction[name] = [round(number, 6) for number in functional.normalize(found.float(), dim=-1).tolist()]
        cut = sum(feature.cut for feature in features)
        return prediction | ({"cut_tokens": cut} if cut else {})

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return how many anchors have a text of theirs among the 1, 5 and 10 nearest, in percent.

        The nearest are looked for among all other texts. Where pairs have scores, ``spearman`` is 100 times the
        rank correlation of the cosines with them.
        """
        metrics = _recall(records, predictions)
        scored = [number for number, record in enumerate(records) if "score" in record]
        if len({records[number]["score"] for number in scored}) > 1:
            from scipy.stats import spearmanr

            pairs = [(predictions[number]["embedding"], predictions[number]["positive"]) for number in scored]
            cosines = [sum(a * b for a, b in zip(one, other, strict=True)) for one, other in pairs]
            found = spearmanr(cosines, [records[number]["score"] for number in scored]).statistic
            metrics["spearman"] = round(100 * float(found), 2)
        return metrics

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Show the first numbers and how many there are."""
        vector = prediction["embedding"]
        first = " ".join(f"{number:.3f}" for number in vector[:SHOWN])
        return f"[{first}{' ...' if len(vector) > SHOWN else ''}] {len(vector)} numbers"


# ---------------------------------------------------------------------------------------------- data


def _checked(record: Record) -> Record:
    """Return a record whose texts are texts; fields with nothing in them are left out."""
    given = {key: value for key, value in record.items() if value is not None}
    for name in TEXTS:
        if name in given and not isinstance(given[name], str):
            raise DataError(f"{_where(record)}: {name} is one text; found {given[name]!r:.60}")
    if "text" not in given:
        raise DataError(f"{_where(record)}: there is no text")
    if "label" in given:
        given["label"] = str(given["label"])
    return {key: value.strip() if key in TEXTS else value for key, value in given.items()}


def _score(record: Record) -> float | None:
    """Return the score of a pair; a label beside two texts has to be one."""
    found = record.get("score", record.get("label"))
    try:
        return None if found is None else float(found)
    except (TypeError, ValueError):
        raise DataError(
            f"{_where(record)}: {found!r:.60} beside two texts is no score; write how similar they are, 0 to 1 or 0 to "
            f"5, or leave the column out"
        ) from None


def _skipped(line: str, before: Sequence[Record], after: Sequence[Record]) -> list[str]:
    kept = {id(record) for record in after}
    gone = [_where(record) for record in before if id(record) not in kept]
    return [f"{line % len(gone)}: {', '.join(gone[:SHOWN])}{', ...' if len(gone) > SHOWN else ''}"] if gone else []


def _where(record: Record) -> str:
    return str(record.get("where", "a record"))


def _numbers(groups: Iterable[Sequence[str]]) -> dict[str, int]:
    """Number texts; those that a chain of groups connects have the same number."""
    parents: dict[str, str] = {}

    def root(text: str) -> str:
        while parents.setdefault(text, text) != text:
            parents[text] = text = parents[parents[text]]
        return text

    for group in groups:
        for text in group:
            parents[root(text)] = root(group[0])
    numbers: dict[str, int] = {}
    return {text: numbers.setdefault(root(text), len(numbers)) for text in list(parents)}


def _partners(texts: list[str], rounds: int) -> Iterator[tuple[str, str | None]]:
    """Yield pairs in which each text stands once a round, the last of an odd number twice; one alone has none."""
    for number in range(rounds if len(texts) > 1 else 1):
        order = Random(number).sample(texts, len(texts))
        for place in range(0, len(order) - 1, 2):
            yield order[place], order[place + 1]
        if len(order) % 2:
            yield order[-1], order[0] if len(order) > 1 else None


def _window(text: str, reading: Reading) -> Feature | None:
    """Return a text as one window, cut where it is longer; None where it has no token."""
    tokenizer = reading.tokenizer
    whole = len(tokenizer(text, verbose=False)["input_ids"])
    found = tokenizer(text, truncation=True, max_length=reading.max_length, return_attention_mask=True)
    inputs = {name: found[name] for name in tokenizer.model_input_names if name in found}
    return Feature(inputs, cut=whole - len(inputs["input_ids"])) if whole else None


# ------------------------------------------------------------------------------------------- metrics


def _recall(records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the share of queries, in percent, that have a text of their number among the nearest others."""
    places: dict[tuple[str, int], int] = {}
    vectors: list[list[float]] = []
    asked: set[int] = set()
    for record, prediction in zip(records, predictions, strict=True):
        for name, number in record["numbers"].items():
            vector = prediction.get("embedding" if name == "text" else name)
            if vector:
                place = places.setdefault((record[name], number), len(places))
                vectors += [vector] if place == len(vectors) else []
                asked |= {place} if name == "text" or (name == "positive" and "label" in record) else set()
    numbers, matrix = torch.tensor([number for _, number in places]), torch.tensor(vectors)
    companions = numbers.bincount()[numbers] - 1
    queries = [place for place in sorted(asked) if companions[place]]
    hits = torch.zeros(len(RANKS))
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = torch.tensor(queries[start : start + QUERIES_AT_ONCE])
        nearness = matrix[part] @ matrix.T
        nearness[range(len(part)), part] = float("-inf")
        nearest = nearness.topk(min(max(RANKS), len(matrix) - 1)).indices
        same = numbers[nearest] == numbers[part].unsqueeze(1)
        hits += torch.stack([same[:, :rank].any(1).sum() for rank in RANKS])
    shares = {
        f"recall@{rank}": round(100 * float(hit) / max(1, len(queries)), 2)
        for rank, hit in zip(RANKS, hits, strict=True)
    }
    return {**shares, "queries": len(queries), "texts": len(vectors)}
