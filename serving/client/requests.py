"""Requests of a client: method, path and body of each, and a reader for its response."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import ValidationError

from adaptdock.errors import FileError, UsageError
from adaptdock.plugins.arguments import checked_number, file_path, of_type
from adaptdock.plugins.regular import read_regular
from adaptdock.plugins.sequences import listed, text
from adaptdock.serving.client.responses import OverloadedError, UnreachableError, problem_of
from adaptdock.serving.schemas import AdapterDetail, Adapters, Changed, PredictAnswer, Predicted

Result = TypeVar("Result")
Names = str | Sequence[str]
Asked = str | Sequence[Mapping[str, Any]]
TOKEN = "ADAPTDOCK_TOKEN"
"""The environment variable with the default token."""
TEXTS, MESSAGES = "['a text', 'another text']", "[{'role': 'user', 'content': 'a text'}]"
NAME, ACTIVATE = "the name of an adapter", "activate is True or False"
LONGEST_PAUSE = 30.0
"""Longest pause before a retry, in seconds."""
BINARY = "application/octet-stream"


@dataclass(frozen=True)
class Call(Generic[Result]):
    """A request, and the reader for its JSON response."""

    method: str
    path: str
    reads: Callable[[Any], Result]
    json: Mapping[str, Any] | None = None
    content: bytes | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    match: str | None = None
    """The ETag of the state that may be changed."""

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for ``httpx2``; raise :class:`UsageError` for a body that JSON cannot hold."""
        arguments: dict[str, Any] = {"method": self.method, "url": self.path, "params": self.params}
        headers = {} if self.match is None else {"if-match": text(self.match, "the ETag of an adapter")}
        if self.content is not None:
            arguments |= {"content": self.content, "headers": headers | {"content-type": BINARY}}
        elif self.json is not None:
            arguments |= {"content": _encoded(self.json), "headers": headers | {"content-type": "application/json"}}
        elif headers:
            arguments |= {"headers": headers}
        return arguments


# ----------------------------------------------------------------------------------------- requests


def predicting(
    names: Names, inputs: Sequence[Any], timeout: float | None, render: bool = False
) -> Call[list[Predicted]]:
    """Request predictions; raise :class:`UsageError` for names or inputs that are not a list."""
    adapters: Any = names
    if not isinstance(names, str):
        every = listed(names, "adapter names", "['ner', 'topic']")
        adapters = [text(name, f"the adapter name of input {number}") for number, name in enumerate(every)]
    body: dict[str, Any] = {"adapter": adapters, "inputs": listed(inputs, "inputs", TEXTS)}
    body |= {} if timeout is None else {"timeout": checked_number(timeout, "the timeout, in seconds,", whole=False)}
    body |= {"render": True} if render else {}
    return Call("POST", "v1/predict", _predictions, body)


def embedding(adapter: str, texts: Sequence[str]) -> Call[list[list[float]]]:
    """Request a vector for each text; raise :class:`UsageError` for anything but a list of texts."""
    items = [text(item, f"text {number}") for number, item in enumerate(listed(texts, "texts", TEXTS))]
    return Call("POST", "v1/embeddings", _vectors, {"model": text(adapter, NAME), "input": items})


def writing(adapter: str, prompt: Asked, wishes: Mapping[str, Any]) -> Call[str]:
    """Request the continuation of a text, or the answer to a conversation."""
    body = {"model": text(adapter, NAME), **wishes}
    if isinstance(prompt, str):
        return Call("POST", "v1/completions", _text, {**body, "prompt": prompt})
    return Call("POST", "v1/chat/completions", _text, {**body, "messages": listed(prompt, "messages", MESSAGES)})


def adapters_of() -> Call[Adapters]:
    """Request the list of served adapters."""
    return Call("GET", "v1/adapters", Adapters.model_validate)


def adapter_of(name: str) -> Call[AdapterDetail]:
    """Request an adapter with its card."""
    return Call("GET", _place(name), AdapterDetail.model_validate)


def loading(name: str, version: int | None, activate: bool, match: str | None = None) -> Call[Changed]:
    """Request that a kept version, or the file in the watched folder, is served."""
    body: dict[str, Any] = {"activate": of_type(activate, bool, ACTIVATE)}
    body |= {} if version is None else {"version": checked_number(version, "a version", 1)}
    return Call("PUT", _place(name), Changed.model_validate, body, match=match)


def pushing(name: str, file: Path | str | bytes, activate: bool, match: str | None = None) -> Call[Changed]:
    """Send an adapter file; raise :class:`FileError` for an unreadable file."""
    params = {"activate": of_type(activate, bool, ACTIVATE)}
    return Call("PUT", f"{_place(name)}/file", Changed.model_validate, None, _content(file), params, match)


def changing(name: str, change: str, match: str | None = None) -> Call[Changed]:
    """Request a change without a body, such as ``rollback`` or ``pin``."""
    return Call("POST", f"{_place(name)}/{change}", Changed.model_validate, match=match)


def splitting(name: str, weights: Mapping[int, float], mirror: int | None, match: str | None = None) -> Call[Changed]:
    """Request a split of the inputs among versions."""
    of_type(weights, Mapping, "the weights are a mapping from versions to shares, such as {1: 0.9, 2: 0.1}")
    shares = {
        str(checked_number(version, "a version", 1)): checked_number(weight, "a weight", whole=False)
        for version, weight in weights.items()
    }
    body = {"weights": shares, "mirror": None if mirror is None else checked_number(mirror, "the mirror's version", 1)}
    return Call("PUT", f"{_place(name)}/split", Changed.model_validate, body, match=match)


def aliasing(alias: str, target: str) -> Call[None]:
    """Request an alias of an adapter."""
    return Call("PUT", _place(alias, "aliases"), _nothing, {"target": text(target, "the target of an alias")})


def removing(name: str, among: str = "adapters", match: str | None = None) -> Call[None]:
    """Request the unloading of an adapter, or the deletion of an alias."""
    return Call("DELETE", _place(name, among), _nothing, match=match)


def settings(url: str, token: str | None, timeout: float) -> dict[str, Any]:
    """Return the arguments of a client of httpx2; raise :class:`UsageError` for an invalid address or token."""
    checked_number(timeout, "the timeout, in seconds,", whole=False)
    try:
        parsed = httpx2.URL(text(url, "the address of a serving process"))
    except httpx2.InvalidURL as error:
        raise UsageError(f"{url!r} is not an address of a serving process: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{url!r} is not an address of a serving process. Use one such as http://127.0.0.1:8000")
    secret = os.environ.get(TOKEN, "") if token is None else text(token, "the token")
    if not secret.isascii() or not secret.isprintable():
        raise UsageError("the token has characters that tokens cannot have: only printable ASCII is valid")
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return {"base_url": parsed, "headers": headers, "timeout": timeout}


# ------------------------------------------------------------------------------------------ answers


@contextmanager
def reached(url: str) -> Iterator[None]:
    """Turn a failed or incomplete exchange into :class:`UnreachableError`."""
    try:
        yield
    except httpx2.TimeoutException:
        raise UnreachableError(f"{url}: there was no answer in time") from None
    except (httpx2.TransportError, httpx2.DecodingError) as error:
        raise UnreachableError(f"{url}: the process cannot be reached: {error or type(error).__name__}") from None


def read(call: Call[Result], answer: httpx2.Response) -> Result:
    """Return the result of a response; raise its error, or :class:`UnreachableError` for a foreign server."""
    if not answer.is_success:
        raise problem_of(answer.status_code, answer.headers, answer.content)
    try:
        return call.reads(answer.json() if answer.content else None)
    except (ValidationError, ValueError, KeyError, TypeError, IndexError):
        raise UnreachableError(f"{answer.url}: the server there is not a serving process of adaptdock") from None


def piece(choice: Mapping[str, Any]) -> str | None:
    """Return the text of an event, or None."""
    content: str | None = choice["text"] if "text" in choice else choice["delta"].get("content")
    return content


def pause(error: OverloadedError) -> float:
    """Return the seconds before a retry."""
    return min(1.0 if error.seconds is None else error.seconds, LONGEST_PAUSE)


def _predictions(answer: Any) -> list[Predicted]:
    return PredictAnswer.model_validate(answer).predictions


def _vectors(answer: Any) -> list[list[float]]:
    return [entry["embedding"] for entry in answer["data"]]


def _text(answer: Any) -> str:
    (choice,) = answer["choices"]
    text: str = choice["text"] if "text" in choice else choice["message"]["content"]
    return text


def _nothing(_: Any) -> None:
    return None


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the request cannot be written as JSON: {error}") from None


def _place(name: str, among: str = "adapters") -> str:
    return f"v1/{among}/{quote(text(name, NAME), safe='')}"


def _content(file: Path | str | bytes) -> bytes:
    if isinstance(file, bytes):
        return file
    file = file_path(file, "an adapter file (where it is not its bytes)")
    try:
        return read_regular(file)
    except OSError as error:
        raise FileError(file, f"it cannot be read: {error.strerror or error}") from None
