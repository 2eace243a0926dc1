"""Answers of a serving process, as its clients read them: texts from events, and errors from what was refused."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from adaptdock.errors import AdaptError

TOLD, DONE = b"data: ", b"[DONE]"
OVERLOADED = (429, 503)


class AnswerError(AdaptError):
    """An error that a serving process answers with, in its words.

    Attributes: ``status`` of HTTP, ``kind``, ``param`` (the field that is wrong, such as ``inputs.3``), ``nearest``
    (names there are, like the one there is not), ``request_id`` (as in the log of the process), and ``seconds`` after
    which another attempt makes sense, if it says so.
    """

    def __init__(self, status: int, problem: Mapping[str, Any], request_id: str = "", seconds: float | None = None):
        self.status, self.request_id, self.seconds = status, request_id, seconds
        self.kind, self.param = str(problem.get("type") or ""), problem.get("param")
        self.nearest = list(problem.get("nearest") or [])
        super().__init__(str(problem.get("message") or f"the process answers with {status}"))


class RequestError(AnswerError):
    """A request that the process cannot answer as it is: a name, a field, a token, a size, a file."""

    exit_status = 2


class OverloadedError(AnswerError):
    """A process that has too much to do, is starting or stopping; the same request may be answered later."""


class UnreachableError(AdaptError):
    """A process that gave no answer, or not a whole one."""


def problem_of(status: int, headers: Mapping[str, str], body: bytes) -> AnswerError:
    """Return the error that an answer tells of."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    said = said if isinstance(said, dict) else {}
    problem = said.get("error")
    problem = problem if isinstance(problem, dict) else {}
    if not problem:
        problem = {"message": f"the answer is {status} and not one of a serving process: {body[:200]!r}"}
    if status in OVERLOADED:
        kind: type[AnswerError] = OverloadedError
    else:
        kind = RequestError if 400 <= status < 500 and status != 408 else AnswerError
    return kind(status, problem, str(said.get("request_id") or ""), _seconds(headers.get("retry-after")))


class Pieces:
    """The texts in a stream of events, of which each is a line that ends with a line feed and nothing else."""

    def __init__(self, read: Callable[[Mapping[str, Any]], str | None]) -> None:
        self._read, self._waiting, self._done = read, b"", False

    def take(self, data: bytes) -> Iterator[str]:
        """Yield the texts that are whole with this part of the stream; raise the error that it tells of."""
        *lines, self._waiting = (self._waiting + data).split(b"\n")
        for line in lines:
            told = line.removeprefix(TOLD)
            if told == DONE:
                self._done = True
            elif line.startswith(TOLD):
                event = json.loads(told)
                if "error" in event:
                    raise AnswerError(200, event["error"])
                yield from filter(None, map(self._read, event["choices"]))

    def end(self, url: str) -> None:
        """Raise :class:`UnreachableError` unless the stream has come to its end."""
        if not self._done:
            raise UnreachableError(f"{url}: the answer broke off in the middle")


def _seconds(given: str | None) -> float | None:
    return float(given) if given is not None and given.isdigit() else None
