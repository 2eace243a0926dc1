"""The card: all that is needed to run an adapter with no other argument, as JSON in its file's header."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PluginEntry(_Entry):
    """A method or task: its name, its options, and the distribution it came from."""

    name: str
    options: dict[str, Any] = {}
    distribution: str = ""
    version: str = ""


class BackboneEntry(_Entry):
    """The backbone an adapter was trained on. Only ``fingerprint`` decides whether another one fits."""

    id: str
    revision: str | None = None
    architecture: str
    fingerprint: str


class Preprocessing(_Entry):
    """How inputs become tokens: the longest window in tokens, the tokenizer, and a hash of its vocabulary."""

    max_length: int = Field(gt=0)
    tokenizer: str = ""
    lower_case: bool | None = None
    vocabulary: str = ""


class Card(_Entry):
    """The card of an adapter. ``methods`` are applied to the ports in this order."""

    name: str = Field(min_length=1, max_length=200)
    version: str = "1"
    task: PluginEntry
    methods: list[PluginEntry] = Field(min_length=1)
    backbone: BackboneEntry
    preprocessing: Preprocessing
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    licence: str = ""
    languages: list[str] = []
    description: str = ""
