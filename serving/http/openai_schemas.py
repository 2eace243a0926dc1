"""Bodies of requests of OpenAI clients.

Client libraries send many options with their neutral values. These are accepted; another value of an option that is not
supported here would change the answer, and is refused.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from adaptdock.serving.schemas import AdapterName
from adaptdock.serving.schemas import Request as Body

MOST_TURNS = 1024
Texts = Annotated[list[str], Field(fail_fast=True)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True, min_length=1)]
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_cache_key": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "safety_identifier": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Unsupported options, with the values that change nothing; null is one for each."""
STOPS, LONGEST_STOP = 16, 256
"""Limits of stop sequences: their number, and the characters of each."""
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]


class OpenAIBody(Body):
    """A body without options that have a neutral value."""

    @model_validator(mode="before")
    @classmethod
    def _without_neutral_options(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        fields = {}
        for name, value in body.items():
            unsupported = name in NEUTRAL and name not in cls.model_fields
            if value is None and (unsupported or name in optional):
                continue
            if unsupported and any(_equal(value, neutral) for neutral in NEUTRAL[name]):
                continue
            if unsupported:
                shown = " or ".join(repr(neutral) for neutral in (*NEUTRAL[name], None))
                raise ValueError(f"{name} is not supported here, except {shown}")
            fields[name] = value
        return fields


def _equal(value: Any, neutral: Any) -> bool:
    """Compare JSON values: true is not 1."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)


class StreamOptions(OpenAIBody):
    """Optional events of a stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Writing(OpenAIBody):
    """Generation options. A missing option has the default of the adapter's task."""

    model: AdapterName
    max_tokens: int | None = Field(None, gt=0)
    temperature: float | None = Field(None, ge=0, le=100)
    """0 selects the most probable token."""
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(fail_fast=True, max_length=STOPS)] = []
    """Texts before which generation ends."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop sequences."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

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
    """Prompts to continue, without a chat template: texts, or token ids of the backbone's tokenizer."""

    prompt: str | Texts | TokenIds | Annotated[list[TokenIds], Field(fail_fast=True)]

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts of the request."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [token for token in self.prompt if isinstance(token, int)]
        return [ids] if ids else [prompt for prompt in self.prompt if not isinstance(prompt, int)]


class Part(Body):
    """A text part of a message."""

    type: Literal["text"]
    text: str


class Message(OpenAIBody):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(fail_fast=True, max_length=MOST_TURNS)]
    name: str | None = None
    refusal: None = None
    tool_calls: None = None
    annotations: None = None

    @field_validator("tool_calls", "annotations", mode="before")
    @classmethod
    def _none_for_empty(cls, value: Any) -> Any:
        return None if value == [] else value

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


class EmbeddingRequest(OpenAIBody):
    """Texts to embed."""

    model: AdapterName
    input: str | Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, gt=0)
    """Numbers of each vector: the first ones, scaled to the length of the whole vector."""
    user: str | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _no_token_ids(cls, value: Any) -> Any:
        """Refuse token ids: clients that send them have tokenized for a model of OpenAI, not for this backbone."""
        if isinstance(value, list) and value and isinstance(value[0], int | list):
            raise ValueError(
                "token ids cannot be embedded, as they may be of another tokenizer: send texts (in LangChain: "
                "check_embedding_ctx_length=False)"
            )
        return value
