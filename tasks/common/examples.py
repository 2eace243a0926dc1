"""Cases that a note counts and illustrates, such as the places of skipped records."""

from collections.abc import Iterable

SHOWN = 5


class Examples:
    """The number of cases of a kind, and the first different ones; memory does not grow with the cases.

    The number of different cases is exact where equal ones follow each other.
    """

    def __init__(self, cases: Iterable[str] = (), most: int = SHOWN) -> None:
        self.count = self.different = 0
        self.first: list[str] = []
        self._most, self._last = most, ""
        for case in cases:
            self.add(case)

    def add(self, case: str) -> None:
        """Count a case."""
        if not self.count or case != self._last:
            self.different += 1
            if len(self.first) < self._most:
                self.first.append(case)
        self.count += 1
        self._last = case

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        """Return the first cases, with dots where there are more."""
        return ", ".join(self.first) + (", ..." if self.different > len(self.first) else "")

    def with_rest(self) -> str:
        """Return the first cases and the number of the others."""
        more = self.different - len(self.first)
        return ", ".join(self.first) + (f" and {more} more" if more else "")
