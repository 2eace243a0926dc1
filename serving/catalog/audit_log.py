"""The audit log: one JSON line for each change to the served adapters, with its origin, and the state before and after.

The file is opened anew before each change: a change that cannot be recorded is not made, and a rotated file is left
alone.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar

from adaptdock.errors import AdaptError
from adaptdock.plugins.escapes import json_text
from adaptdock.serving.errors import StoreError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Actor:
    """The origin of a change: a request with its token and address, the watched folder, or a loss of trust."""

    via: Literal["http", "folder", "trust"]
    token: str | None = None
    address: str | None = None
    request_id: str | None = None


FOLDER, TRUST = Actor("folder"), Actor("trust")


class AuditLog:
    """Appends to a file; without a path it records nothing. Raises :class:`StoreError` if the file cannot be opened."""

    def __init__(self, path: Path | None, state: Callable[[str], Any]) -> None:
        """Open the file to see that it can be written; ``state`` returns the served state of an adapter or alias."""
        self._path, self._state = path, state
        self._opened().__exit__(None, None, None)

    def act(self, actor: Actor, action: str, names: Sequence[str], change: Callable[[], Result]) -> Result:
        """Make a change of the adapters or aliases with these names, and record it, failed changes included.

        A change without an effect is recorded only if it fails. Raises the errors of ``change``, and
        :class:`StoreError` before the change if it cannot be recorded.
        """
        with self._opened() as stream:
            before, error = self._states(names), ""
            try:
                return change()
            except BaseException as failure:
                error = str(failure) if isinstance(failure, AdaptError) else type(failure).__name__
                raise
            finally:
                after = self._states(names)
                if stream is not None and (error or before != after):
                    stream.write(f"{_line(actor, action, before, after, error)}\n")
                    stream.flush()
                    os.fsync(stream.fileno())

    def _states(self, names: Sequence[str]) -> dict[str, Any]:
        return {} if self._path is None else {name: self._state(name) for name in names}

    def _opened(self) -> "nullcontext[None] | TextIO":
        if self._path is None:
            return nullcontext()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)  # for the owner only
            return os.fdopen(descriptor, "w", encoding="utf-8")
        except OSError as error:
            raise StoreError(self._path, error) from error


def _line(actor: Actor, action: str, before: dict[str, Any], after: dict[str, Any], error: str) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = {"time": time, "action": action, **asdict(actor), "before": before, "after": after}
    return json_text({**entry, "error": error} if error else entry)
