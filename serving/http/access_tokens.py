"""Tokens: who is let in, kept as hashes.

A line of the file of tokens is ``NAME SCOPES SHA256``: a name for people and logs, the scopes divided by commas, and
the SHA-256 of the token. A token has 256 bits of its own, so a fast hash gives nothing away.
"""

import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adaptdock.errors import AdaptError, DataError, FileError, UnknownNameError, UsageError
from adaptdock.serving.json_logs import log

SCOPES = ("predict", "admin")
PREFIX = "adapt_"
SETTLED = 2 * 10**9
"""Nanoseconds after which a change of a file has another time than the one before, on any file system."""
Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class Token:
    """What is known of a token: all but the token itself. ``admin`` may also predict."""

    name: str
    scopes: frozenset[str]
    sha256: str

    def allows(self, scope: str) -> bool:
        """Tell whether a scope is granted."""
        return scope in self.scopes or "admin" in self.scopes


class Tokens:
    """The tokens that are let in; without any, everybody is."""

    def __init__(self, known: Iterable[Token] = ()) -> None:
        self._known = tuple(known)

    @property
    def required(self) -> bool:
        """Whether a token is asked for."""
        return bool(self._known)

    def find(self, secret: str) -> Token | None:
        """Return what is known of a token, or None; how long it takes tells nothing of the tokens there are."""
        mark = _hash(secret)
        found = None
        for token in self._known:
            if hmac.compare_digest(token.sha256, mark):
                found = token
        return found


class TokensFile(Tokens):
    """The tokens in a file, which is read again when it has changed.

    A file with a line that is no token changes nothing: the tokens that were read last go on to count. One that is
    gone, cannot be read or has no token in it lets nobody in. Both are logged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: Stamp | None = _stamp(path)
        super().__init__(_tokens_of(path))
        self._read_at = time.time_ns()

    @property
    def required(self) -> bool:
        """True, whatever is in the file."""
        return True

    def find(self, secret: str) -> Token | None:
        """Return what is known of a token now, or None."""
        self.refresh()
        return super().find(secret)

    def refresh(self, at_once: bool = False) -> None:
        """Read the file if it has changed, or ``at_once``.

        One that had been written just before it was read is read again: it may have changed within a tick of the clock.
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
                self._known = ()
            if changed:
                log("tokens refused", logging.ERROR, reason=str(error), tokens=len(self._known))
        else:
            if changed:
                log("tokens read", tokens=len(self._known))


class BrokenTokensError(DataError):
    """A file of tokens with a line that is none."""


def read_tokens(path: Path) -> TokensFile:
    """Read a file of tokens; raise :class:`DataError` naming the line that is none."""
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
    except OSError as error:
        raise DataError(f"{path}: the tokens cannot be read: {error.strerror or error}") from None
    known = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            known.append(_parsed(f"{path}:{number}", line.split()))
    if not known:
        raise DataError(f"{path}: no token is in it; adapt serve --new-token makes one")
    return known


def new_token(path: Path, scopes: str, name: str = "") -> str:
    """Make a token, append its hash to a file of tokens, and return it: it cannot be read from there again.

    Raises :class:`FileError` where the file cannot be written.
    """
    chosen = [checked_scope(scope.strip()) for scope in scopes.split(",")]
    name = name or f"token-{secrets.token_hex(3)}"
    if not name.isprintable() or any(letter.isspace() for letter in name) or name.startswith("#"):
        raise UsageError(f"the name {name!r} of a token has to be one word")
    secret = PREFIX + secrets.token_urlsafe(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            start = "" if _ends_in_line(path) else "\n"
            stream.write(f"{start}{name} {','.join(chosen)} {_hash(secret)}\n")
    except OSError as error:
        raise FileError(path, f"the token could not be kept: {error.strerror or error}") from error
    return secret


def _ends_in_line(path: Path) -> bool:
    """Tell whether a file is empty or ends in a line's end, which an editor may have left out."""
    return path.read_bytes()[-1:] in (b"", b"\n")


def checked_scope(scope: str) -> str:
    """Return a scope; raise :class:`UnknownNameError` where there is none of that name."""
    if scope not in SCOPES:
        raise UnknownNameError("scope", scope, SCOPES)
    return scope


def _parsed(place: str, parts: list[str]) -> Token:
    if len(parts) != 3 or len(parts[2]) != 64 or set(parts[2]) - set("0123456789abcdef"):
        raise BrokenTokensError(
            f"{place}: a line of tokens is NAME SCOPES SHA256, as adapt serve --new-token writes it"
        )
    scopes = frozenset(parts[1].split(","))
    unknown = sorted(scopes - set(SCOPES))
    if unknown:
        raise BrokenTokensError(f"{place}: unknown scope {unknown[0]!r}; there is {', '.join(SCOPES)}")
    return Token(parts[0], scopes, parts[2])


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
