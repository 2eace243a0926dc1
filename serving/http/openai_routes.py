"""``/v1/completions``, ``/v1/chat/completions``, ``/v1/embeddings`` and ``/v1/models``, compatible with OpenAI clients.

``model`` is an adapter's name, an alias or a version. An unsupported field that would change the answer is refused.
"""

import base64
import json
import math
import struct
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from adaptdock.errors import AdaptError, UsageError
from adaptdock.plugins.contracts import Writer
from adaptdock.plugins.toolkit.heads import EmbeddingHead, LanguageModelHead
from adaptdock.serving.http.authorization import covered, require
from adaptdock.serving.http.middleware import explained
from adaptdock.serving.http.openai_schemas import ChatRequest, CompletionRequest, EmbeddingRequest, Writing
from adaptdock.serving.http.predict_routes import ERRORS
from adaptdock.serving.http.service import Answered, InputError, Service
from adaptdock.serving.versions import Version

OWNER = "adaptdock"
BARE_ABILITIES = ["completions", "chat"]
DONE = "data: [DONE]\n\n"


def openai_routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["compatible with OpenAI"], responses=ERRORS)  # type: ignore[arg-type]
    _add_models(router, service)
    _add_completions(router, service)
    _add_chat(router, service)
    _add_embeddings(router, service)
    return router


def _add_models(router: APIRouter, service: Service) -> None:
    """Add the routes that list the adapters as models."""
    began = int(time.time())

    def model(name: str, names: list[str]) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": began, "owned_by": OWNER, "abilities": names}

    @router.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """List the adapters that the token is for with their abilities, and the bare backbone if it generates text."""
        is_covered = covered(request, service.catalog)
        entries = [
            model(name, abilities(served.current)) for name, served in service.catalog.all().items() if is_covered(name)
        ]
        if service.writes and is_covered(service.backbone_name):
            entries.append(model(service.backbone_name, BARE_ABILITIES))
        return {"object": "list", "data": entries}

    @router.get("/v1/models/{name:path}")
    async def one_model(name: str, request: Request) -> dict[str, Any]:
        """Return one model, with its abilities."""
        require(request, service.catalog, name)
        return model(name, BARE_ABILITIES if service.is_bare(name) else abilities(service.catalog.peek(name)))


def _add_completions(router: APIRouter, service: Service) -> None:
    """Add the route that continues texts."""

    @router.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue texts as they are, without the task's prompt."""
        if not service.is_bare(body.model):
            _needs(service, request, body.model, "completions")
        shape = Shape("cmpl", "text_completion", body.model, lambda text: {"text": text, "logprobs": None})
        return await _written(service, request, body, shape, body.prompts(), raw=True)


def _add_chat(router: APIRouter, service: Service) -> None:
    """Add the route that answers conversations."""

    @router.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation. A task without conversations gets the last turn of the user."""
        turns, bare = [message.plain() for message in body.messages], service.is_bare(body.model)
        item: Any = {"messages": turns}
        if not bare and "messages" not in _needs(service, request, body.model, "chat").assembly.task.columns:
            item = next((turn["content"] for turn in reversed(turns) if turn["role"] == "user"), "")
        whole = Shape(
            "chatcmpl", "chat.completion", body.model, lambda text: {"message": {"role": "assistant", "content": text}}
        )
        part = Shape(
            "chatcmpl",
            "chat.completion.chunk",
            body.model,
            lambda text: {"delta": {"content": text}},
            {"delta": {"role": "assistant", "content": ""}},
        )
        return await _written(service, request, body, part if body.stream else whole, [item], raw=bare)


def _add_embeddings(router: APIRouter, service: Service) -> None:
    """Add the route that embeds texts."""

    @router.post("/v1/embeddings")
    async def embeddings(body: EmbeddingRequest, request: Request) -> dict[str, Any]:
        """Return a vector for each text."""
        _needs(service, request, body.model, "embeddings")
        texts = [body.input] if isinstance(body.input, str) else body.input
        if not texts:
            raise UsageError("input: the list has no text")
        answers = await service.ask(request, [body.model] * len(texts), texts)
        data = [
            {"object": "embedding", "index": place, "embedding": _encoded(_vector(place, answered, body), body)}
            for place, answered in enumerate(answers)
        ]
        read = sum(answered.outcome.read_tokens for answered in answers)
        usage = {"prompt_tokens": read, "total_tokens": read}
        return {"object": "list", "data": data, "model": body.model, "usage": usage}


def abilities(version: Version) -> list[str]:
    """Return the routes that accept a version: always predict, the others by its head and task."""
    names, head = ["predict"], version.assembly.head
    if isinstance(head, LanguageModelHead):
        names.append("completions")
    if isinstance(version.assembly.task, Writer):
        names.append("chat")
    if isinstance(head, EmbeddingHead):
        names.append("embeddings")
    return names


def _needs(service: Service, request: Request, model: str, ability: str) -> Version:
    require(request, service.catalog, model)
    version = service.catalog.peek(model)
    supported = abilities(version)
    if ability not in supported:
        raise UsageError(
            f"the adapter {model!r} is for {version.card.task.name}: it has {', '.join(supported)}, no {ability}"
        )
    return version


class Shape:
    """The JSON layout of an answer or of a streamed piece; ``opening`` is the choice before the first piece."""

    def __init__(self, prefix: str, kind: str, model: str, choice: Any, opening: dict[str, Any] | None = None) -> None:
        self.opening = opening
        self._head = {"id": f"{prefix}-{uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}
        self._choice = choice

    def first(self) -> dict[str, Any]:
        """Return the JSON before the first piece."""
        return {**self._head, "choices": [{"index": 0, **(self.opening or {}), "finish_reason": None}]}

    def of(self, pieces: Sequence[tuple[str, str | None]], usage: dict[str, int] | None = None) -> dict[str, Any]:
        """Return the JSON of texts, each with its finish reason."""
        choices = [
            {"index": place, **self._choice(text), "finish_reason": ending}
            for place, (text, ending) in enumerate(pieces)
        ]
        return {**self._head, "choices": choices, **({} if usage is None else {"usage": usage})}


async def _written(
    service: Service, request: Request, body: Writing, shape: Shape, items: Sequence[Any], raw: bool
) -> Response:
    if not items:
        raise UsageError("prompt: the list has no text")
    bare = service.is_bare(body.model)
    more: dict[str, Any] = {"wishes": body.wishes(), "raw": raw, "stops": body.stops, "bare": bare}
    if not body.stream:
        answers = await service.ask(request, [body.model] * len(items), items, **more)
        return JSONResponse(
            shape.of([(answered.outcome.text, _ending(answered)) for answered in answers], _usage(answers))
        )
    if len(items) > 1:
        raise UsageError("stream: one text can be streamed at a time")
    pieces = service.stream(request, body.model, items[0], **more)
    first = await anext(pieces)  # before the first piece is sent, an error can still set the HTTP status
    usage = body.stream_options is not None and body.stream_options.include_usage
    return StreamingResponse(_events(first, pieces, shape, usage), media_type="text/event-stream")


async def _events(
    first: str | Answered, pieces: AsyncIterator[str | Answered], shape: Shape, usage: bool
) -> AsyncIterator[str]:
    piece: str | Answered = first
    try:
        if shape.opening is not None:
            yield _event(shape.first())
        while isinstance(piece, str):
            yield _event(shape.of([(piece, None)]))
            piece = await anext(pieces)
        yield _event(shape.of([("", _ending(piece))]))
        if usage:
            yield _event(shape.of([], _usage([piece])))
    except (AdaptError, InputError) as error:
        _, problem, _ = explained(error.error if isinstance(error, InputError) else error)
        yield f'data: {{"error": {problem.model_dump_json()}}}\n\n'
    yield DONE


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _ending(answered: Answered) -> str:
    return "stop" if answered.outcome.finished else "length"


def _usage(answers: Sequence[Answered]) -> dict[str, int]:
    read, new = (sum(getattr(answered.outcome, name) for answered in answers) for name in ("read_tokens", "new_tokens"))
    return {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}


def _vector(place: int, answered: Answered, body: EmbeddingRequest) -> list[float]:
    vector: list[float] = answered.outcome.prediction.get("embedding") or []
    if not vector:
        raise InputError(place, UsageError("a text without a token has no vector"))
    if body.dimensions is None or body.dimensions == len(vector):
        return vector
    if body.dimensions > len(vector):
        raise UsageError(f"dimensions: a vector of {body.model!r} has {len(vector)} numbers")
    short = vector[: body.dimensions]
    length = math.hypot(*short)
    scale = math.hypot(*vector) / length if length else 1.0
    return [scale * number for number in short]


def _encoded(vector: list[float], body: EmbeddingRequest) -> list[float] | str:
    if body.encoding_format == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
