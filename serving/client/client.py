"""Clients of a serving process: a blocking and an asyncio client with the same methods."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2

from adaptdock.plugins.arguments import checked_number
from adaptdock.serving.client.requests import (
    Asked,
    Call,
    Names,
    adapter_of,
    adapters_of,
    aliasing,
    changing,
    embedding,
    loading,
    pause,
    piece,
    predicting,
    pushing,
    reached,
    read,
    removing,
    settings,
    splitting,
    writing,
)
from adaptdock.serving.client.responses import AnswerError as AnswerError
from adaptdock.serving.client.responses import OverloadedError as OverloadedError
from adaptdock.serving.client.responses import Pieces, problem_of
from adaptdock.serving.client.responses import RequestError as RequestError
from adaptdock.serving.client.responses import UnreachableError as UnreachableError
from adaptdock.serving.schemas import AdapterDetail, Adapters, Changed, Predicted

Result = TypeVar("Result")


class Client:
    """A blocking client. Thread-safe, and usable as a context manager.

    ``url`` is the address of the process. ``token`` is the access token (default: ``ADAPTDOCK_TOKEN``). ``timeout`` is
    in seconds without a byte from the process. A request refused by an overloaded process is retried ``retries`` times.

    Every method raises :class:`RequestError`, :class:`OverloadedError` or :class:`AnswerError` with the process's own
    message, and :class:`UnreachableError` without an answer; all are :class:`AdaptError`. Arguments of a wrong
    type raise :class:`UsageError` before anything is sent. A change with ``match``, the ``etag`` of an adapter, is
    refused (:class:`RequestError` of status 412) if another client has changed the adapter since then.

    >>> from adaptdock import Client
    >>> with Client(url) as client:  # such as "http://127.0.0.1:8000"
    ...     [answer] = client.predict("people", ["Ada lived in London."])
    ...     answer.adapter, answer.version, answer.prediction["text"]
    ('people', 1, 'Ada lived in London.')
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 60.0, retries: int = 2) -> None:
        self.url, self._retries = url, checked_number(retries, "retries")
        self._http = httpx2.Client(**settings(url, token, timeout))

    def predict(self, adapter: Names, inputs: Sequence[Any], timeout: float | None = None) -> list[Predicted]:
        """Return a prediction for each input; ``adapter`` is one name for all inputs, or a name for each."""
        return self._ask(predicting(adapter, inputs, timeout))

    def render(self, adapter: Names, inputs: Sequence[Any], timeout: float | None = None) -> list[Predicted]:
        """Return predictions with a text for people in ``rendered``."""
        return self._ask(predicting(adapter, inputs, timeout, render=True))

    def embed(self, adapter: str, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector for each text."""
        return self._ask(embedding(adapter, texts))

    def complete(self, adapter: str, prompt: Asked, **wishes: Any) -> str:
        """Return the continuation of a text, or the answer to a conversation (``[{"role": "user", "content": ...}]``).

        ``wishes`` are ``max_tokens``, ``temperature``, ``top_p``, ``seed`` and ``stop``.
        """
        return self._ask(writing(adapter, prompt, wishes))

    def stream(self, adapter: str, prompt: Asked, **wishes: Any) -> Iterator[str]:
        """Yield the text of :meth:`complete` in pieces during generation."""
        call = writing(adapter, prompt, {**wishes, "stream": True})
        with reached(self.url), self._http.stream(**call.arguments()) as answer:
            if not answer.is_success:
                raise problem_of(answer.status_code, answer.headers, answer.read())
            pieces = Pieces(piece)
            for data in answer.iter_bytes():
                yield from pieces.take(data)
            pieces.end(self.url)

    def adapters(self) -> Adapters:
        """Return the served adapters, their versions and the aliases."""
        return self._ask(adapters_of())

    def adapter(self, name: str) -> AdapterDetail:
        """Return an adapter with its card."""
        return self._ask(adapter_of(name))

    def load(self, name: str, version: int | None = None, activate: bool = True, match: str | None = None) -> Changed:
        """Activate a kept version; without ``version``, read the adapter's file in the watched folder again."""
        return self._ask(loading(name, version, activate, match))

    def push(self, name: str, file: Path | str | bytes, activate: bool = True, match: str | None = None) -> Changed:
        """Send an adapter file (or its content) as a new version. The process verifies the file before any change."""
        return self._ask(pushing(name, file, activate, match))

    def unload(self, name: str, match: str | None = None) -> None:
        """Unload an adapter. In-flight requests still get their answers."""
        self._ask(removing(name, match=match))

    def rollback(self, name: str, match: str | None = None) -> Changed:
        """Reactivate the previous version."""
        return self._ask(changing(name, "rollback", match))

    def pin(self, name: str, match: str | None = None) -> Changed:
        """Keep an adapter docked, even if it is rarely used."""
        return self._ask(changing(name, "pin", match))

    def unpin(self, name: str, match: str | None = None) -> Changed:
        """Make an adapter evictable again."""
        return self._ask(changing(name, "unpin", match))

    def split(
        self, name: str, weights: Mapping[int, float], mirror: int | None = None, match: str | None = None
    ) -> Changed:
        """Divide the inputs among versions by weight; ``mirror`` is a version that gets them as shadow traffic."""
        return self._ask(splitting(name, weights, mirror, match))

    def set_alias(self, alias: str, target: str) -> None:
        """Point an alias at an adapter or at a version of it (``name@2``)."""
        self._ask(aliasing(alias, target))

    def delete_alias(self, alias: str) -> None:
        """Delete an alias."""
        self._ask(removing(alias, "aliases"))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, call: Call[Result]) -> Result:
        left = self._retries
        while True:
            with reached(self.url):
                answer = self._http.request(**call.arguments())
            try:
                return read(call, answer)
            except OverloadedError as error:
                if not left:
                    raise
                left -= 1
                time.sleep(pause(error))


class AsyncClient:
    """Asks a serving process from an event loop; all else is as with :class:`Client`.

    >>> import asyncio
    >>> from adaptdock import AsyncClient
    >>> async def embed() -> list[list[float]]:
    ...     async with AsyncClient(url) as client:  # such as "http://127.0.0.1:8000"
    ...         return await client.embed("near", ["Ada lived in London.", "Bob sings."])
    >>> len(asyncio.run(embed()))
    2
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 60.0, retries: int = 2) -> None:
        self.url, self._retries = url, checked_number(retries, "retries")
        self._http = httpx2.AsyncClient(**settings(url, token, timeout))

    async def predict(self, adapter: Names, inputs: Sequence[Any], timeout: float | None = None) -> list[Predicted]:
        """Return a prediction for each input; ``adapter`` is one name for all inputs, or a name for each."""
        return await self._ask(predicting(adapter, inputs, timeout))

    async def render(self, adapter: Names, inputs: Sequence[Any], timeout: float | None = None) -> list[Predicted]:
        """Return predictions with a text for people in ``rendered``."""
        return await self._ask(predicting(adapter, inputs, timeout, render=True))

    async def embed(self, adapter: str, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector for each text."""
        return await self._ask(embedding(adapter, texts))

    async def complete(self, adapter: str, prompt: Asked, **wishes: Any) -> str:
        """Return the continuation of a text, or an answer to a conversation; see :meth:`Client.complete`."""
        return await self._ask(writing(adapter, prompt, wishes))

    async def stream(self, adapter: str, prompt: Asked, **wishes: Any) -> AsyncIterator[str]:
        """Yield the text of :meth:`complete` in pieces during generation."""
        call = writing(adapter, prompt, {**wishes, "stream": True})
        with reached(self.url):
            async with self._http.stream(**call.arguments()) as answer:
                if not answer.is_success:
                    raise problem_of(answer.status_code, answer.headers, await answer.aread())
                pieces = Pieces(piece)
                async for data in answer.aiter_bytes():
                    for text in pieces.take(data):
                        yield text
                pieces.end(self.url)

    async def adapters(self) -> Adapters:
        """Return the served adapters, their versions and the aliases."""
        return await self._ask(adapters_of())

    async def adapter(self, name: str) -> AdapterDetail:
        """Return an adapter with its card."""
        return await self._ask(adapter_of(name))

    async def load(
        self, name: str, version: int | None = None, activate: bool = True, match: str | None = None
    ) -> Changed:
        """Activate a kept version; without ``version``, read the adapter's file in the watched folder again."""
        return await self._ask(loading(name, version, activate, match))

    async def push(
        self, name: str, file: Path | str | bytes, activate: bool = True, match: str | None = None
    ) -> Changed:
        """Send an adapter file (or its content) as a new version. The process verifies the file before any change."""
        return await self._ask(await asyncio.to_thread(pushing, name, file, activate))

    async def unload(self, name: str, match: str | None = None) -> None:
        """Unload an adapter. In-flight requests still get their answers."""
        await self._ask(removing(name, match=match))

    async def rollback(self, name: str, match: str | None = None) -> Changed:
        """Reactivate the previous version."""
        return await self._ask(changing(name, "rollback", match))

    async def pin(self, name: str, match: str | None = None) -> Changed:
        """Keep an adapter docked, even if it is rarely used."""
        return await self._ask(changing(name, "pin", match))

    async def unpin(self, name: str, match: str | None = None) -> Changed:
        """Make an adapter evictable again."""
        return await self._ask(changing(name, "unpin", match))

    async def split(
        self, name: str, weights: Mapping[int, float], mirror: int | None = None, match: str | None = None
    ) -> Changed:
        """Divide the inputs among versions by weight; ``mirror`` is a version that gets them as shadow traffic."""
        return await self._ask(splitting(name, weights, mirror, match))

    async def set_alias(self, alias: str, target: str) -> None:
        """Point an alias at an adapter or at a version of it (``name@2``)."""
        await self._ask(aliasing(alias, target))

    async def delete_alias(self, alias: str) -> None:
        """Delete an alias."""
        await self._ask(removing(alias, "aliases"))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, call: Call[Result]) -> Result:
        left = self._retries
        while True:
            with reached(self.url):
                answer = await self._http.request(**call.arguments())
            try:
                return read(call, answer)
            except OverloadedError as error:
                if not left:
                    raise
                left -= 1
                await asyncio.sleep(pause(error))
