"""Adapters in the format of AdapterHub (adapters 1.3): what a method reads and writes, and where it acts."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from adaptdock.plugins.backbones import Backbone
from adaptdock.plugins.ports import Port
from adaptdock.plugins.toolkit.interchange.options import ForeignOptions, Index, Rate
from adaptdock.plugins.toolkit.interchange.tensors import ForeignTensors, ModuleTensors, Named, contradiction, refuse

GATED = (
    "the gates are means over the positions of a text. In the library they are means over all positions of a batch, so "
    "texts with padding have other logits there"
)
"""The note for adapters with gates that are computed from a text."""


class MethodOptions(ForeignOptions):
    """Options common to several methods."""

    SILENT: ClassVar[frozenset[str]] = frozenset({"architecture", "init_weights", "init_weights_seed", "dtype"})
    ACTIVE: ClassVar[Mapping[str, str]] = {}
    """Options that change the computation in an unsupported way, with the reason."""

    leave_out: list[Index] | None = None
    dropout: Rate = 0.0
    use_gating: bool | None = False

    @property
    def unknown(self) -> list[str]:
        """Names of options that are neither read, nor refused, nor known to change nothing."""
        return [name for name in super().unknown if name not in self.ACTIVE]

    def check_carried(self, what: str) -> None:
        """Raise :class:`UsageError` for an option that changes the computation in an unsupported way."""
        for option, why in self.ACTIVE.items():
            if self.value(option):
                raise refuse(f"{what} with {option}", why)


class AdapterHubModel(Protocol):
    """The backbone's architecture as AdapterHub names its parts."""

    @property
    def feed_forward(self) -> tuple[str, str]:
        """The roles of the maps that the library calls intermediate and output."""

    @property
    def feeds_attention_input(self) -> bool:
        """Whether a bottleneck after the attention reads the attention's input instead of its output."""

    @property
    def masks_prefixes(self) -> bool:
        """Whether causal attention masks a prefix otherwise under sdpa than under eager attention."""

    @property
    def shifts_prefixes(self) -> bool:
        """Whether a mask of padding adds to the scores of a prefix under sdpa."""

    def layer(self, port: Port) -> int:
        """Return the number of a port's layer: decoder layers follow the encoder's."""

    def block(self, port: Port) -> str:
        """Return the path of the module with the bottleneck of the block that ends at a port."""

    def block_end(self, module: str) -> Port:
        """Return the last port of the block with a bottleneck at this path; raise :class:`UsageError` if unknown."""

    def prefix_place(self, port: Port) -> str:
        """Return the name of the place of a prefix."""

    def prefix_ports(self, place: str) -> list[Port]:
        """Return the attention ports of a place, by layer; raise :class:`UsageError` for an unknown place."""


AttentionMode = Literal["sdpa", "sdpa-padded", "eager"]
"""Attention of the library: sdpa (its default) in a batch without padding, in one with padding, and eager."""
Foreign = TypeVar("Foreign", bound=MethodOptions, covariant=True)


@dataclass(frozen=True)
class AdapterHubSource(Generic[Foreign]):
    """An adapter of AdapterHub that a method reads.

    ``name`` is the adapter's name inside the tensors, ``version`` the library that saved it. ``sole`` tells whether
    the method is the only one of the adapter.
    """

    options: Foreign
    tensors: ForeignTensors
    backbone: Backbone
    model: AdapterHubModel
    name: str | None = None
    version: str | None = None
    sole: bool = True
    head_type: str | None = None
    """The type of the head in the folder, if any."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user."""
    attention: AttentionMode = "sdpa"
    """The attention of the library that the result has to equal."""


@dataclass(frozen=True)
class AdapterHubTarget:
    """The adapter for a method to export: its parameters by port name, and its ``name`` inside the tensors."""

    backbone: Backbone
    model: AdapterHubModel
    tensors: Mapping[str, Named]
    name: str

    @property
    def ports(self) -> list[Port]:
        """The ports of the method."""
        by_name = {port.name: port for port in self.backbone.ports}
        return [by_name[name] for name in self.tensors]


@dataclass(frozen=True)
class AdapterHubMethod:
    """A method in the format of AdapterHub: configuration, and tensors by the paths in the backbone."""

    config: dict[str, Any]
    tensors: Named


# ------------------------------------------------------------------------------------------- places


def owned(source: AdapterHubSource[MethodOptions], kind: str) -> dict[str, ModuleTensors]:
    """Return the tensors named ``<module>.<kind>.<name>.*``, by module."""
    tensors, name = source.tensors, source.name
    pattern = re.compile(rf"(?P<module>.+?)\.{kind}\.(?P<adapter>[^.]+)\.(?P<part>.+)")
    for tensor in tensors.unused:
        match = pattern.fullmatch(tensor)
        if match is not None and name is not None and match["adapter"] != name:
            raise contradiction(tensors.path, "name", repr(name), tensor, f"is of an adapter {match['adapter']!r}")
    return tensors.modules(pattern)


def whole_model(source: AdapterHubSource[MethodOptions], kind: str) -> ModuleTensors | None:
    """Return the tensors named ``<kind>.<name>.*`` below the whole model, or None if there are none."""
    tensors, name = source.tensors, source.name
    modules = tensors.modules(re.compile(rf"(?P<module>(?:[^.]+\.)?{kind}\.[^.]+)\.(?P<part>.+)"))
    for module, group in modules.items():
        if name is not None and module.rpartition(".")[2] != name:
            raise contradiction(
                tensors.path, "name", repr(name), group.name(group.parts[0]), f"is of an adapter {module!r}"
            )
    return next(iter(modules.values()), None)


def check_places(
    source: AdapterHubSource[MethodOptions],
    expected: Collection[Port],
    modules: Mapping[Port, str],
    flags: Mapping[str, str],
    optional: Collection[str] = (),
) -> None:
    """Raise :class:`UsageError` if tensors and configuration have different places.

    ``modules`` are the ports of the tensors, with their paths; ``flags`` is the option of each role. Roles that are
    ``optional`` may lack their tensors: only some models of the library have them.
    """
    path, options = source.tensors.path, source.options
    left_out = set(options.leave_out or ())
    for port, module in modules.items():
        layer = source.model.layer(port)
        if layer in left_out:
            raise contradiction(path, "leave_out", sorted(left_out), module, f"is in layer {layer}")
        if port not in expected:
            option = flags.get(port.role)
            if option is None:
                raise refuse(f"the adapter at {module}", f"the library puts none at {port.name}")
            raise contradiction(path, option, getattr(options, option), module, f"acts at {port.name}")
    for port in expected:
        layer = source.model.layer(port)
        if port not in modules and layer not in left_out and port.role not in optional:
            option = flags[port.role]
            raise contradiction(path, option, getattr(options, option), port.module, f"is missing (layer {layer})")


def left_out(target: AdapterHubTarget, ports: Sequence[Port], candidates: Sequence[Port], owner: str) -> list[int]:
    """Return the layers of the candidates without the adapter.

    Raises :class:`UsageError` if a layer has it at some candidates only.
    """
    inside = {target.model.layer(port) for port in ports}
    odd = next((port.name for port in candidates if target.model.layer(port) in inside and port not in ports), None)
    if odd is not None:
        raise refuse(owner, f"in AdapterHub it would act at {odd} too, where it does not")
    return sorted({target.model.layer(port) for port in candidates} - inside)
