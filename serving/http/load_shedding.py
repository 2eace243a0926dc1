"""Load shedding: while the event loop is late, a request is refused from its first bytes, before it is parsed.

A refusal by the application takes the loop almost as long as an answer, so under a flood the refusals alone would keep
it late. Probes are answered, and so are the requests of a client with less than its share of the running ones.
"""

import re

from adaptdock.serving.http.access_tokens import Tokens
from adaptdock.serving.http.raw_responses import raw_refusal
from adaptdock.serving.http.service import Service
from adaptdock.serving.schemas import Problem

BEGINNING = b"POST /v1/"
AUTHORIZATION = re.compile(rb"\r\nauthorization:[ \t]*bearer[ \t]+([!-~]+)", re.IGNORECASE)
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})[ \t]*\r\n", re.IGNORECASE)


class LoadShedding:
    """Refuses requests of clients that have their share, while the event loop is late."""

    def __init__(self, service: Service, tokens: Tokens) -> None:
        self._service, self._tokens = service, tokens

    def refusal(self, data: bytes) -> bytes | None:
        """Return the response that refuses the request which begins with ``data``, or None.

        None also for a request that is incomplete: its client would send on, and lose the response. Whoever has no
        valid token gets the answer of the application.
        """
        service = self._service
        if not service.lag.excessive(service.lag.requests.total()) or not data.startswith(BEGINNING):
            return None
        head, _, body = data.partition(b"\r\n\r\n")
        length = LENGTH.search(head + b"\r\n")
        client = self._client(head)
        if length is None or int(length[1]) != len(body) or client is None:
            return None
        if not service.lag.sheds(client):
            return None
        service.metrics.refused("lag")
        service.metrics.response(429)
        seconds = service.batcher.patience(client)
        message = (
            f"{service.lag.requests.total()} requests are being read or answered already: try again in {seconds} s"
        )
        return raw_refusal(429, Problem(message=message, type="rate_limit_error", code="busy"), seconds)

    def _client(self, head: bytes) -> str | None:
        """Return the name of the client, which is empty without tokens; None for an unknown one."""
        if not self._tokens.required:
            return ""
        secret = AUTHORIZATION.search(head)
        token = None if secret is None else self._tokens.find(secret[1].decode())
        return None if token is None else token.name
