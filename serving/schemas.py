"""What requests and answers hold; the OpenAPI description is made of it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

AdapterName = Annotated[str, Field(min_length=1, max_length=1000)]


class Request(BaseModel):
    """A body with exactly these fields.

    One wrong element of a list and one unknown field are reported: an error for each of a million would take seconds,
    in which nobody is answered. Lists of what can be wrong are therefore ``fail_fast``.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _first_unknown_field(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        fields = cls.model_fields
        unknown = [name for name in body if name not in fields]
        if len(unknown) < 2:
            return body
        return {name: body[name] for name in body if name in fields or name == unknown[0]}


class Answer(BaseModel):
    """The body of an answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class PredictRequest(Request):
    """Inputs, and who shall answer."""

    adapter: AdapterName | Annotated[list[AdapterName], Field(fail_fast=True)]
    """An adapter's name, an alias, a version (``name@2``) or a stack (``lower+upper``); or one for each input."""
    inputs: list[Any] = Field(min_length=1)
    """Each is what the adapter's task reads: mostly a text, or an object with its fields."""
    timeout: float | None = Field(None, gt=0)
    """Seconds after which the request is given up, if that is less than what the process allows."""
    render: bool = False
    """Give each prediction as text for a person too."""


class Predicted(Answer):
    """The answer to one input."""

    adapter: str
    version: int
    """The version that answered; of a stack that of its topmost adapter."""
    prediction: dict[str, Any]
    """What the adapter's task gives."""
    rendered: str | None = None
    """That as text for a person, where the request wants it."""


class PredictAnswer(Answer):
    """A prediction for each input, in their order."""

    predictions: list[Predicted]


class Counters(Answer):
    """What an adapter has been asked since the process began."""

    requests: int
    """Inputs."""
    errors: int
    mean_seconds: float | None
    """Mean time from the arrival of an input to its answer."""


class VersionState(Answer):
    """One version of an adapter."""

    version: int
    sha256: str
    """Hash of the adapter file."""
    weight: float
    """Its share of the answers."""
    tier: Literal["device", "host", "disk"]
    """Where its weights are now."""
    users: int
    """Inputs that wait for it or are being computed."""
    resident_bytes: int


class AdapterState(Answer):
    """An adapter that is served."""

    name: str
    task: str
    asks: list[str]
    """The fields of an input; where it is one, an input may be the bare text."""
    methods: list[str]
    abilities: list[Literal["predict", "completions", "chat", "embeddings"]]
    description: str
    version: int
    """The version that answers; of several the one with the largest weight."""
    versions: list[VersionState]
    mirror: int | None
    """The version that hears what is asked without answering."""
    pinned: bool
    counters: Counters


class AdapterDetail(AdapterState):
    """An adapter with the card of the version that answers."""

    card: dict[str, Any]


class Adapters(Answer):
    """The adapters that are served."""

    backbone: str
    adapters: list[AdapterState]
    aliases: dict[str, str]


class LoadRequest(Request):
    """Which version of an adapter shall answer."""

    version: int | None = Field(None, gt=0)
    """One that is kept; or else the adapter's file in the watched folder is read."""
    activate: bool = True
    """Let it answer at once, or only when it is asked for by ``name@version`` or gets a share."""


class SplitRequest(Request):
    """How the answers are divided among versions."""

    weights: dict[Annotated[int, Field(gt=0)], Annotated[float, Field(ge=0)]] = Field(min_length=1)
    """Version -> weight."""
    mirror: int | None = Field(None, gt=0)
    """A version that hears what is asked without answering."""


class AliasRequest(Request):
    """What an alias stands for."""

    target: AdapterName
    """An adapter's name, or a version such as ``name@2``."""


class Changed(Answer):
    """What a change led to."""

    adapter: str
    version: int
    """The version that answers now."""


class Health(Answer):
    """How the process is."""

    status: Literal["ok", "starting", "stopping", "broken"]
    adapters: int
    waiting: int
    """Inputs that have no answer yet."""


class Problem(Answer):
    """Why there is no answer."""

    message: str
    type: str
    param: str | None = None
    """The field that is wrong."""
    code: str | None = None
    nearest: list[str] = []
    """Names that there are, like the one that there is not."""


class Refusal(Answer):
    """The body of every answer that is an error."""

    error: Problem
    request_id: str
