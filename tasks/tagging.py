"""What tasks share that give each word a tag: reading, windows, head, loss, and the words' scores."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.plugins.contracts import Feature, Reading, Record, Task
from adaptdock.plugins.errors import DataError
from adaptdock.plugins.heads import TokenHead
from adaptdock.plugins.words import align, split_words

NOT_COUNTED = -100


class Tagging(Task):
    """A task with a tag for each word. Each is labelled at one of its tokens (see :func:`align`)."""

    words = ("tokens", "tags")

    @property
    @abstractmethod
    def tags(self) -> list[str]:
        """The classes of the head."""

    def labels(self, record: Record) -> list[str]:
        """Return the tags of the words, each once."""
        return sorted(set(tagged(record)["tags"]))

    def class_weights(self, records: Sequence[Record]) -> list[float] | None:
        """Return weights that would give every tag the same sum."""
        counts = Counter(tag for record in records for tag in record["tags"])
        total = sum(counts.values())
        return [total / (len(self.tags) * max(1, counts[tag])) for tag in self.tags]

    def head(self) -> TokenHead:
        """Return a linear map to the tags."""
        return TokenHead(len(self.tags), self.options.hidden_layers)

    def read(self, item: Any) -> Record:
        """Read a text, or an object with ``tokens`` or ``text``."""
        if isinstance(item, Mapping) and "tokens" in item:
            return {"tokens": strings(item["tokens"], "tokens", "an input")}
        text = item.get("text") if isinstance(item, Mapping) else item
        if not isinstance(text, str):
            raise DataError(
                f"words are tagged in a text, or an object with 'text' or 'tokens'; found {type(item).__name__}"
            )
        spans = split_words(text)
        return {"text": text, "spans": spans, "tokens": [text[start:end] for start, end in spans]}

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Tokenise the sentence in overlapping windows; each word is labelled in one of them."""
        text, spans = text_of(record)
        features = align(text, spans, reading)
        if labelled:
            numbers = {tag: number for number, tag in enumerate(self.tags)}
            for feature in features:
                feature.labels = [NOT_COUNTED] * len(feature.inputs["input_ids"])
                for word, position in feature.alignment:
                    feature.labels[position] = numbers.get(record["tags"][word], NOT_COUNTED)
        return features

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the cross entropy over the labelled positions."""
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), weights)

    def best(self, scores: Tensor) -> list[int]:
        """Return the number of each word's tag, from probabilities (words, tags): the most probable one."""
        return [int(number) for number in scores.argmax(-1)]

    def pseudo(
        self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]
    ) -> tuple[Record, float] | None:
        """Return the sentence with the tags that are predicted, and the probability of the least sure one."""
        if not record["tokens"]:
            return None
        scores = self.scores(len(record["tokens"]), features, digests)
        numbers = self.best(scores)
        sure = scores.gather(1, torch.tensor(numbers).unsqueeze(1)).min().item()
        return {**record, "tags": [self.tags[number] for number in numbers]}, sure

    def scores(self, words: int, features: Sequence[Feature], digests: Sequence[Tensor]) -> Tensor:
        """Return the probabilities of the tags (words, tags); a word that has no token gets the first tag."""
        scores = torch.zeros(words, len(self.tags))
        scores[:, 0] = 1.0
        for feature, found in zip(features, digests, strict=True):
            if feature.alignment:
                numbers, positions = zip(*feature.alignment, strict=True)
                scores[list(numbers)] = found[list(positions)].float().softmax(-1)
        return scores


def tagged(record: Record) -> Record:
    """Return a record whose tokens and tags are lists of texts, one tag a token; raise :class:`DataError` if not."""
    where = record.get("where", "a record")
    tokens, tags = strings(record["tokens"], "tokens", where), strings(record["tags"], "tags", where)
    if len(tokens) != len(tags):
        raise DataError(f"{where}: {len(tokens)} tokens but {len(tags)} tags")
    return {**record, "tokens": tokens, "tags": tags}


def strings(given: Any, name: str, where: str) -> list[str]:
    """Return a list of texts, or the parts of a text that is divided by spaces; raise :class:`DataError` else."""
    if isinstance(given, str):
        return given.split()
    if not isinstance(given, list | tuple) or not all(isinstance(part, str) for part in given):
        raise DataError(f"{where}: {name} are a list of texts, or one text divided by spaces; found {given!r:.60}")
    return list(given)


def text_of(record: Record) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of a record and the spans of its words; words without a text stand one space apart."""
    if "spans" in record:
        return record["text"], record["spans"]
    spans, start = [], 0
    for token in record["tokens"]:
        spans.append((start, start + len(token)))
        start += len(token) + 1
    return " ".join(record["tokens"]), spans
