"""The number of replicas of a fleet: fixed, or between two numbers."""

import re
from dataclasses import dataclass

from adaptdock.errors import UsageError

PATTERN = re.compile(r"([1-9]\d*)(?:-([1-9]\d*))?")


@dataclass(frozen=True)
class FleetSize:
    """The least and the greatest number of replicas."""

    least: int = 2
    most: int = 2

    @classmethod
    def parse(cls, text: object) -> "FleetSize":
        """Return the size written as ``4`` or ``2-8``; raise :class:`UsageError` for anything else."""
        match = PATTERN.fullmatch(str(text).strip())
        least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 0 < least <= most:
            raise UsageError(f"replicas is a number above 0, or a range such as 2-8, not {text!r}")
        return cls(least, most)

    @property
    def grows(self) -> bool:
        """Whether the number of replicas follows the load."""
        return self.least < self.most

    def __str__(self) -> str:
        return f"{self.least}-{self.most}" if self.grows else str(self.least)
