"""Tokens: who is let in, kept as hashes.

A line of the file of tokens is ``NAME SCOPES SHA256``: a name for people and logs, the scopes divided by commas, and
the SHA-256 of the token. A token has 256 bits of its own, so a fast hash gives nothing away.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adaptdock.plugins.errors import DataError, FileError, UnknownNameError, UsageError

SCOPES = ("predict", "admin")
PREFIX = "adapt_"


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


def read_tokens(path: Path) -> Tokens:
    """Read a file of tokens; raise :class:`DataError` naming the line that is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the tokens cannot be read: {getattr(error, 'strerror', None) or error}") from None
    known = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            known.append(_parsed(f"{path}:{number}", line.split()))
    if not known:
        raise DataError(f"{path}: no token is in it; adapt serve --new-token makes one")
    return Tokens(known)


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
            stream.write(f"{name} {','.join(chosen)} {_hash(secret)}\n")
    except OSError as error:
        raise FileError(path, f"the token could not be kept: {error.strerror or error}") from error
    return secret


def checked_scope(scope: str) -> str:
    """Return a scope; raise :class:`UnknownNameError` where there is none of that name."""
    if scope not in SCOPES:
        raise UnknownNameError("scope", scope, SCOPES)
    return scope


def _parsed(place: str, parts: list[str]) -> Token:
    if len(parts) != 3 or len(parts[2]) != 64 or set(parts[2]) - set("0123456789abcdef"):
        raise DataError(f"{place}: a line of tokens is NAME SCOPES SHA256, as adapt serve --new-token writes it")
    return Token(parts[0], frozenset(checked_scope(scope) for scope in parts[1].split(",")), parts[2])


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
