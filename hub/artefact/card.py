"""The card: everything needed to run an adapter without other arguments, as JSON in the header of its file."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


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


class Card(_Entry):
    """The card of an adapter. ``methods`` are applied to the ports in this order.

    ``on`` are the adapters below, lowest first. The file holds their weights too: the tensors of the first have names
    that begin with ``on.0.``.
    """

    name: str = Field(min_length=1, max_length=200)
    version: str = "1"
    task: PluginEntry
    methods: list[PluginEntry] = Field(min_length=1)
    on: list[BaseEntry] = []
    backbone: BackboneEntry
    preprocessing: Preprocessing
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    licence: str = ""
    languages: list[str] = []
    description: str = ""
