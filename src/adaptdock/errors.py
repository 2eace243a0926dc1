"""The errors of the library; the command line makes one paragraph of each."""

from bisect import bisect_left
from collections.abc import Iterable
from difflib import get_close_matches

COMPARED = 500
"""So many names are compared with an unknown one, which takes some 50 microseconds each."""
SHOWN = 30
"""So many names of those there are stand in a message."""


class AdaptError(Exception):
    """Something went wrong that the user can understand and, mostly, mend.

    The message is one paragraph: what, where, what was expected and what was found, the way out.
    """

    exit_status = 1


class UsageError(AdaptError):
    """An option, a name or a combination of them that cannot work."""

    exit_status = 2


class UnknownNameError(UsageError):
    """A name that does not exist. Attributes: ``kind``, ``name``, ``known``, and ``near``, the known ones like it."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        self.near = get_close_matches(name, _candidates(name, self.known), n=3, cutoff=0.5)
        offer = f"did you mean {_join(self.near)}?" if self.near else f"there is {_join(self.known) or 'none'}."
        super().__init__(f"unknown {kind} {name!r}: {offer}{' ' + hint if hint else ''}")


class DataError(AdaptError):
    """A data file, split, record or label that cannot be used."""

    exit_status = 2


class FileError(AdaptError):
    """An adapter file that is damaged, not one, or could not be written. Attributes: ``path``, ``problem``."""

    def __init__(self, path: object, problem: str) -> None:
        self.path, self.problem = str(path), problem
        super().__init__(f"{path}: {problem}")


class LockedError(UsageError):
    """A folder or file that another process works on. Attributes: ``path``, ``pid`` (None if unknown), ``host``."""

    def __init__(self, path: object, pid: int | None, host: str = "") -> None:
        self.path, self.pid, self.host = str(path), pid, host
        holder = "another process" if pid is None else f"the process {pid}{f' on {host}' if host else ''}"
        super().__init__(
            f"{path} is in use by {holder}, and two at a time would overwrite each other. Wait until it has ended, or "
            f"name another place."
        )


class TakenError(UsageError):
    """A place that something else took during the work. Attributes: ``path``, ``kept``, where the result is."""

    def __init__(self, path: object, kept: object) -> None:
        self.path, self.kept = str(path), str(kept)
        super().__init__(
            f"{path} did not exist when the work began and does now, so it is left as it is; the result is in {kept}. "
            f"Move it to where you want it; next time give another --output, or --overwrite."
        )


class MismatchError(AdaptError):
    """An adapter and a backbone that do not belong together."""


class ProbeError(MismatchError):
    """An adapter whose answers to its golden probes are not those that it gave when it was saved."""


class TrustError(AdaptError):
    """A published adapter that is refused: by its hash, its signature, the policy or a revocation."""


class SourceError(AdaptError):
    """A source of published adapters that cannot be reached or read. Attribute: ``source``."""

    def __init__(self, source: object, problem: str) -> None:
        self.source = str(source)
        super().__init__(f"{source}: {problem}")


class PluginError(AdaptError):
    """A plugin that is broken, registered twice, or speaks another version of the contracts."""


class BackboneError(AdaptError):
    """A backbone that cannot be loaded, or lacks what was asked of it."""


class BudgetError(AdaptError):
    """Adapters that find no room. Attributes, in bytes: ``needed``, ``budget``, ``pinned``, ``used`` (by batches)."""

    def __init__(self, name: str, needed: int, budget: int, pinned: int, used: int) -> None:
        self.needed, self.budget, self.pinned, self.used = needed, budget, pinned, used
        super().__init__(
            f"the adapter {name!r} needs {needed:,} bytes; of the budget of {budget:,}, {pinned:,} are pinned and "
            f"{used:,} are used by batches under way. Unpin some, send smaller batches, or raise the budget."
        )


def _candidates(name: str, known: list[str]) -> list[str]:
    """Return the names to compare with an unknown one: of very many those that have most of its beginning."""
    place = bisect_left(known, name)  # sorted neighbours share the longest beginnings
    return known if len(known) <= COMPARED else known[max(0, place - COMPARED // 2) : place + COMPARED // 2]


def _join(names: Iterable[str]) -> str:
    listed = list(names)
    rest = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + rest
