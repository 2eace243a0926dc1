"""Stop sequences: texts before which generation ends. They are not part of the answer."""

from collections.abc import Sequence


def stop_position(text: str, stops: Sequence[str]) -> int | None:
    """Return the position of the first stop sequence in a text, or None."""
    positions = [position for stop in stops if (position := text.find(stop)) >= 0]
    return min(positions, default=None)


def held_back(text: str, stops: Sequence[str]) -> int:
    """Return how many characters at the end of a text may be the start of a stop sequence."""
    longest = 0
    for stop in stops:
        lengths = range(min(len(stop) - 1, len(text)), longest, -1)
        longest = next((length for length in lengths if text.endswith(stop[:length])), longest)
    return longest
