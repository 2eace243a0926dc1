"""Rates: how fast this process computes, generates and tokenizes, measured as it works.

The cost of an input is in tokens of a short text with one adapter (:meth:`Work.cost`). Before an input is tokenized its
tokens are estimated from its characters.
"""

from dataclasses import dataclass, field

HALF_LIFE = 10.0
"""Seconds of computation after which a measurement counts half."""
CHARACTERS = 4.0
"""Characters per token until texts have been tokenized."""
SHORTEST_WAIT = 0.1
"""Seconds of an expected wait that is compared with the real one."""
LARGEST_DELAY = 8.0
"""Upper limit of a comparison. The lower limit is 1: a calm time must not allow for more in the next flood."""
REMEMBERED = 0.95
"""Weight of earlier texts in the moving averages over texts."""


@dataclass
class Speed:
    """Cost computed per second: the quotient of two sums, in which earlier batches fade."""

    cost: float = 0.0
    seconds: float = 0.0

    def measure(self, cost: float, seconds: float) -> None:
        """Count a batch."""
        fading = 0.5 ** (seconds / HALF_LIFE)
        self.cost, self.seconds = self.cost * fading + cost, self.seconds * fading + seconds

    def time(self, cost: float) -> float:
        """Return the seconds for a cost; 0 as long as nothing is measured."""
        return cost * self.seconds / self.cost if self.cost else 0.0


@dataclass
class Rates:
    """The measured rates of one process. The caller serializes the access."""

    batches: Speed = field(default_factory=Speed)
    """Of one thread, in batches that are at least half full: small batches say nothing about a long queue."""
    whole_texts: Speed = field(default_factory=Speed)
    """The same for texts that are generated in whole batches."""
    step_seconds: float = 0.0
    """Seconds between two tokens of a text that is generated step by step."""
    characters: float = CHARACTERS
    """Characters per token."""
    written: float = 1.0
    """Share of the requested new tokens that texts really get."""

    delay: float = 1.0
    """Real waiting times by estimated ones: the computation is delayed by whatever else the machine does."""

    def waited(self, seconds: float, expected: float) -> None:
        """Count the real and the estimated waiting time of an input. Short times say nothing."""
        if expected >= SHORTEST_WAIT:
            self.delay = _moved(self.delay, min(LARGEST_DELAY, max(1.0, seconds / expected)))

    def tokenized(self, characters: int, tokens: int) -> None:
        """Count a tokenized text."""
        if characters and tokens:
            self.characters = _moved(self.characters, characters / tokens)

    def generated(self, tokens: int, requested: int) -> None:
        """Count a complete text."""
        self.written = _moved(self.written, tokens / requested)

    def step(self, seconds: float) -> None:
        """Count the time between two steps."""
        self.step_seconds = _moved(self.step_seconds, seconds) if self.step_seconds else seconds


def _moved(average: float, value: float) -> float:
    return REMEMBERED * average + (1 - REMEMBERED) * value
