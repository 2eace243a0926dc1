"""``/v1/completions``, ``/v1/chat/completions``, ``/v1/embeddings`` and ``/v1/models``, compatible with OpenAI clients.

``model`` is an adapter's name, an alias or a version. An unsupported field that would change the answer is refused.
"""

import base64
import json
import struct
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field

from adaptdock.errors import AdaptError, UsageError
from adaptdock.plugins.contracts import Writer
from adaptdock.plugins.toolkit.heads import EmbeddingHead, LanguageModelHead
from adaptdock.serving.http.authorization import covered, require
from adaptdock.serving.http.middleware import explained
from adaptdock.serving.http.predict_routes import ERRORS
from adaptdock.serving.http.service import Answered, InputError, Service
from adaptdock.serving.schemas import AdapterName
from adaptdock.serving.schemas import Request as Body
from adaptdock.serving.versions import Version

OWNER = "adaptdock"
MOST_TURNS = 1024
Texts = Annotated[list[str], Field(fail_fast=True)]
DONE = "data: [DONE]\n\n"


class StreamOptions(Body):
    """Optional events of a stream."""

    include_usage: bool = False


class Writing(Body):
    """Generation options. A missing option has the default of the adapter's task."""

    model: AdapterName
    max_tokens: int | None = Field(None, gt=0)
    temperature: float | None = Field(None, ge=0, le=100)
    """0 selects the most probable token."""
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    user: str | None = None

    def wishes(self) -> dict[str, Any]:
        """Return the given options by their names in :class:`GenerationOptions`."""
        options: dict[str, Any] = {}
        if self.max_tokens is not None:
            options["max_new_tokens"] = self.max_tokens
        if self.temperature is not None:
            options |= {"do_sample": self.temperature > 0}
            options |= {"temperature": self.temperature} if self.temperature > 0 else {}
        if self.top_p is not None:
            options["top_p"] = self.top_p
        if self.seed is not None:
            options["seed"] = self.seed
        if options.get("do_sample"):
            options["num_beams"] = 1  # the task's default may be beam search
        return options


class CompletionRequest(Writing):
    """A prompt to continue, without a chat template."""

    prompt: str | Texts


class Part(Body):
    """A text part of a message."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(fail_fast=True, max_length=MOST_TURNS)]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """Return role and text; the role ``developer`` becomes ``system``."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Writing):
    """A conversation to answer."""

    messages: Annotated[list[Message], Field(fail_fast=True)] = Field(min_length=1, max_length=MOST_TURNS)
    max_completion_tokens: int | None = Field(None, gt=0)

    def wishes(self) -> dict[str, Any]:
        """Return the given options by their names in :class:`GenerationOptions`."""
        limit = self.max_completion_tokens
        return super().wishes() | ({} if limit is None else {"max_new_tokens": limit})


class EmbeddingRequest(Body):
    """Texts to embed."""

    model: AdapterName
    input: str | Texts
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


def openai_routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["compatible with OpenAI"], responses=ERRORS)  # type: ignore[arg-type]
    began = int(time.time())

    @router.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """List the adapters that generate text or embed."""
        is_covered = covered(request, service.catalog)
        entries = [
            {"id": name, "object": "model", "created": began, "owned_by": OWNER, "abilities": abilities(version)}
            for name, version in ((served.name, served.current) for served in service.catalog.all().values())
            if is_covered(name) and len(abilities(version)) > 1  # "predict" alone has no OpenAI route
        ]
        return {"object": "list", "data": entries}

    @router.get("/v1/models/{model}")
    async def one_model(model: str, request: Request) -> dict[str, Any]:
        """Return one model, with its abilities."""
        require(request, service.catalog, model)
        version = service.catalog.peek(model)
        return {
            "id": model,
            "object": "model",
            "created": began,
            "owned_by": OWNER,
            "abilities": abilities(version),
        }

    @router.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue texts as they are, without the task's prompt."""
        _needs(service, request, body.model, "completions")
        shape = Shape("cmpl", "text_completion", body.model, lambda text: {"text": text, "logprobs": None})
        items = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        return await _written(service, request, body, shape, items, raw=True)

    @router.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation. A task without conversations gets the last turn of the user."""
        task = _needs(service, request, body.model, "chat").assembly.task
        turns = [message.plain() for message in body.messages]
        item: Any = {"messages": turns}
        if "messages" not in task.columns:
            item = next((turn["content"] for turn in reversed(turns) if turn["role"] == "user"), "")
        whole = Shape(
            "chatcmpl", "chat.completion", body.model, lambda text: {"message": {"role": "assistant", "content": text}}
        )
        part = Shape("chatcmpl", "chat.completion.chunk", body.model, lambda text: {"delta": {"content": text}})
        return await _written(service, request, body, part if body.stream else whole, [item], raw=False)

    @router.post("/v1/embeddings")
    async def embeddings(body: EmbeddingRequest, request: Request) -> dict[str, Any]:
        """Return a vector for each text."""
        _needs(service, request, body.model, "embeddings")
        texts = [body.input] if isinstance(body.input, str) else body.input
        if not texts:
            raise UsageError("input: the list has no text")
        answers = await service.ask(request, [body.model] * len(texts), texts)
        data = [
            {"object": "embedding", "index": place, "embedding": _vector(place, answered, body.encoding_format)}
            for place, answered in enumerate(answers)
        ]
        read = sum(answered.outcome.read_tokens for answered in answers)
        usage = {"prompt_tokens": read, "total_tokens": read}
        return {"object": "list", "data": data, "model": body.model, "usage": usage}

    return router


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
    """The JSON layout of an answer or of a streamed piece."""

    def __init__(self, prefix: str, kind: str, model: str, choice: Any) -> None:
        self._head = {"id": f"{prefix}-{uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}
        self._choice = choice

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
    more: dict[str, Any] = {"wishes": body.wishes(), "raw": raw}
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


def _vector(place: int, answered: Answered, form: str) -> list[float] | str:
    vector = answered.outcome.prediction.get("embedding")
    if not vector:
        raise InputError(place, UsageError("a text without a token has no vector"))
    return vector if form == "float" else base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
