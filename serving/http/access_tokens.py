"""Access tokens, kept as hashes.

A line of the tokens file is ``NAME SCOPES SHA256 [rate=N] [concurrent=N] [adapters=A,B-*]``: a name for people and
logs, comma-separated scopes, the SHA-256 of the token, and its limits: requests per second, requests at the same time,
and the only adapters that the token may use. A token has 256 random bits, so a fast hash cannot be reversed by search.
Tokens of one name are one client.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from adaptdock.errors import AdaptError, DataError, FileError, UnknownNameError, UsageError
from adaptdock.serving.json_logs import log

SCOPES = ("predict", "admin")
LIMITS = {"rate": re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?"), "concurrent": re.compile(r"[0-9]{1,9}")}
PREFIX = "adapt_"
ADAPTERS = "adapters="
PATTERN = re.compile(r"[A-Za-z0-9._*-]{1,128}")
SETTLED = 2 * 10**9
"""Nanoseconds after which two changes of a file get different timestamps, on any file system."""
Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class Token:
    """The record of a token, without the token itself. The scope ``admin`` includes ``predict``."""

    name: str
    scopes: frozenset[str]
    sha256: str
    rate: float | None = None
    """Requests per second; None without a limit."""
    concurrent: int | None = None
    """Requests at the same time; None without a limit."""
    adapters: tuple[str, ...] = ("*",)
    """Patterns of the adapters and aliases that the token may use, list and change; ``*`` matches any text."""

    def covers(self, name: str) -> bool:
        """Return whether the token is for an adapter or alias."""
        return any(fnmatchcase(name, pattern) for pattern in self.adapters)

    def allows(self, scope: str) -> bool:
        """Return whether the token grants a scope."""
        return scope in self.scopes or "admin" in self.scopes


class Tokens:
    """The accepted tokens. Without any, every request is accepted."""

    def __init__(self, known: Iterable[Token] = ()) -> None:
        self._known = tuple(known)

    @property
    def required(self) -> bool:
        """Whether requests need a token."""
        return bool(self._known)

    def find(self, secret: str) -> Token | None:
        """Return the record of a token, or None. The comparison takes constant time, against timing attacks."""
        mark = _hash(secret)
        match = None
        for token in self._known:  # without a break: the time must not depend on the position
            if hmac.compare_digest(token.sha256, mark):
                match = token
        return match


class TokensFile(Tokens):
    """The tokens in a file, which is read again after each change.

    A file with an invalid line changes nothing: the last valid tokens stay. A missing, unreadable or empty file accepts
    nobody. Both are logged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: Stamp | None = _stamp(path)
        super().__init__(_tokens_of(path))
        self._read_at = time.time_ns()

    @property
    def required(self) -> bool:
        """Always true: an empty file must not open the process to everybody."""
        return True

    def find(self, secret: str) -> Token | None:
        """Return the current record of a token, or None."""
        self.refresh()
        return super().find(secret)

    def refresh(self, at_once: bool = False) -> None:
        """Read the file if it has changed, or ``at_once``.

        A change within :data:`SETTLED` before the last read causes another read: a later change may have the same
        timestamp.
        """
        stamp = _stamp(self._path)
        fresh = stamp is not None and self._read_at - stamp[0] < SETTLED
        if stamp == self._stamp and not fresh and not at_once:
            return
        changed, self._stamp, self._read_at = stamp != self._stamp or at_once, stamp, time.time_ns()
        try:
            self._known = tuple(_tokens_of(self._path))
        except AdaptError as error:
            if not isinstance(error, BrokenTokensError):
                self._known = ()  # fail closed
            if changed:
                log("tokens refused", logging.ERROR, reason=str(error), tokens=len(self._known))
        else:
            if changed:
                log("tokens read", tokens=len(self._known))


class BrokenTokensError(DataError):
    """A tokens file with an invalid line."""


def read_tokens(path: Path) -> TokensFile:
    """Read a tokens file; raise :class:`DataError` naming the invalid line."""
    return TokensFile(path)


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _tokens_of(path: Path) -> list[Token]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BrokenTokensError(f"{path}: the tokens cannot be read: {error}") from None
    except PermissionError:
        user = os.geteuid() if hasattr(os, "geteuid") else "its user"
        raise DataError(
            f"{path}: the tokens cannot be read: only the owner of the file may read it, and this process runs as "
            f"{user}. Make the tokens as that user (runuser, sudo -u), or change the owner (chown)"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: the tokens cannot be read: {error.strerror or error}") from None
    known = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            known.append(_parsed(f"{path}:{number}", line.split()))
    if not known:
        raise DataError(f"{path}: no token is in it; adapt serve --new-token makes one")
    return known


def new_token(path: Path, scopes: str, name: str = "", adapters: str = "") -> str:
    """Generate a token, append its hash to a tokens file, and return the token, which only the caller then knows.

    ``adapters`` are comma-separated patterns; empty for all. Raises :class:`FileError` for a file that cannot be
    written, and :class:`DataError` for an invalid pattern.
    """
    limit = f" {ADAPTERS}{''.join(adapters.split())}" if adapters else ""
    _adapters("--token-adapters", ["", "", "", *limit.split()])
    granted = [checked_scope(scope.strip()) for scope in scopes.split(",")]
    name = name or f"token-{secrets.token_hex(3)}"
    if not name.isprintable() or any(letter.isspace() for letter in name) or name.startswith("#"):
        raise UsageError(f"the name {name!r} of a token has to be one word")
    secret = PREFIX + secrets.token_urlsafe(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)  # for the owner only
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            start = "" if _ends_in_line(path) else "\n"
            stream.write(f"{start}{name} {','.join(granted)} {_hash(secret)}{limit}\n")
    except OSError as error:
        raise FileError(path, f"the token could not be kept: {error.strerror or error}") from error
    return secret


def _ends_in_line(path: Path) -> bool:
    """Return whether a file is empty or ends with a line feed, which an editor may have left out."""
    return path.read_bytes()[-1:] in (b"", b"\n")


def checked_scope(scope: str) -> str:
    """Return a valid scope unchanged; raise :class:`UnknownNameError` for any other."""
    if scope not in SCOPES:
        raise UnknownNameError("scope", scope, SCOPES)
    return scope


def _parsed(place: str, parts: list[str]) -> Token:
    parts, adapters = _adapters(place, parts)
    if len(parts) < 3 or len(parts[2]) != 64 or set(parts[2]) - set("0123456789abcdef"):
        raise BrokenTokensError(
            f"{place}: a line of tokens is NAME SCOPES SHA256, as adapt serve --new-token writes it, and may end with "
            f"rate=N, concurrent=N and adapters=A,B-*"
        )
    scopes = frozenset(parts[1].split(","))
    unknown = sorted(scopes - set(SCOPES))
    if unknown:
        raise BrokenTokensError(f"{place}: unknown scope {unknown[0]!r}; there is {', '.join(SCOPES)}")
    limits = dict(_limit(place, part) for part in parts[3:])
    concurrent = limits.get("concurrent")
    return Token(
        parts[0],
        scopes,
        parts[2],
        limits.get("rate"),
        None if concurrent is None else int(concurrent),
        adapters,
    )


def _limit(place: str, part: str) -> tuple[str, float]:
    """Return the name and the value of a limit such as ``rate=10``."""
    name, _, text = part.partition("=")
    pattern = LIMITS.get(name)
    if pattern is None:
        raise BrokenTokensError(
            f"{place}: unknown limit {part!r}; there are {' and '.join(f'{name}=N' for name in LIMITS)}, and "
            f"adapters=A,B-*"
        )
    if pattern.fullmatch(text) is None or not float(text):
        kind = "a number" if name == "rate" else "a whole number"
        raise BrokenTokensError(f"{place}: {part!r} is not a limit: {name} is {kind} above 0, such as {name}=10")
    return name, float(text)


def _adapters(place: str, parts: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return the parts of a line without ``adapters=A,B``, and its patterns."""
    lists = [part for part in parts[3:] if part.startswith(ADAPTERS)]
    if not lists:
        return parts, ("*",)
    patterns = tuple(lists[0].removeprefix(ADAPTERS).split(","))
    wrong = next((pattern for pattern in patterns if not PATTERN.fullmatch(pattern)), None)
    if wrong is not None or len(lists) > 1:
        problem = "adapters= appears twice" if wrong is None else f"{wrong!r} is not a name or pattern of adapters"
        raise BrokenTokensError(f"{place}: {problem}: write adapters=A,B-* once, with names in which * is any text")
    return [*parts[:3], *(part for part in parts[3:] if part not in lists)], patterns


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
