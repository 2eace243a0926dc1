"""Answers of a serving process: texts from server-sent events, and errors from refusals."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from adaptdock.errors import AdaptError

DATA, DONE = b"data: ", b"[DONE]"
OVERLOADED = (429, 503)


class AnswerError(AdaptError):
    """An error response of a serving process, with the message of the process.

    Attributes: ``status`` of HTTP, ``kind``, ``param`` (the wrong field, such as ``inputs.3``), ``nearest`` (similar
    valid names), ``request_id`` (as in the log of the process), and ``seconds`` before a retry, if the process says so.
    """

    def __init__(self, status: int, problem: Mapping[str, Any], request_id: str = "", seconds: float | None = None):
        self.status, self.request_id, self.seconds = status, request_id, seconds
        self.kind, self.param = str(problem.get("type") or ""), problem.get("param")
        self.nearest = list(problem.get("nearest") or [])
        super().__init__(str(problem.get("message") or f"the process answers with {status}"))


class RequestError(AnswerError):
    """A request with a fault: an unknown name, a wrong field, token or file, or too large a size."""

    exit_status = 2


class OverloadedError(AnswerError):
    """An overloaded, starting or stopping process; a retry of the same request may succeed."""


class GatewayError(AnswerError):
    """A server error of a gateway instead of an answer: the process behind it may have ended in the middle."""


class UnreachableError(AdaptError):
    """A process without an answer, or with an incomplete answer."""


def problem_of(status: int, headers: Mapping[str, str], body: bytes) -> AnswerError:
    """Return the error of an HTTP response."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    said = said if isinstance(said, dict) else {}
    problem = said.get("error")
    problem = problem if isinstance(problem, dict) else {}
    foreign = not problem
    if foreign:
        problem = {"message": f"the answer is {status} and does not come from a serving process: {body[:200]!r}"}
    if status in OVERLOADED:
        kind: type[AnswerError] = OverloadedError
    elif foreign and status >= 500:
        kind = GatewayError
    else:
        kind = RequestError if 400 <= status < 500 and status != 408 else AnswerError
    return kind(status, problem, str(said.get("request_id") or ""), _seconds(headers.get("retry-after")))


class Pieces:
    """Reads texts from server-sent events. An event is one line, which ends with a line feed and nothing else."""

    def __init__(self, read: Callable[[Mapping[str, Any]], str | None]) -> None:
        self._read, self._waiting, self._done = read, b"", False

    def take(self, data: bytes) -> Iterator[str]:
        """Yield the texts completed by this part of the stream; raise the error of an error event."""
        *lines, self._waiting = (self._waiting + data).split(b"\n")
        for line in lines:
            data_field = line.removeprefix(DATA)
            if data_field == DONE:
                self._done = True
            elif line.startswith(DATA):
                event = json.loads(data_field)
                if "error" in event:
                    raise AnswerError(200, event["error"])
                yield from filter(None, map(self._read, event["choices"]))

    def end(self, url: str) -> None:
        """Raise :class:`UnreachableError` for a stream without its final event."""
        if not self._done:
            raise UnreachableError(f"{url}: the answer broke off in the middle")


def _seconds(header: str | None) -> float | None:
    return float(header) if header is not None and header.isdigit() else None
