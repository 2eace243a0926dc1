"""Bodies of requests and answers. FastAPI generates the OpenAPI description from them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

AdapterName = Annotated[str, Field(min_length=1, max_length=1000)]


class Request(BaseModel):
    """A request body with exactly these fields.

    Only the first wrong list element and the first unknown field are reported: a million errors would take seconds,
    during which the event loop answers nobody. Lists that can hold wrong elements are therefore ``fail_fast``.
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
    """A response body."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class PredictRequest(Request):
    """Inputs, and the adapters for them."""

    adapter: AdapterName | Annotated[list[AdapterName], Field(fail_fast=True)]
    """An adapter's name, an alias, a version (``name@2``) or a stack (``lower+upper``); or a list, one per input."""
    inputs: list[Any] = Field(min_length=1)
    """Each input is in the format of the adapter's task: mostly a text, or an object with fields."""
    timeout: float | None = Field(None, gt=0)
    """Timeout in seconds, if shorter than that of the process."""
    render: bool = False
    """Add a text for people to each prediction."""


class Predicted(Answer):
    """The prediction for one input."""

    adapter: str
    version: int
    """The version that answered; for a stack, the version of its topmost adapter."""
    prediction: dict[str, Any]
    """The prediction in the format of the adapter's task."""
    rendered: str | None = None
    """The prediction as a text for people, if requested."""


class PredictAnswer(Answer):
    """A prediction for each input, in order."""

    predictions: list[Predicted]


class Counters(Answer):
    """Counts of an adapter since the process started; with a shared state the sum over all processes."""

    requests: int
    """Number of inputs."""
    errors: int
    mean_seconds: float | None
    """Mean seconds from the arrival of an input to its answer."""


class VersionState(Answer):
    """One version of an adapter."""

    version: int
    sha256: str
    """Hash of the adapter file."""
    weight: float
    """Share of the inputs, from 0 to 1."""
    tier: Literal["device", "host", "disk"]
    """The place of its weights now."""
    users: int
    """Number of in-flight inputs of this version."""
    resident_bytes: int


class AdapterState(Answer):
    """A served adapter."""

    name: str
    task: str
    asks: list[str]
    """The fields of an input. With a single field, an input may be the bare text."""
    methods: list[str]
    abilities: list[Literal["predict", "completions", "chat", "embeddings"]]
    description: str
    version: int
    """The version that answers; of several, the version with the largest weight."""
    versions: list[VersionState]
    mirror: int | None
    """The version that gets shadow traffic: the same inputs, without answering."""
    pinned: bool
    etag: str
    """Identifies this state without its counters. A change with ``If-Match: ETAG`` is made only in this state."""
    probes: str = ""
    """The golden probes that were checked before the version was docked; "no probes" for a version without them."""
    counters: Counters
    docked_in: int = 0
    """The number of processes in which the adapter is docked now; with a shared state, as of their last reports."""


class AdapterDetail(AdapterState):
    """A served adapter with the card of its current version."""

    card: dict[str, Any]


class ProcessState(Answer):
    """A process that serves: of a shared state each one, as of its last report."""

    process: str
    """The name of its machine and its process number."""
    waiting: int
    """Number of inputs without an answer yet."""
    docked: int
    """Number of docked adapters."""


class RefusedFile(Answer):
    """A file in the watched folder that is not served."""

    name: str
    """Its name without the suffix."""
    reason: str


class Adapters(Answer):
    """The served adapters, the aliases, and the refused files of the watched folder."""

    backbone: str
    adapters: list[AdapterState]
    aliases: dict[str, str]
    refused: list[RefusedFile] = []
    processes: list[ProcessState] = []


class LoadRequest(Request):
    """The version of an adapter to activate."""

    version: int | None = Field(None, gt=0)
    """A kept version; without it, the adapter's file in the watched folder is read."""
    activate: bool = True
    """Answer with it at once; otherwise only as ``name@version`` or with a share."""


class LoraRequest(Request):
    """An adapter by its name, as vLLM has it."""

    lora_name: AdapterName
    lora_int_id: int | None = None
    """Not used."""


class LoraLoadRequest(LoraRequest):
    """An adapter of the watched folder, as vLLM has it."""

    lora_path: str | None = Field(None, max_length=4096)
    """Its file in the watched folder, if given: no other path is read."""


class SplitRequest(Request):
    """Shares of the versions of an adapter."""

    weights: dict[Annotated[int, Field(gt=0)], Annotated[float, Field(ge=0)]] = Field(min_length=1)
    """Version -> weight; the weights need not add up to 1."""
    mirror: int | None = Field(None, gt=0)
    """A version that gets the inputs as shadow traffic, without answering."""


class AliasRequest(Request):
    """The target of an alias."""

    target: AdapterName
    """An adapter's name, or a version such as ``name@2``."""


class Changed(Answer):
    """The state after a change."""

    adapter: str
    version: int
    """The version that answers now."""
    etag: str = ""
    """The ETag of the state after the change."""
    warnings: list[str] = []
    """What clients notice of the new answers: another task, labels that are gone, new labels."""


class Health(Answer):
    """The health of the process."""

    status: Literal["ok", "starting", "stopping", "broken"]
    adapters: int
    waiting: int
    """Number of inputs without an answer."""


class Problem(Answer):
    """An error."""

    message: str
    type: str
    param: str | None = None
    """The wrong field."""
    code: str | None = None
    nearest: list[str] = []
    """Valid names similar to the unknown name."""


class Refusal(Answer):
    """The body of every error response."""

    error: Problem
    request_id: str


class ConfirmRequest(Request):
    """The answer that a person gives to a row of the label file."""

    text: str
    """The text of the row, which has to be the one in the file."""
    answer: str | list[Any]
    """A label, labels, spans ``[start, end, label]`` in characters, or a tag for each word."""


class DraftRow(Answer):
    """A row of the label file."""

    number: int
    text: str
    tokens: list[str] | None
    """The words, if each has a tag."""
    fields: dict[str, Any]
    """Further fields of the text."""
    answer: Any
    """The answer to confirm or correct, or the confirmed one; None for a teacher's draft in another form."""
    drafts: dict[str, Any]
    """The answers of adapter and teacher."""
    confirmed: bool


class DraftRows(Answer):
    """The rows of the label file, and the labels to choose from."""

    kind: Literal["label", "labels", "spans", "tags"]
    labels: list[str]
    rows: list[DraftRow]
