"""Occlusion: which words of a text decided an answer (Zeiler and Fergus 2014, arXiv:1311.2901; Li et al. 2016).

Each word in turn is replaced by the mask token of the backbone, or removed if it has none. The effect of a word is the
log-probability of the answer for the whole text minus that without the word, in nats. A positive effect speaks for the
answer, a negative one against it. Effects of words do not add up: words that say the same cover for each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from adaptdock.engine.core.docked_adapters import DockedAdapters, Row
from adaptdock.engine.inference.pipeline import EncodedRecord, compute
from adaptdock.errors import UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Decision, Occludable, Record

ELLIPSIS = "..."
"""The filler for tasks with an answer for each word, on a backbone without a mask token."""
WORDS_AT_ONCE = 256
"""Occluded records that are encoded together."""


@dataclass(frozen=True)
class WordEffect:
    """A word, its span in the explained text, and its effect on the log-probability of an answer, in nats."""

    text: str
    start: int
    end: int
    effect: float


@dataclass(frozen=True)
class Explanation:
    """An answer with its log-probability, and the effect of each word on it, in the order of the text."""

    decision: Decision
    text: str
    log_probability: float
    words: tuple[WordEffect, ...]

    def strongest(self, count: int) -> list[WordEffect]:
        """Return the words with the greatest effects, for or against the answer, in the order of the text."""
        strongest = sorted(self.words, key=lambda word: -abs(word.effect))[:count]
        return sorted(strongest, key=lambda word: word.start)


def filler(dock: DockedAdapters, task: Occludable) -> str:
    """Return the text that replaces a word; an empty one removes it."""
    mask = getattr(dock.backbone.tokenizer, "mask_token", None)
    return str(mask) if mask else ELLIPSIS if task.keeps_words else ""


def explain(dock: DockedAdapters, name: str, item: object, batch_size: int = 32) -> list[Explanation]:
    """Return an explanation for each answer of a docked adapter to an input: a label, or each entity.

    Raises :class:`UsageError` for an adapter of a task without words to leave out.
    """
    with dock.boarding([name]) as (row,):
        task = row[-1].assembly.task
        if not isinstance(task, Occludable):
            raise UsageError(
                f"the answers of {name!r}, an adapter for {row[-1].card.task.name}, cannot be explained by occlusion; "
                f"those of these tasks can: {', '.join(_explained())}"
            )
        record = task.read(item)
        (whole,) = compute(dock, [row], [record], batch_size)
        if not whole.windows:
            return []
        decisions = task.decisions(record, whole.windows, whole.digests)
        base = [_log_probability(task, whole, decision) for decision in decisions]
        effects: list[list[float]] = []
        fill = filler(dock, task)
        spans = task.word_spans(record)
        for start in range(0, len(spans) if decisions else 0, WORDS_AT_ONCE):
            part = range(start, min(len(spans), start + WORDS_AT_ONCE))
            occluded = [task.occluded(record, word, fill) for word in part]
            for encoded in _computed(dock, row, occluded, batch_size):
                values = (_log_probability(task, encoded, decision) for decision in decisions)
                effects.append([before - value for before, value in zip(base, values, strict=True)])
    text = task.explained_text(record)
    return [
        Explanation(
            decision,
            text,
            base[number],
            tuple(
                WordEffect(text[start:end], start, end, of_decisions[number])
                for (start, end), of_decisions in zip(spans, effects, strict=True)
            ),
        )
        for number, decision in enumerate(decisions)
    ]


def _computed(dock: DockedAdapters, row: Row, records: Sequence[Record], batch_size: int) -> list[EncodedRecord]:
    return compute(dock, [row] * len(records), records, batch_size)


def _log_probability(task: Occludable, encoded: EncodedRecord, decision: Decision) -> float:
    return task.log_probability(encoded.record, encoded.windows, encoded.digests, decision)


def _explained() -> list[str]:
    """Return the names of the tasks whose answers can be explained."""
    return [name for name in registry.names("task") if hasattr(registry.load("task", name), "occluded")]
