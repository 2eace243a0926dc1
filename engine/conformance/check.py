"""One check: a sentence about a plugin that passes, fails, or is left out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from adaptdock.errors import AdaptError, PluginError


class Unmet(PluginError):
    """A plugin does not keep to its contract; the message names the point."""


class NotAsked(AdaptError):
    """A check that does not apply to this plugin; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """The verdict of a check, and the reason unless it passed."""

    title: str
    verdict: Literal["passed", "failed", "left out"]
    reason: str = ""


@dataclass(frozen=True)
class Check:
    """A sentence about a plugin, and the function that raises if it is false."""

    title: str
    act: Callable[[], object]

    def __str__(self) -> str:
        return self.title

    def __call__(self) -> None:
        """Raise :class:`Unmet` if the check fails; a check that does not apply passes."""
        outcome = self.outcome()
        if outcome.verdict == "failed":
            raise Unmet(f"{self.title}: {outcome.reason}")

    def outcome(self) -> Outcome:
        """Run the check; any exception of the plugin is a failure with that reason."""
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
    """Raise :class:`Unmet` with the reason unless ``holds`` is true."""
    if not holds:
        raise Unmet(reason)
