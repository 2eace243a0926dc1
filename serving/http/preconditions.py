"""Conditions of a change: ``If-Match`` and ``If-None-Match`` with the ETag of an adapter or alias (RFC 9110, 13.1).

An ETag identifies the state that operators change: versions, shares, the mirror, the pin. Counters are not part of it.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header, Request

from adaptdock.errors import UsageError
from adaptdock.serving.errors import ChangedError

TAG = re.compile(r'\s*(?P<weak>W/)?(?P<tag>"[\x21\x23-\x7e\x80-\xff]*")\s*')
ANY = "*"


def etag_of(state: Any) -> str:
    """Return the ETag of a state, quotation marks included; the state is JSON."""
    content = json.dumps(state, sort_keys=True).encode()
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


@dataclass(frozen=True)
class Preconditions:
    """The ETags of a request. ``None`` is a missing header, and ``("*",)`` is any state."""

    match: tuple[str, ...] | None = None
    none_match: tuple[str, ...] | None = None

    @classmethod
    def of(cls, match: Iterable[str], none_match: Iterable[str]) -> "Preconditions":
        """Parse the lines of the two headers; raise :class:`UsageError` for anything that is not a list of ETags.

        A weak ETag (``W/"..."``) never satisfies ``If-Match``, which needs a strong comparison.
        """
        return cls(_tags("If-Match", list(match), False), _tags("If-None-Match", list(none_match), True))

    def __bool__(self) -> bool:
        return self.match is not None or self.none_match is not None

    def check(self, name: str, state: Any) -> None:
        """Raise :class:`ChangedError` if the state of ``name`` (``None``: there is none) is not the expected one."""
        tag = None if state is None else etag_of(state)
        if self.match is not None and not (tag in self.match or (self.match == (ANY,) and tag is not None)):
            raise ChangedError(name, tag)
        if self.none_match is not None and (tag in self.none_match or (self.none_match == (ANY,) and tag is not None)):
            raise ChangedError(name, tag)


def preconditions(
    request: Request,
    if_match: Annotated[
        str | None, Header(description="Change only a state with one of these ETags; * is any.")
    ] = None,
    if_none_match: Annotated[str | None, Header(description="Not in a state with these ETags; * is any.")] = None,
) -> Preconditions:
    """Return the conditions of a request. The parameters name its headers for the description of the API."""
    return Preconditions.of(request.headers.getlist("if-match"), request.headers.getlist("if-none-match"))


def _tags(header: str, lines: list[str], weak: bool) -> tuple[str, ...] | None:
    if not lines:
        return None
    value = ",".join(lines)
    if value.strip() == ANY:
        return (ANY,)
    tags, position = [], 0
    while True:
        entry = TAG.match(value, position)
        if entry is None:
            raise UsageError(
                f'{header} is {value[:100]!r}: give the ETag of an answer, in quotation marks ("..."), or *'
            )
        tags += [entry["tag"]] if weak or not entry["weak"] else []
        position = entry.end()
        if position == len(value):
            return tuple(tags)
        if value[position] != ",":
            raise UsageError(f"{header} is {value[:100]!r}: divide several ETags by commas")
        position += 1
