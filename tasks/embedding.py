"""Sentence embeddings: texts that belong together get vectors of similar direction.

The vector is the mean hidden state, or a trained projection of it. Without a projection, an untrained adapter returns
the vectors of the bare backbone. The loss is multiple negatives ranking: each anchor has to find its own positive among
all positives and hard negatives of the batch (InfoNCE, van den Oord et al. 2018, with a scaled cosine as in Henderson
et al. 2017 and sentence-transformers):

    loss = -log( exp(s * cos(a, p)) / sum over candidates c of exp(s * cos(a, c)) )

Candidates that are known to belong to the anchor are not negatives: candidates with its label, and candidates that
are connected with it by pairs with a common text. A text is one window; a longer text is cut, and the cut is counted.
"""

from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import starmap
from pathlib import Path
from random import Random
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Cleaned, Feature, Options, Reading, Recipe, Record, Task
from adaptdock.plugins.toolkit.hashes import hash_of, number_of_different
from adaptdock.plugins.toolkit.heads import EmbeddingHead
from adaptdock.plugins.toolkit.stored import in_sequence, picked, stored
from adaptdock.tasks.common.examples import Examples
from adaptdock.tasks.labels.class_labels import class_name
from adaptdock.tasks.labels.label_survey import LabelSurvey
from adaptdock.tasks.labels.uncounted import labelled_records

ANCHOR, POSITIVE, NEGATIVE = range(3)
TEXTS = ("text", "positive", "negative")
RANKS = (1, 5, 10)
QUERIES_AT_ONCE = 1024
"""Queries per matrix of cosines, to bound its memory."""
SHOWN = 5
"""Most numbers of a printed vector."""

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
    """Width of a trained projection; unless given, there is none, and embeddings are as wide as the backbone."""
    rounds: int = Field(1, gt=0)
    """How often each training text is paired with another text of its label; for data with labels."""
    highest_score: float | None = Field(None, gt=0)
    """The score of equal texts; unless given, 1 or 5 by the scores of each split."""
    positive_from: float = Field(0.5, ge=0, le=1)
    """Pairs with a lower score, as a share of the highest, are trained as negatives."""


class Embedding(Task):
    """Maps texts to vectors; texts that belong together get similar vectors."""

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
        """Return the anchor of a pair, whose pairs all go into the same split."""
        return record["text"] if record.get("positive") is not None else None

    # ------------------------------------------------------------------------------------- data

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Check pairs, give texts that belong together the same number, and pair texts with labels."""
        raw = in_sequence(records)
        labelled, uncounted = labelled_records(raw, LabelSurvey.of(raw), split, ())
        empty = Examples()
        complete = stored(_without(map(_checked, labelled), _has_empty_text, empty))
        if not complete:
            raise DataError(f"{split}: there is no text")
        notes = _skipped(f"{split}: %d records with an empty text skipped", empty)
        odd = next((record for record in complete if "positive" not in record), None)
        paired = odd is None
        if odd is not None and any("positive" in record for record in complete):
            raise DataError(f"{_where(odd)}: no second text (positive), which other records of {split} have")
        cleaned = self._pairs(complete, split) if paired else self._labelled(complete, split)
        numbers = (number for record in cleaned.records for number in record["numbers"].values())
        first = next(numbers, None)
        if all(number == first for number in numbers):
            raise DataError(
                f"{split}: all texts belong together (one label, or one pair), so there is nothing to distinguish"
            )
        if not any(self._role(record, name) == POSITIVE for record in cleaned.records for name in record["numbers"]):
            raise DataError(
                f"{split}: no two texts belong together: there is neither a pair nor a label that two share"
            )
        return Cleaned(cleaned.records, [*uncounted, *notes, *cleaned.notes])

    def labels(self, record: Record) -> list[str]:
        """Return the label of a text without a second one; after cleaning, of its pair or of a text alone."""
        if "numbers" in record:  # cleaned: a text alone with its label is a candidate, without a query
            return [record["label"]] if "label" in record else []
        checked = _checked(record)
        return [checked["label"]] if "label" in checked and "positive" not in checked else []

    def fit(self, records: Sequence[Record]) -> Self:
        """Return this task; its options are not learnt from data."""
        return self

    def check(self, records: Sequence[Record], split: str) -> None:
        """Accept all records: embeddings are for new texts and labels."""

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count pairs, hard negatives, scores, different texts and labels."""
        counts = {
            "pairs": sum("positive" in record for record in records),
            "hard negatives": sum("negative" in record for record in records),
            "scores": sum("score" in record for record in records),
            "texts": number_of_different(record[name] for record in records for name in record["numbers"]),
            "labels": len({record["label"] for record in records if "label" in record}),
        }
        return {name: count for name, count in counts.items() if count}

    def _pairs(self, records: Sequence[Record], split: str) -> Cleaned:
        same = Examples()
        distinct = stored(_without(records, lambda record: bool(record["text"] == record["positive"]), same))
        notes = _skipped(f"{split}: %d pairs of a text with itself skipped", same)
        greatest = max((score for score in map(_score, distinct) if score is not None), default=0.0)
        highest = self.options.highest_score or (1.0 if greatest <= 1 else 5.0)
        if highest != 1 and any(_score(record) is not None for record in distinct):
            notes.append(f"{split}: scores read as 0 to {highest:g}")
        scored = stored(_scored(record, highest) for record in distinct)
        numbers = iter(_numbers([record[name] for name in names] for record in scored for names in self._alike(record)))

        def numbered(unit: int, record: Record) -> Record:
            of_texts = {name: next(numbers) for names in self._alike(record) for name in names}
            return {**record, "numbers": {name: of_texts[name] for name in TEXTS if name in of_texts}, "unit": unit}

        return Cleaned(stored(starmap(numbered, enumerate(scored))), notes)

    def _alike(self, record: Record) -> list[list[str]]:
        """Return the names of a record's texts, grouped by which belong together."""
        roles = {name: self._role(record, name) for name in TEXTS if name in record}
        together = [name for name, role in roles.items() if role != NEGATIVE]
        return [together, *([name] for name, role in roles.items() if role == NEGATIVE)]

    def _role(self, record: Record, name: str) -> int:
        if name == "positive" and record.get("score", 1.0) < self.options.positive_from:
            return NEGATIVE
        return TEXTS.index(name)

    def _labelled(self, records: Sequence[Record], split: str) -> Cleaned:
        """Pair each text with another text of its label; a text alone with its label becomes a candidate only."""
        by_label: dict[str, array[int]] = {}
        for place, record in enumerate(records):
            if "label" not in record:
                raise DataError(
                    f"{_where(record)}: a text alone: a second text (positive) or a label has to go with it"
                )
            by_label.setdefault(class_name(record["label"], _where(record)), array("q")).append(place)
        again, alone = array("q"), Examples()
        rounds = self.options.rounds if split == "train" else 1

        def examples() -> Iterator[Record]:
            for number, (label, places) in enumerate(sorted(by_label.items())):
                first = _first_places(picked(records, places), places, again)
                for text, partner in _partners(first, rounds):
                    fields = {"negative": text} if partner is None else {"text": text, "positive": partner}
                    if partner is None:
                        alone.add(first[text])
                    yield {"where": first[text], "label": label, **fields, "numbers": dict.fromkeys(fields, number)}

        paired = stored({**example, "unit": unit} for unit, example in enumerate(examples()))
        repeated = Examples(_where(record) for record in picked(records, sorted(again)))
        unique, pairs = len(records) - repeated.count, len(paired) - alone.count
        notes = [f"{split}: {unique} texts with {len(by_label)} labels made into {pairs} pairs"]
        notes += _skipped(f"{split}: %d repeated texts with the same label left out", repeated)
        notes += _skipped(f"{split}: %d texts are alone with their label, and are candidates only", alone)
        return Cleaned(paired, notes)

    # ------------------------------------------------------------------------------------ model

    def head(self) -> EmbeddingHead:
        """Return the mean of the hidden states, with a projection if ``dimension`` is given."""
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
        unit = -record["copy"] if "copy" in record else record.get("unit")  # an augmented copy is a pair of its own
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
        positives = (unit.unsqueeze(1) == unit) & (role == POSITIVE)
        anchors = (role == ANCHOR) & positives.any(1)
        if not anchors.any():
            return logits.sum() * 0.0  # a batch without anchors needs a loss with gradients too
        vectors = functional.normalize(logits, dim=-1)
        scores = self.options.scale * vectors @ vectors.mT
        same_number = (number.unsqueeze(1) == number) & ~positives
        scores = scores.masked_fill(same_number | (role == ANCHOR), float("-inf"))
        return functional.cross_entropy(scores[anchors], positives[anchors].int().argmax(1))

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the embedding, of length 1, and those of the other texts of a pair by their fields."""
        prediction: dict[str, Any] = {"embedding": []}
        for feature, vector in zip(features, digests, strict=True):
            name = "embedding" if feature.alignment == "text" else feature.alignment
            prediction[name] = [round(number, 6) for number in functional.normalize(vector.float(), dim=-1).tolist()]
        cut = sum(feature.cut for feature in features)
        return prediction | ({"cut_tokens": cut} if cut else {})

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return recall at 1, 5 and 10 in percent: anchors with a matching text among their nearest neighbours.

        Neighbours are sought among all other texts. For pairs with scores, ``spearman`` is 100 times the rank
        correlation of the cosines with the scores.
        """
        metrics = _recall(records, predictions)
        scored = [number for number, record in enumerate(records) if "score" in record]
        if len({records[number]["score"] for number in scored}) > 1:
            from scipy.stats import spearmanr

            pairs = [(predictions[number]["embedding"], predictions[number]["positive"]) for number in scored]
            cosines = [sum(a * b for a, b in zip(text, positive, strict=True)) for text, positive in pairs]
            correlation = spearmanr(cosines, [records[number]["score"] for number in scored]).statistic
            metrics["spearman"] = round(100 * float(correlation), 2)
        return metrics

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Return the first numbers of the vector and its width."""
        vector = prediction["embedding"]
        first = " ".join(f"{number:.3f}" for number in vector[:SHOWN])
        return f"[{first}{' ...' if len(vector) > SHOWN else ''}] {len(vector)} numbers"


# ---------------------------------------------------------------------------------------------- data


def _checked(record: Record) -> Record:
    """Return a record with checked texts, without empty fields."""
    fields = {key: value for key, value in record.items() if value is not None}
    for name in TEXTS:
        if name in fields and not isinstance(fields[name], str):
            raise DataError(f"{_where(record)}: {name} is one text; found {fields[name]!r:.60}")
    if "text" not in fields:
        raise DataError(f"{_where(record)}: there is no text")
    if "label" in fields:
        fields["label"] = str(fields["label"])
    return {key: value.strip() if key in TEXTS else value for key, value in fields.items()}


def _score(record: Record) -> float | None:
    """Return the score of a pair, which may be in the column of the label."""
    value = record.get("score", record.get("label"))
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise DataError(
            f"{_where(record)}: {value!r:.60} beside two texts is not a score; write their similarity, 0 to 1 or 0 to "
            f"5, or leave the column out"
        ) from None


def _scored(record: Record, highest: float) -> Record:
    """Return a pair with its score as a share of the highest; raise :class:`DataError` for a score out of range."""
    score = _score(record)
    if score is not None and not 0 <= score <= highest:
        raise DataError(f"{_where(record)}: the score {score:g} is not in 0 to {highest:g} (--highest-score)")
    share = {} if score is None else {"score": score / highest}
    return {key: value for key, value in record.items() if key not in ("score", "label")} | share


def _has_empty_text(record: Record) -> bool:
    return not all(record[name] for name in TEXTS if name in record)


def _without(records: Iterable[Record], is_left_out: Callable[[Record], bool], skipped: Examples) -> Iterator[Record]:
    """Yield records, and add the places of omitted records."""
    for record in records:
        if is_left_out(record):
            skipped.add(_where(record))
        else:
            yield record


def _skipped(line: str, skipped: Examples) -> list[str]:
    return [f"{line % skipped.count}: {skipped}"] if skipped else []


def _first_places(records: Iterable[Record], numbers: Iterable[int], again: "array[int]") -> dict[str, str]:
    """Return the texts of one label in alphabetical order, each with the place of its first record.

    Adds the numbers of the other records to ``again``.
    """
    places: dict[str, str] = {}
    for number, record in zip(numbers, records, strict=True):
        if record["text"] in places:
            again.append(number)
        else:
            places[record["text"]] = _where(record)
    return dict(sorted(places.items()))


def _where(record: Record) -> str:
    return str(record.get("where", "a record"))


def _numbers(groups: Iterable[Sequence[str]]) -> Iterator[int]:
    """Yield a number for each text of each group; texts that a chain of groups connects have the same number.

    Numbers count from 0 in the order of the first texts. Texts are compared by their hashes.
    """
    hashes, firsts = array("Q"), array("q")
    for group in groups:
        start = len(hashes)
        for text in group:
            hashes.append(hash_of([text]))
            firsts.append(start)
    if not hashes:
        return iter(())
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    different, texts = np.unique(np.frombuffer(hashes, np.uint64), return_inverse=True)
    links = (texts, texts[np.frombuffer(firsts, np.int64)])
    size = (len(different), len(different))
    _, components = connected_components(coo_matrix((np.ones(len(texts), np.int8), links), size), directed=False)
    _, first, number = np.unique(components[texts], return_index=True, return_inverse=True)
    return map(int, np.argsort(np.argsort(first))[number])


def _partners(sorted_texts: Iterable[str], rounds: int) -> Iterator[tuple[str, str | None]]:
    """Yield pairs with each text once per round; of an odd number, one text twice. A single text has no partner."""
    texts = list(sorted_texts)
    for number in range(rounds if len(texts) > 1 else 1):
        order = Random(number).sample(texts, len(texts))  # the same pairs in every process
        for place in range(0, len(order) - 1, 2):
            yield order[place], order[place + 1]
        if len(order) % 2:
            yield order[-1], order[0] if len(order) > 1 else None


def _window(text: str, reading: Reading) -> Feature | None:
    """Return a text as one window, cut at its end; None for a text without tokens."""
    tokenizer = reading.tokenizer
    whole = len(tokenizer(text, verbose=False)["input_ids"])
    encoding = tokenizer(text, truncation=True, max_length=reading.max_length, return_attention_mask=True)
    inputs = {name: encoding[name] for name in tokenizer.model_input_names if name in encoding}
    return Feature(inputs, cut=whole - len(inputs["input_ids"])) if whole else None


# ------------------------------------------------------------------------------------------- metrics


def _recall(records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the share of queries, in percent, with a text of the same number among their nearest neighbours."""
    places: dict[tuple[str, int], int] = {}
    vectors: list[list[float]] = []
    query_places: set[int] = set()
    for record, prediction in zip(records, predictions, strict=True):
        for name, number in record["numbers"].items():
            vector = prediction.get("embedding" if name == "text" else name)
            if vector:
                place = places.setdefault((record[name], number), len(places))
                vectors += [vector] if place == len(vectors) else []
                query_places |= {place} if name == "text" or (name == "positive" and "label" in record) else set()
    numbers, matrix = torch.tensor([number for _, number in places]), torch.tensor(vectors)
    companions = numbers.bincount()[numbers] - 1  # other texts with the same number
    queries = [place for place in sorted(query_places) if companions[place]]
    hits = torch.zeros(len(RANKS))
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = torch.tensor(queries[start : start + QUERIES_AT_ONCE])
        nearness = matrix[part] @ matrix.T
        nearness[range(len(part)), part] = float("-inf")  # no text is its own neighbour
        nearest = nearness.topk(min(max(RANKS), len(matrix) - 1)).indices
        same = numbers[nearest] == numbers[part].unsqueeze(1)
        hits += torch.stack([same[:, :rank].any(1).sum() for rank in RANKS])
    shares = {
        f"recall@{rank}": round(100 * float(hit) / max(1, len(queries)), 2)
        for rank, hit in zip(RANKS, hits, strict=True)
    }
    return {**shares, "queries": len(queries), "texts": len(vectors)}
