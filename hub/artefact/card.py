"""The card: everything needed to run an adapter without other arguments, as JSON in the header of its file."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

DESCRIPTION_LIMIT = 20_000
MOST_PROBES, MOST_VALUES, PROBES_LIMIT = 4, 32, 4096
"""Golden probes of an adapter, values of each answer, and bytes of all as JSON: docking computes the inputs."""

LARGEST = float(2**128)
"""Numbers that an adapter computes are of float32, which ends before this."""
Computed = Annotated[FiniteFloat, Field(gt=-LARGEST, lt=LARGEST)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PluginEntry(_Entry):
    """A method or task: its name, its options, and the distribution that provides it."""

    name: str
    options: dict[str, Any] = {}
    distribution: str = ""
    version: str = ""


class BaseEntry(_Entry):
    """An adapter below, on top of which this adapter was trained; ``reads`` is the half of the model it belongs to."""

    name: str
    methods: list[PluginEntry] = Field(min_length=1)
    reads: Literal["encoder", "decoder"] = "encoder"


class BackboneEntry(_Entry):
    """The backbone of an adapter. Only ``fingerprint`` decides whether another backbone fits.

    ``drop_layers`` is the number of layers removed from the top.
    """

    id: str
    revision: str | None = None
    architecture: str
    fingerprint: str
    drop_layers: int = Field(0, ge=0)


class Preprocessing(_Entry):
    """Tokenization: the longest window in tokens, the tokenizer, and a hash of its vocabulary."""

    max_length: int = Field(gt=0)
    tokenizer: str = ""
    lower_case: bool | None = None
    vocabulary: str = ""


class Probe(_Entry):
    """A golden probe: an input, and values of the logits that the adapter gave for it when it was saved.

    ``size`` counts the numbers in the logits of all windows of the input; ``values`` are some of them, rounded.
    """

    input: Any
    size: int = Field(gt=0)
    values: list[Computed] = Field(min_length=1, max_length=MOST_VALUES)


class Probes(_Entry):
    """The golden probes of an adapter, the precision of the backbone that answered, and where the inputs come from.

    ``responses`` have, by place, numbers that describe what a method or the head computes from fixed numbers; see
    :mod:`adaptdock.engine.inference.port_responses`. In the file they have an entry of their own.
    """

    origin: Literal["sample", "validation"]
    precision: str
    probes: list[Probe] = Field(min_length=1, max_length=MOST_PROBES)
    responses: dict[str, list[Computed]] = {}

    @model_validator(mode="after")
    def _are_short(self) -> Self:
        size = len(self.to_json().encode())
        if size > PROBES_LIMIT:
            raise ValueError(f"the golden probes have {size:,} bytes; at most {PROBES_LIMIT:,} are read")
        return self

    def to_json(self) -> str:
        """Return all but the responses as JSON, which releases without responses read too."""
        return self.model_dump_json(exclude={"responses"})

    def __str__(self) -> str:
        texts = "the task's sample" if self.origin == "sample" else "the validation data"
        return f"{len(self.probes)}, of {texts}, answered in {self.precision}"


class Card(_Entry):
    """The card of an adapter. ``methods`` are applied to the ports in this order.

    ``on`` are the adapters below, lowest first. The file holds their weights too: the tensors of the first have names
    that begin with ``on.0.``. ``probes`` have entries of their own in the header of the file.
    """

    name: str = Field(min_length=1, max_length=200)
    version: str = Field("1", max_length=100)
    task: PluginEntry
    methods: list[PluginEntry] = Field(min_length=1)
    on: list[BaseEntry] = []
    backbone: BackboneEntry
    preprocessing: Preprocessing
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    licence: str = Field("", max_length=1000)
    languages: list[Annotated[str, Field(max_length=100)]] = Field([], max_length=1000)
    description: str = Field("", max_length=DESCRIPTION_LIMIT)
    """In lists of adapters too, which pages ask every two seconds."""
    probes: Probes | None = None

    @property
    def proof(self) -> str:
        """The golden probes in words; ``no probes`` for an adapter whose answers cannot be checked."""
        return str(self.probes or "no probes")
