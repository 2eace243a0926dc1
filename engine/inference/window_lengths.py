"""How the texts of data fit a backbone: tokens against its window, and words that its tokenizer does not know."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from adaptdock.engine.core.batches import length
from adaptdock.plugins.contracts import Reading, Record, Task


@dataclass(frozen=True)
class WindowLengths:
    """Tokens of the records' windows; ``several`` are the places of records that need more than one."""

    median: int
    longest: int
    limit: int
    several: tuple[str, ...]
    cut: tuple[str, ...]
    """Places of records of which tokens are cut off."""
    unknown: float
    """Share of the tokens that stand for something that the tokenizer does not know."""


def window_lengths(records: Sequence[Record], task: Task, reading: Reading) -> WindowLengths:
    """Return how records fit the window of a backbone; the task is fitted, and has at least one record."""
    unknown_id = getattr(reading.tokenizer, "unk_token_id", None)
    lengths: list[int] = []
    several: list[str] = []
    cut: list[str] = []
    unknown = 0
    for record in records:
        features = task.encode(record, reading, True)
        lengths += map(length, features)
        unknown += sum(feature.inputs["input_ids"].count(unknown_id) for feature in features)
        place = str(record.get("where", "?"))
        if len(features) > 1:
            several.append(place)
        if any(feature.cut for feature in features):
            cut.append(place)
    share = unknown / max(1, sum(lengths))
    middle = int(median(lengths)) if lengths else 0
    return WindowLengths(middle, max(lengths, default=0), reading.max_length, tuple(several), tuple(cut), share)
