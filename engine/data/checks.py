"""Checks of data: what looks like a mistake in cleaned records, counted, with places. Nothing here is refused."""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations

import numpy as np

from adaptdock.plugins.contracts import Record, Task
from adaptdock.plugins.toolkit.hashes import NOTHING, Hashes, hash_of, hashes_of, repeated

SHOWN = 5
LONGEST_SHOWN = 200
"""Characters of a text that are shown with a problem."""
ALIKE = 0.85
"""Ratio of difflib from which two names of labels may be the same one misspelt."""
RARE = 0.1
"""A label is taken as misspelt if it has at most this share of the records of the label that it is like."""
COMPARED = 300
"""So many labels are compared with each other."""


@dataclass(frozen=True)
class Problem:
    """Something that looks wrong: what it is, how often, and the first places, each with its text if there is one."""

    what: str
    count: int
    places: tuple[str, ...]
    texts: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the problem as one sentence."""
        more = ", ..." if self.count > len(self.places) else ""
        return f"{self.what}: {', '.join(self.places)}{more}" if self.places else self.what


def check(splits: Mapping[str, Sequence[Record]], task: Task) -> list[Problem]:
    """Return what looks wrong in cleaned records, within splits and between them."""
    problems: list[Problem] = []
    texts: dict[str, Hashes] = {}
    for split, records in splits.items():
        survey = _Survey(records, task)
        texts[split] = survey.texts
        problems += _duplicates(survey, split)
        problems += _single(survey, split)
        problems += _misspelt(survey, split)
    return [*problems, *_leaks(splits, texts, task)]


def text_of(record: Record, task: Task) -> tuple[str, ...]:
    """Return what a record asks: its words, or the fields of its texts."""
    words = type(task).words
    if words is not None and words[0] in record:
        return tuple(record[words[0]])
    fields = dict.fromkeys([*type(task).texts, *type(task).asks])
    return tuple(str(record[name]).strip() for name in fields if name in record)


def answers_of(record: Record, task: Task) -> str:
    """Return what a record answers: everything but its texts and its place."""
    kind = type(task)
    fields = kind.words[1:] if kind.words else [name for name in kind.columns if name not in kind.asks]
    return repr([record.get(name) for name in fields])


class _Survey:
    """What one reading of the records of a split tells: hashes of texts and answers, and examples of labels.

    ``examples`` counts the records with a label, and ``first`` has the place of its first one; tags of words count by
    their type (B-PER and I-PER are PER).
    """

    def __init__(self, records: Sequence[Record], task: Task) -> None:
        self.records, self.task = records, task
        self.examples: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        texts, answers = array("Q"), array("Q")
        for record in records:
            texts.append(hash_of(text_of(record, task)))
            answers.append(hash_of([answers_of(record, task)]))
            for label in {label_type(str(label)) for label in task.labels(record)} - {""}:
                self.examples[label] += 1
                self.first.setdefault(label, str(record.get("where", "?")))
        self.texts, self.answers = hashes_of(texts), hashes_of(answers)


def _duplicates(survey: _Survey, split: str) -> Iterator[Problem]:
    """Yield texts that occur more than once: with the same answer, and with different ones."""
    alike = repeated(survey.texts)
    if not len(alike):
        return
    rows = np.flatnonzero(np.isin(survey.texts, alike))
    extra, total = len(rows) - len(alike), len(survey.records)
    examples = _examples_of(survey, alike[:SHOWN])
    yield Problem(f"{split}: {extra} of {total} records repeat the text of another", extra, *examples)
    answers = np.unique(np.stack([survey.texts[rows], survey.answers[rows]]), axis=1)
    differing = alike[np.isin(alike, repeated(answers[0]))]
    if len(differing):
        examples = _examples_of(survey, differing[:SHOWN])
        yield Problem(f"{split}: {len(differing)} texts have more than one label", len(differing), *examples)


def _leaks(splits: Mapping[str, Sequence[Record]], texts: Mapping[str, Hashes], task: Task) -> Iterator[Problem]:
    """Yield texts that two splits have in common."""
    for first, second in combinations(splits, 2):
        values, places_of_first = np.unique(texts[second], return_index=True)
        is_common = np.isin(values, texts[first]) & (values != NOTHING)
        common = values[is_common][np.argsort(places_of_first[is_common])]
        if len(common):
            last = [_last_records(splits[split], texts[split], common[:SHOWN]) for split in (first, second)]
            places = tuple(_joined([_place(record) for record in pair]) for pair in zip(*last, strict=True))
            shown = tuple(_shown(record, task) for record in last[1])
            yield Problem(f"{len(common)} texts of {second} are in {first} too", len(common), places, shown)


def _single(survey: _Survey, split: str) -> Iterator[Problem]:
    """Yield labels of which there is one example."""
    single = [label for label in survey.first if survey.examples[label] == 1]
    if single and len(survey.first) > 1:
        shown = tuple(f"{label!r} at {survey.first[label]}" for label in single[:SHOWN])
        yield Problem(f"{split}: {len(single)} labels have one example only", len(single), shown)


def _misspelt(survey: _Survey, split: str) -> Iterator[Problem]:
    """Yield pairs of labels of which the rare one looks like the frequent one misspelt."""
    count = survey.examples
    frequent = sorted(survey.first, key=lambda label: -count[label])[:COMPARED]
    pairs = [
        (rare, usual)
        for usual, rare in combinations(frequent, 2)
        if count[rare] <= max(1, RARE * count[usual]) < count[usual] and _alike(rare, usual)
    ]
    if pairs:
        shown = tuple(f"{rare!r} for {usual!r} at {survey.first[rare]}" for rare, usual in pairs[:SHOWN])
        yield Problem(f"{split}: {len(pairs)} labels may be misspelt", len(pairs), shown)


def label_type(label: str) -> str:
    """Return the type in the tag of a word (B-PER and I-PER are PER, O is empty), or any other label as it is."""
    if label == "O":
        return ""
    return label[2:] if label[:2] in ("B-", "I-") else label


def _alike(first: str, second: str) -> bool:
    """Tell names that differ in case, spaces or a few letters, not in digits: ``item 1`` and ``item 2`` are two."""
    plain = ["".join(name.casefold().split()) for name in (first, second)]
    if plain[0] == plain[1]:
        return True
    digits = [[letter for letter in name if letter.isdigit()] for name in plain]
    shortest = min(map(len, plain))
    matcher = SequenceMatcher(a=plain[0], b=plain[1], autojunk=False)
    return digits[0] == digits[1] and shortest > 3 and matcher.quick_ratio() >= ALIKE and matcher.ratio() >= ALIKE


def _examples_of(survey: _Survey, wanted: Hashes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the places and the texts of the records with each of these hashes of their text."""
    numbers = [np.flatnonzero(survey.texts == value) for value in wanted]
    pairs = [[survey.records[number] for number in some[:2]] for some in numbers]
    places = [_joined(list(map(_place, pair)), len(some)) for pair, some in zip(pairs, numbers, strict=True)]
    return tuple(places), tuple(_shown(pair[0], survey.task) for pair in pairs)


def _last_records(records: Sequence[Record], hashes: Hashes, wanted: Hashes) -> list[Record]:
    """Return the last record with each of these hashes."""
    return [records[np.flatnonzero(hashes == value)[-1]] for value in wanted]


def _shown(record: Record, task: Task) -> str:
    """Return the text of a record for a person; a long one is cut."""
    text = " ".join(text_of(record, task))
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _place(record: Record) -> str:
    return str(record.get("where", "?"))


def _joined(places: Sequence[str], count: int = 0) -> str:
    return " and ".join(places) + (f" and {count - 2} more" if count > 2 else "")
