"""One check: a sentence that holds, does not hold, or cannot be asked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from adaptdock.errors import AdaptError, PluginError


class Unmet(PluginError):
    """A plugin does not keep to its contract; the message says in what."""


class NotAsked(AdaptError):
    """A check that this plugin gives no occasion for; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """How a check ended, and why where it did not pass."""

    title: str
    verdict: Literal["passed", "failed", "left out"]
    reason: str = ""


@dataclass(frozen=True)
class Check:
    """A sentence about a plugin, and what finds out whether it holds."""

    title: str
    act: Callable[[], object]

    def __str__(self) -> str:
        return self.title

    def __call__(self) -> None:
        """Raise what is wrong; a check that there is no occasion for passes."""
        outcome = self.outcome()
        if outcome.verdict == "failed":
            raise Unmet(f"{self.title}: {outcome.reason}")

    def outcome(self) -> Outcome:
        """Run the check; whatever a plugin raises is a failure with that reason."""
        try:
            self.act()
        except NotAsked as reason:
            return Outcome(self.title, "left out", str(reason))
        except AdaptError as error:
            return Outcome(self.title, "failed", str(error))
        except Exception as error:
            return Outcome(self.title, "failed", f"{type(error).__name__}: {error}")
        return Outcome(self.title, "passed")


def expect(holds: object, reason: str) -> None:
    """Raise :class:`Unmet` with the reason unless something holds."""
    if not holds:
        raise Unmet(reason)
