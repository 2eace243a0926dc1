"""The card: all that is needed to run an adapter with no other argument, as JSON in its file's header."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PluginEntry(_Entry):
    """A method or task: its name, its options, and the distribution it came from."""

    name: str
    options: dict[str, Any] = {}
    distribution: str = ""
    version: str = ""


class BaseEntry(_Entry):
    """An adapter that another was trained on top of: its name, methods, and the half of the model it was for."""

    name: str
    methods: list[PluginEntry] = Field(min_length=1)
    reads: Literal["encoder", "decoder"] = "encoder"


class BackboneEntry(_Entry):
    """The backbone an adapter was trained on. Only ``fingerprint`` decides whether another one fits.

    ``drop_layers`` are the layers that were left off its top.
    """

    id: str
    revision: str | None = None
    architecture: str
    fingerprint: str
    drop_layers: int = Field(0, ge=0)


class Preprocessing(_Entry):
    """How inputs become tokens: the longest window in tokens, the tokenizer, and a hash of its vocabulary."""

    max_length: int = Field(gt=0)
    tokenizer: str = ""
    lower_case: bool | None = None
    vocabulary: str = ""


class Card(_Entry):
    """The card of an adapter. ``methods`` are applied to the ports in this order.

    ``on`` are the adapters that it was trained on top of, lowest first; the file holds their weights too, the names
    of those of the first beginning with ``on.0.``.
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
