"""The common part of tasks that tag words: reading, windows, head, loss, and scores of words."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from sys import intern
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Cleaned, Decision, Feature, FitExamples, Labels, Reading, Record
from adaptdock.plugins.toolkit.classic_answers import most_frequent_tags
from adaptdock.plugins.toolkit.heads import LayeredOptions, TokenHead
from adaptdock.plugins.toolkit.linear_fit import fit_classes
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.plugins.toolkit.windowing import align
from adaptdock.tasks.labels.printed_lists import printed_list
from adaptdock.tasks.labels.uncounted import counted, counted_sentences, tags_with_gaps
from adaptdock.tasks.tagging.divided_words import WordOptions, WordTask, strings
from adaptdock.tasks.tagging.sentence_columns import token_column
from adaptdock.tasks.tagging.tag_numbers import with_names

NOT_COUNTED = -100
UNLIKELY = 1e-3
"""The probability of a tag that is not the most frequent one of a word."""
LEAST = 1e-9
"""The probability of a tag below which its logarithm is not followed."""
ENOUGH = 20
"""Fewest rows of a table for an error that each row has one word."""


class TaggingOptions(LayeredOptions, WordOptions):
    """Options of all tasks that tag words."""

    labels: Labels = ()
    """Tags; learnt from the training data unless given."""
    tag_names: tuple[str, ...] = ()
    """Names of tags that the data has as numbers, for 0, 1 and so on: O,B-PER,I-PER."""


class Tagging(WordTask):
    """A task with a tag for each word, which is labelled at one of its tokens (see :func:`align`)."""

    options: TaggingOptions
    words = ("tokens", "tags")

    @property
    @abstractmethod
    def tags(self) -> list[str]:
        """The classes of the head."""

    @classmethod
    @abstractmethod
    def column_of_tags(cls, columns: Sequence[Sequence[str]]) -> int | None:
        """Return the column of the tags, judged by the values; None if the values do not show it."""

    @classmethod
    def locate(cls, sentences: Sequence[Sequence[Sequence[str]]]) -> dict[str, int]:
        """Find the columns of words and tags; counters and names of documents are not words."""
        width = len(sentences[0]) if sentences else 0
        if width < 2:
            return {}
        columns = [[cell for sentence in sentences for cell in sentence[number]] for number in range(width)]
        tags = cls.column_of_tags(columns)
        tokens = token_column(sentences, tags)
        located = {"tokens": tokens, "tags": tags}
        return {field: column for field, column in located.items() if column is not None}

    @abstractmethod
    def tagged(self, tags: Sequence[str]) -> list[tuple[str, int, int]]:
        """Return (label, first word, end) of each answer in a sequence of tags; the end is exclusive."""

    @abstractmethod
    def tags_of(self, label: str, words: int) -> list[str]:
        """Return the tags of the words of an answer."""

    def learnt(self, records: Sequence[Record], labels: Sequence[str]) -> Self:
        """Return this task with its labels, and with the division of the training records into words."""
        learnt = {"labels": tuple(labels), "division": self.learnt_division(records)}
        return type(self)(self.options.model_copy(update=learnt))

    def labels(self, record: Record) -> list[str]:
        """Return the tags of the words, each once."""
        sentence = _sentence(with_names([record], self.options.tag_names, "a record")[0], "a record")
        return sorted(set(counted(sentence["tags"])))

    def class_weights(self, records: Sequence[Record]) -> list[float] | None:
        """Return weights that give every tag the same sum."""
        counts = Counter(tag for record in records for tag in counted(record["tags"]))
        total = sum(counts.values())
        return [total / (len(self.tags) * max(1, counts[tag])) for tag in self.tags]

    def head(self) -> TokenHead:
        """Return a linear layer from each hidden state to the tags."""
        return TokenHead(len(self.tags), self.options.hidden_layers, self.options.norms)

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Tokenise the sentence in overlapping windows; each word is labelled in one window.

        The words of a text are joined by single spaces, as in training.
        """
        text, spans = self.read_text(record)
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

    def fit_head(self, examples: FitExamples, strength: float | None) -> dict[str, Tensor] | None:
        """Return a logistic regression of the words' tags."""
        return fit_classes(examples, len(self.tags), strength)

    def classic_answers(self, train: Sequence[Record], records: Sequence[Record]) -> dict[str, list[dict[str, Any]]]:
        """Return the tag that each word has most often, and the nearest legal tags of the sentence."""
        sentences = ((record["tokens"], record["tags"]) for record in train)
        numbers = {tag: number for number, tag in enumerate(self.tags)}
        answers = []
        for tags in most_frequent_tags(sentences, [record["tokens"] for record in records]):
            scores = torch.full((len(tags), len(numbers)), UNLIKELY)
            for word, tag in enumerate(tags):
                if tag in numbers:
                    scores[word, numbers[tag]] = 1.0
            names = [self.tags[number] for number in self.best(scores)]
            answers.append({"tags": names, "words": [{"tag": name} for name in names]})
        return {"the most frequent tag of each word": answers}

    def best(self, scores: Tensor) -> list[int]:
        """Return the number of the most probable tag of each word, from probabilities (words, tags)."""
        return [int(number) for number in scores.argmax(-1)]

    def pseudo(
        self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]
    ) -> tuple[Record, float] | None:
        """Return the sentence with predicted tags, and the probability of the least certain tag."""
        if not record["tokens"]:
            return None
        scores = self.scores(len(record["tokens"]), features, digests)
        numbers = self.best(scores)
        sure = scores.gather(1, torch.tensor(numbers).unsqueeze(1)).min().item()
        return {**record, "tags": [self.tags[number] for number in numbers]}, sure

    @property
    def class_names(self) -> list[str]:
        """The tags."""
        return self.tags

    def labelled_part(self, record: Record, feature: Feature, position: int) -> str:
        """Return the word whose tag is predicted at a position."""
        return next(str(record["tokens"][word]) for word, place in feature.alignment if place == position)

    def margin(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> float:
        """Return the least difference between the two greatest probabilities of a word's tags.

        Source: the minimum token margin of Marcheggiani and Artières (2014).
        """
        words = sorted({word for feature in features for word, _ in feature.alignment})
        if not words:
            return 1.0
        greatest = self.scores(len(record["tokens"]), features, digests)[words].topk(2, dim=-1).values
        return (greatest[:, 0] - greatest[:, 1]).min().item()

    def decisions(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> list[Decision]:
        """Return the predicted entities, or words with a tag."""
        spans = self.word_spans(record)
        tags = [self.tags[number] for number in self.best(self.scores(len(spans), features, digests))]
        return [
            Decision(label, spans[first][0], spans[end - 1][1], first, end) for label, first, end in self.tagged(tags)
        ]

    def log_probability(
        self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor], decision: Decision
    ) -> float:
        """Return the sum of the log-probabilities of the tags of an answer's words."""
        scores = self.scores(len(record["tokens"]), features, digests).clamp_min(LEAST).log()
        tags = self.tags_of(decision.label, decision.last - decision.first)
        return sum(scores[decision.first + place, self.tags.index(tag)].item() for place, tag in enumerate(tags))

    def scores(self, words: int, features: Sequence[Feature], digests: Sequence[Tensor]) -> Tensor:
        """Return the probabilities of the tags (words, tags); a word without tokens gets the first tag."""
        scores = torch.zeros(words, len(self.tags))
        scores[:, 0] = 1.0
        for feature, digest in zip(features, digests, strict=True):
            if feature.alignment:
                numbers, positions = zip(*feature.alignment, strict=True)
                scores[list(numbers)] = digest[list(positions)].float().softmax(-1)
        return scores


def read_sentences(records: Iterable[Record], split: str) -> Cleaned:
    """Return records whose tokens and tags are lists of texts, with one tag per token.

    A text is divided at spaces, unless it is a printed list. Raises :class:`DataError` if tokens and tags differ in
    number, and for a table with one row per word.
    """
    texts = printed = 0
    single = True

    def sentence(record: Record) -> Record:
        nonlocal texts, printed, single
        if isinstance(record["tokens"], str):
            texts += 1
            printed += printed_list(record["tokens"]) is not None
        divided = _sentence(record, split)
        single = single and len(divided["tokens"]) == 1
        return divided

    sentences = stored(map(sentence, records))
    if texts >= ENOUGH and single:
        raise DataError(
            f"{sentences[0].get('where', split)}: each row has one word, so no word has a sentence around it: a row "
            f"of a table has to hold all tokens and tags of a sentence. One word per line, with an empty line after "
            f"each sentence, is read from a file with the suffix .conll."
        )
    notes = [f"{split}: tokens of {printed} records are printed lists, and were read as lists"] if printed else []
    tagged, gaps = counted_sentences(sentences, split)
    return Cleaned(tagged, [*notes, *gaps])


def _sentence(record: Record, split: str) -> Record:
    where = str(record.get("where", split))
    tokens = strings(record["tokens"], "tokens", where)
    tags = [intern(str(tag)) for tag in tags_with_gaps(strings(tags_with_gaps(record["tags"]), "tags", where))]
    if len(tokens) != len(tags):
        raise DataError(f"{where}: {len(tokens)} tokens but {len(tags)} tags")
    return {**record, "tokens": tokens, "tags": tags}
