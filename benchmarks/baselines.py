"""Trivial baselines of the tasks, on the test data of a plan: what can be answered without a model."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import torch
from torch.nn import functional

from adaptdock.engine.training.planning.plan import Plan
from adaptdock.plugins.contracts import Record

Metrics = Mapping[str, Any]
WORDS = 4096
"""Places of a hashed bag of words."""


def most_frequent_class(made: Plan) -> Metrics:
    (label, _), *_ = Counter(record["label"] for record in made.records["train"]).most_common(1)
    answer = {"label": label, "score": 1.0, "scores": {label: 1.0}}
    return made.task.score(made.records["test"], [answer] * len(made.records["test"]))


def most_frequent_tag(made: Plan) -> Metrics:
    """Give each word the tag that it has most often; an unknown word the most frequent of all."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for record in made.records["train"]:
        for word, tag in zip(record["tokens"], record["tags"], strict=True):
            seen[word.lower()][tag] += 1
    (common, _), *_ = sum(seen.values(), Counter()).most_common(1)
    test = made.records["test"]
    tagged = [[(seen.get(w.lower()) or Counter([common])).most_common(1)[0][0] for w in r["tokens"]] for r in test]
    return made.task.score(test, [{"tags": tags, "words": [{"tag": tag} for tag in tags]} for tags in tagged])


def most_similar_sentence(made: Plan) -> Metrics:
    """Answer with the sentence of the context that has most words in common with the question."""
    answers = []
    for record in made.records["test"]:
        asked = words(record["question"])
        best = max(sentences(record["context"]), key=lambda sentence: len(asked & words(sentence)))
        answers.append({"answer": best})
    return made.task.score(made.records["test"], answers)


def bags_of_words(made: Plan) -> Metrics:
    """Embed a text as the words that stand in it, each at a place that its hash gives."""
    records = made.records["test"]
    names = {"text": "embedding", "positive": "positive", "negative": "negative"}
    answers = [{names[name]: bag(record[name]) for name in names if name in record} for record in records]
    return made.task.score(records, answers)


def most_frequent_answer(made: Plan) -> Metrics:
    (answer, _), *_ = Counter(record["answer"] for record in made.records["train"]).most_common(1)
    return compared(made, lambda record: str(answer))


def first_sentence(made: Plan) -> Metrics:
    return compared(made, lambda record: sentences(record["source"])[0])


def copied(made: Plan) -> Metrics:
    return compared(made, lambda record: str(record["source"]))


def frequencies(made: Plan) -> Metrics:
    """Predict each token by how often training predicts it, one added to each count."""
    counts = Counter(label for unit in made.units for feature in unit for label in feature.labels if label >= 0)
    total = sum(counts.values()) + len(made.backbone.tokenizer)
    asked = [
        label
        for record in made.records["test"]
        for feature in made.task.encode(record, made.reading, labelled=True)
        for label in feature.labels
        if label >= 0
    ]
    likelihood = sum(math.log((counts[label] + 1) / total) for label in asked)
    return {"perplexity": math.exp(-likelihood / len(asked))}


def compared(made: Plan, answer: Callable[[Record], str]) -> Metrics:
    """Return what the task makes of answers to the records for which it has answers written."""
    records = made.records["test"][: made.task.written]
    return made.task.compare(records, [{"text": answer(record)} for record in records])


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text)


def bag(text: str) -> list[float]:
    found = torch.zeros(WORDS)
    for word in words(text):
        found[int.from_bytes(sha256(word.encode()).digest()[:4]) % WORDS] += 1
    return functional.normalize(found, dim=0).tolist()
