"""Augmentation: altered copies of the training records, by name, seed and rate; labels stay as they are.

A task says what may be altered: texts, or words of which each has a tag (:attr:`Task.texts`, :attr:`Task.words`).
Words of a tagging task change places with words of the same tag only, so that the sequence of tags stays; a word
that is deleted takes its tag along, by :meth:`Task.without`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from adaptdock.engine.data import perturbations
from adaptdock.engine.data.perturbations import Alteration, replacing
from adaptdock.errors import UnknownNameError, UsageError
from adaptdock.plugins.contracts import Record, Task
from adaptdock.plugins.toolkit.windowing import split_words

Bound = Callable[[Sequence[str], Sequence[Any]], list[str | None]]
"""An alteration whose rate and generator are chosen."""

Translate = Callable[[Sequence[str]], Sequence[str | None]]
"""Translates texts into another language and back; None for a text that is too long."""

BACK_TRANSLATE = "back_translate"
RATES = {
    "swap": 0.1,
    "delete": 0.1,
    "typos": 0.1,
    "case": 0.1,
    "synonyms": 0.3,
    "wordnet": 0.3,
    "lemmatize": 1.0,
    "stem": 1.0,
    BACK_TRANSLATE: 1.0,
}
"""The augmentations, each with the share of the words that it changes unless told (of the records, back_translate)."""


@dataclass(frozen=True)
class Augmentation:
    """One of the augmentations, and the share of the words that it changes."""

    name: str
    rate: float


@dataclass(frozen=True)
class AugmentationSettings:
    """The augmentations of a run, the copies that each makes of a record, and what they read."""

    augmentations: Sequence[Augmentation]
    copies: int
    language: str
    synonyms: Path | None
    seed: int
    translate: Translate


@dataclass(frozen=True)
class Augmented:
    """The altered copies, how many each augmentation gave, and that in words."""

    records: list[Record]
    added: dict[str, int]
    notes: list[str]


def parse(given: Iterable[str]) -> list[Augmentation]:
    """Turn ``swap`` or ``swap:0.2`` into augmentations.

    Raises :class:`UnknownNameError` for a name that is none, :class:`UsageError` for a rate that is none, or a name
    twice.
    """
    augmentations = []
    for part in given:
        name, colon, rate = part.partition(":")
        if name not in RATES:
            raise UnknownNameError("augmentation", name, RATES)
        try:
            share = float(rate) if colon else RATES[name]
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise UsageError(f"--augment {part}: a rate is a share above 0 and up to 1, such as {name}:{RATES[name]:g}")
        augmentations.append(Augmentation(name, share))
    names = [augmentation.name for augmentation in augmentations]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--augment names {twice!r} twice; --augment-copies makes more than one copy")
    return augmentations


def augment(records: Sequence[Record], task: Task, settings: AugmentationSettings) -> Augmented:
    """Return altered copies of records that the task has cleaned.

    Each augmentation makes ``settings.copies`` of each record (back-translation one); a copy that equals its record or
    another copy of it is left out. A copy holds its number under ``copy``. Raises :class:`UsageError` where the task
    has nothing that may be altered.
    """
    if not settings.augmentations:
        return Augmented([], {}, [])
    _check(settings.augmentations, task)
    contents = [{_content(record, task)} for record in records]
    altered: list[Record] = []
    added, notes = {}, []
    for augmentation in settings.augmentations:
        before = len(altered)
        for number, copy in _copies(augmentation, records, task, settings):
            content = _content(copy, task)
            if content not in contents[number]:
                contents[number].add(content)
                altered.append({**copy, "copy": len(altered) + 1})
        added[augmentation.name] = len(altered) - before
        notes.append(
            f"augmentation {augmentation.name}:{augmentation.rate:g}: {added[augmentation.name]} records added to "
            f"{len(records)}"
        )
    return Augmented(altered, added, notes)


def _check(augmentations: Sequence[Augmentation], task: Task) -> None:
    kind = type(task)
    if kind.words is None and not kind.texts:
        raise UsageError(
            f"{kind.__name__} names no text or words that may be altered while its labels hold: train without --augment"
        )
    if kind.words is not None and any(augmentation.name == BACK_TRANSLATE for augmentation in augmentations):
        raise UsageError(
            f"{BACK_TRANSLATE} does not go with {kind.__name__}: a translation has other words in another order, and "
            f"nothing says which tag is whose. synonyms or swap keep words and tags together"
        )


def _copies(
    augmentation: Augmentation, records: Sequence[Record], task: Task, settings: AugmentationSettings
) -> Iterable[tuple[int, Record]]:
    """Yield the number of a record and an altered copy of it."""
    if augmentation.name == BACK_TRANSLATE:
        yield from _translated(augmentation, records, task, settings)
        return
    alter = _alteration(augmentation.name, settings, single=type(task).words is not None)
    for number, record in enumerate(records):
        for copy in range(settings.copies):
            random = Random(f"{settings.seed}/{augmentation.name}/{copy}/{number}")
            yield number, _altered(record, task, _bound(alter, augmentation.rate, random))


def _bound(alter: Alteration, rate: float, random: Random) -> Bound:
    return lambda words, kinds: alter(words, kinds, rate, random)


def _alteration(name: str, settings: AugmentationSettings, single: bool) -> Alteration:
    replacements: dict[str, Callable[[], perturbations.Others]] = {
        "lemmatize": lambda: perturbations.lemmas(settings.language),
        "stem": lambda: perturbations.stems(settings.language),
        "synonyms": lambda: perturbations.synonyms(settings.synonyms or Path(), single),
        "wordnet": lambda: perturbations.wordnet(settings.language, single),
    }
    if name in replacements:
        return replacing(replacements[name]())
    by_itself: dict[str, Alteration] = {
        "swap": perturbations.swap,
        "delete": perturbations.delete,
        "typos": perturbations.typos,
        "case": perturbations.case,
    }
    return by_itself[name]


def _altered(record: Record, task: Task, alter: Bound) -> Record:
    kind = type(task)
    if kind.words is None:
        return {**record, **{name: _in_text(record[name], alter) for name in _texts(record, kind)}}
    tokens, tags = kind.words
    words = alter(record[tokens], record[tags])
    changed = {**record, tokens: [word or "" for word in words]}
    remaining = [place for place, word in enumerate(words) if word is not None]
    return changed if len(remaining) == len(words) else task.without(changed, remaining)


def _in_text(text: str, alter: Bound) -> str:
    """Alter the words of a text; what stands between them stays, but for the space before one that is deleted."""
    spans = split_words(text)
    words = alter([text[start:end] for start, end in spans], [None] * len(spans))
    parts, cursor = [], 0
    for (start, end), word in zip(spans, words, strict=True):
        between = text[cursor:start]
        parts.append(between.rstrip() if word is None else between + word)
        cursor = end
    altered = "".join([*parts, text[cursor:]])
    return altered.lstrip() if None in words else altered


def _texts(record: Record, kind: type[Task]) -> list[str]:
    return [name for name in kind.texts if isinstance(record.get(name), str)]


def _content(record: Record, task: Task) -> tuple[Any, ...]:
    kind = type(task)
    if kind.words is None:
        return tuple(record[name] for name in _texts(record, kind))
    return tuple(tuple(record[name]) for name in kind.words)


def _translated(
    augmentation: Augmentation, records: Sequence[Record], task: Task, settings: AugmentationSettings
) -> Iterable[tuple[int, Record]]:
    """Yield records whose texts were translated and translated back; those with a text too long for it are left out."""
    drawn = Random(f"{settings.seed}/{augmentation.name}").sample(
        range(len(records)), max(1, round(augmentation.rate * len(records)))
    )
    numbers = sorted(drawn)
    texts = list(
        dict.fromkeys(records[number][name] for number in numbers for name in _texts(records[number], type(task)))
    )
    translations = dict(zip(texts, settings.translate(texts), strict=True))
    for number in numbers:
        copy = {name: translations[records[number][name]] for name in _texts(records[number], type(task))}
        if all(copy.values()):
            yield number, {**records[number], **copy}
