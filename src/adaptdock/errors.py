"""The errors of the library; the command line makes one paragraph of each."""

from bisect import bisect_left
from collections.abc import Iterable
from difflib import get_close_matches

COMPARED = 500
"""Most names that are compared with an unknown name, at about 50 microseconds each."""
SHOWN = 30
"""Most existing names that a message lists."""


class AdaptError(Exception):
    """An error that the user can understand and mostly correct.

    The message is one paragraph: the problem and its place, the expected and the actual value, the way out.
    """

    exit_status = 1


class UsageError(AdaptError):
    """An invalid option or name, or an invalid combination."""

    exit_status = 2


class UnknownNameError(UsageError):
    """A name that does not exist. Attributes: ``kind``, ``name``, ``known`` names, and ``near``, the similar ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        self.near = get_close_matches(name, _candidates(name, self.known), n=3, cutoff=0.5)
        offer = f"did you mean {_join(self.near)}?" if self.near else f"there is {_join(self.known) or 'none'}."
        super().__init__(f"unknown {kind} {name!r}: {offer}{' ' + hint if hint else ''}")


class DataError(AdaptError):
    """A data file, split, record or label that cannot be used."""

    exit_status = 2


class FileError(AdaptError):
    """A file that is damaged, of another format, or could not be written. Attributes: ``path``, ``problem``."""

    def __init__(self, path: object, problem: str) -> None:
        self.path, self.problem = str(path), problem
        super().__init__(f"{path}: {problem}")


class LockedError(UsageError):
    """A folder or file in use by another process. Attributes: ``path``, ``pid`` (None if unknown), ``host``."""

    def __init__(self, path: object, pid: int | None, host: str = "") -> None:
        self.path, self.pid, self.host = str(path), pid, host
        holder = "another process" if pid is None else f"the process {pid}{f' on {host}' if host else ''}"
        super().__init__(
            f"{path} is in use by {holder}, and two at a time would overwrite each other. Wait until it has ended, or "
            f"name another place."
        )


class TakenError(UsageError):
    """An output path that another process took in the meantime. Attributes: ``path``; ``kept``, the result's path."""

    def __init__(self, path: object, kept: object) -> None:
        self.path, self.kept = str(path), str(kept)
        super().__init__(
            f"{path} did not exist when the work began and does now, so it is left as it is; the result is in {kept}. "
            f"Move it to where you want it; next time give another --output, or --overwrite."
        )


class MismatchError(AdaptError):
    """An adapter and a backbone that do not belong together."""


class ProbeError(MismatchError):
    """An adapter whose answers to its golden probes have changed since it was saved."""


class TrustError(AdaptError):
    """A published adapter that is refused, because of its hash, its signature, the policy or a revocation."""


class SourceError(AdaptError):
    """A source of published adapters that cannot be reached or read. Attribute: ``source``."""

    def __init__(self, source: object, problem: str) -> None:
        self.source = str(source)
        super().__init__(f"{source}: {problem}")


class PluginError(AdaptError):
    """A plugin that is broken, registered twice, or for another version of the contracts."""


class BackboneError(AdaptError):
    """A backbone that cannot be loaded, or lacks a requested ability."""


class BudgetError(AdaptError):
    """An adapter that exceeds the memory budget. Attributes in bytes: ``needed``, ``budget``, ``pinned``, ``used``."""

    def __init__(self, name: str, needed: int, budget: int, pinned: int, used: int) -> None:
        self.needed, self.budget, self.pinned, self.used = needed, budget, pinned, used
        super().__init__(
            f"the adapter {name!r} needs {needed:,} bytes; of the budget of {budget:,}, {pinned:,} are pinned and "
            f"{used:,} are used by batches in flight. Unpin some, send smaller batches, or raise the budget."
        )


def _candidates(name: str, known: list[str]) -> list[str]:
    """Return the known names to compare with a name; of many, the names with the longest common prefix."""
    place = bisect_left(known, name)  # sorted neighbours have the longest common prefixes
    return known if len(known) <= COMPARED else known[max(0, place - COMPARED // 2) : place + COMPARED // 2]


def _join(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
