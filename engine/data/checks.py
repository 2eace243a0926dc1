"""Checks of data: what looks like a mistake in cleaned records, counted, with places. Nothing here is refused."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations

from adaptdock.plugins.contracts import Record, Task

SHOWN = 5
ALIKE = 0.85
"""Ratio of difflib from which two names of labels may be the same one misspelt."""
RARE = 0.1
"""A label is taken as misspelt if it has at most this share of the records of the one that it is like."""
COMPARED = 300
"""So many labels are compared with each other."""


@dataclass(frozen=True)
class Problem:
    """Something that looks wrong: what it is, how often, and the first places."""

    what: str
    count: int
    places: tuple[str, ...]

    def describe(self) -> str:
        """Return the problem as one sentence."""
        more = ", ..." if self.count > len(self.places) else ""
        return f"{self.what}: {', '.join(self.places)}{more}" if self.places else self.what


def check(splits: Mapping[str, Sequence[Record]], task: Task) -> list[Problem]:
    """Return what looks wrong in cleaned records, within splits and between them."""
    problems: list[Problem] = []
    for split, records in splits.items():
        for find in (_duplicates, _single, _misspelt):
            problems += find(records, task, split)
    return [*problems, *_leaks(splits, task)]


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


def _duplicates(records: Sequence[Record], task: Task, split: str) -> Iterator[Problem]:
    """Yield texts that occur more than once: with the same answer, and with different ones."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        text = text_of(record, task)
        if any(text):
            groups.setdefault(text, []).append(record)
    repeated = [group for group in groups.values() if len(group) > 1]
    differing = [group for group in repeated if len({answers_of(record, task) for record in group}) > 1]
    extra = sum(len(group) - 1 for group in repeated)
    if extra:
        places = tuple(_places(group) for group in repeated[:SHOWN])
        yield Problem(f"{split}: {extra} of {len(records)} records repeat the text of another", extra, places)
    if differing:
        places = tuple(_places(group) for group in differing[:SHOWN])
        yield Problem(f"{split}: {len(differing)} texts have more than one label", len(differing), places)


def _leaks(splits: Mapping[str, Sequence[Record]], task: Task) -> Iterator[Problem]:
    """Yield texts that two splits have in common."""
    texts = {split: {text_of(record, task): record for record in records} for split, records in splits.items()}
    for first, second in combinations(texts, 2):
        common = [text for text in texts[second] if text in texts[first] and any(text)]
        if common:
            places = tuple(_places([texts[first][text], texts[second][text]]) for text in common[:SHOWN])
            yield Problem(f"{len(common)} texts of {second} are in {first} too", len(common), places)


def _single(records: Sequence[Record], task: Task, split: str) -> Iterator[Problem]:
    """Yield labels of which there is one example."""
    examples = _examples(records, task)
    single = [label for label, places in examples.items() if len(places) == 1]
    if single and len(examples) > 1:
        shown = tuple(f"{label!r} at {examples[label][0]}" for label in single[:SHOWN])
        yield Problem(f"{split}: {len(single)} labels have one example only", len(single), shown)


def _misspelt(records: Sequence[Record], task: Task, split: str) -> Iterator[Problem]:
    """Yield pairs of labels of which the rare one looks like the frequent one misspelt."""
    examples = _examples(records, task)
    frequent = sorted(examples, key=lambda label: -len(examples[label]))[:COMPARED]
    pairs = [
        (rare, usual)
        for usual, rare in combinations(frequent, 2)
        if len(examples[rare]) <= max(1, RARE * len(examples[usual])) < len(examples[usual]) and _alike(rare, usual)
    ]
    if pairs:
        shown = tuple(f"{rare!r} for {usual!r} at {examples[rare][0]}" for rare, usual in pairs[:SHOWN])
        yield Problem(f"{split}: {len(pairs)} labels may be misspelt", len(pairs), shown)


def _examples(records: Sequence[Record], task: Task) -> dict[str, list[str]]:
    """Return label -> the places of its examples; tags of words count by their type (B-PER and I-PER are PER)."""
    examples: dict[str, list[str]] = {}
    for record in records:
        labels = {label_type(str(label)) for label in task.labels(record)}
        for label in labels - {""}:
            examples.setdefault(label, []).append(str(record.get("where", "?")))
    return examples


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


def _places(records: Iterable[Record]) -> str:
    places = [str(record.get("where", "?")) for record in records]
    return " and ".join(places[:2]) + (f" and {len(places) - 2} more" if len(places) > 2 else "")
