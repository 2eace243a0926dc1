"""Typed configurations of adapters 1.3 (AdapterHub): of a folder, a union of methods, and a head."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from adaptdock.plugins.toolkit.interchange.options import Count, ForeignOptions, Index
from adaptdock.plugins.toolkit.interchange.tensors import refuse

RENAMED = {"gelu": "gelu_new", "gelu_orig": "gelu"}
"""Activation functions of configurations without a version, under their former names."""
INVERTIBLE = ("inv_adapter", "inv_adapter_reduction_factor", "non_linearity")
"""Options of an invertible adapter; the last is that of the bottlenecks, too."""
PLACES = ("mh_adapter", "output_adapter", "cross_adapter")
"""Options for bottlenecks at a place."""
DEEPEST = 8
"""Largest depth of nested unions."""
REFUSED = {
    "prompt_tuning": "its embeddings enter behind the layer norm of the embeddings, ours before it",
    "mtl_lora": "adaptdock has no such method",
}
"""Architecture of a configuration without a method -> the reason."""


class FolderOptions(ForeignOptions):
    """The fields of a configuration file besides the method or the head."""

    SILENT: ClassVar[frozenset[str]] = frozenset({"library_name", "type", "config_id"})

    config: dict[str, Any]
    hidden_size: Count | None = None
    model_class: str | None = None
    model_name: str | None = None
    model_type: str | None = None
    name: str | None = None
    version: str | None = None


def single_methods(folder: FolderOptions, path: Path) -> Iterator[tuple[Mapping[str, Any], tuple[str, ...]]]:
    """Yield the configuration of each method and its place in the file.

    A union has several methods, and a bottleneck with an invertible adapter has two.

    Raises :class:`UsageError` for an architecture that is not a name.
    """
    for config, place in _single(folder.config, path, ("config",)):
        kind = config.get("architecture")
        if kind is not None and not isinstance(kind, str):
            raise refuse(f"the architecture {kind!r}", "it is not the name of a method")
        function = config.get("non_linearity")
        if folder.version is None and isinstance(function, str):
            config = {**config, "non_linearity": RENAMED.get(function, function)}
        for method in _divided(config):
            yield method, place


def _divided(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a configuration, divided into the bottlenecks and the invertible adapter if it has one."""
    if config.get("architecture") is not None or not config.get("inv_adapter"):
        yield config
        return
    yield {"architecture": "invertible", **{name: config[name] for name in INVERTIBLE if name in config}}
    if any(config.get(place) for place in PLACES):
        yield {name: value for name, value in config.items() if name not in INVERTIBLE[:2]}


def _single(
    config: Mapping[str, Any], path: Path, place: tuple[str, ...]
) -> Iterator[tuple[Mapping[str, Any], tuple[str, ...]]]:
    if config.get("architecture") != "union":
        yield config, place
        return
    union = UnionOptions.parse(config, path, *place)
    if len(place) > DEEPEST:
        raise refuse("this union", f"it has more than {DEEPEST} unions inside one another")
    for number, member in enumerate(union.configs):
        yield from _single(member, path, (*place, f"configs[{number}]"))


class UnionOptions(ForeignOptions):
    """Several methods in one adapter, with the options of each."""

    configs: list[dict[str, Any]] = Field(min_length=1)


class HeadOptions(ForeignOptions):
    """Options of a prediction head."""

    SILENT: ClassVar[frozenset[str]] = frozenset({"dropout_prob", "shift_labels"})

    head_type: str
    num_labels: Count | None = None
    layers: Count | None = None
    activation_function: str | None = None
    label2id: dict[str, Index] | None = None
    use_pooler: bool | None = False
    bias: bool | None = None
    vocab_size: Count | None = None
    embedding_size: Count | None = None
    layer_norm: bool | None = False
