"""An adapter put together: methods with their sites, the task and its head, on one backbone."""

import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from adaptdock.engine.core.open_ports import Sites
from adaptdock.errors import BackboneError, MismatchError, UsageError
from adaptdock.hub.artefact.card import BaseEntry, PluginEntry
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Combination, Head, Method, Options, Parameter, Ports, Site, Task

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

HEAD, ON = "head", "on"
Validated = TypeVar("Validated", bound=Options)


@dataclass(frozen=True)
class Part:
    """One method of an adapter, and its sites.

    A method of a base adapter has a ``prefix`` in front of its tensors' names. Its ``kept`` weights, if known
    already, are not trained.
    """

    name: str
    method: Method
    sites: tuple[Site, ...]
    prefix: str = ""
    kept: Mapping[str, Tensor] | None = None

    @property
    def frozen(self) -> bool:
        """Whether the weights belong to a base adapter, trained before."""
        return bool(self.prefix)

    def folded(self, tensors: Mapping[str, Tensor], backbone: Backbone) -> dict[str, dict[str, Tensor]]:
        """Return the folded weights of each site, port -> name -> tensor, from tensors named as in an adapter file."""
        folded = {}
        for site in self.sites:
            place = site.port.name
            weights = {name: tensors[f"{self.prefix}{place}.{name}"] for name in self.parameters[place]}
            folded[place] = self.method.fold(site, weights, backbone)
        return folded

    @cached_property
    def parameters(self) -> dict[str, dict[str, Parameter]]:
        """The method's parameters at each site, by port."""
        parameters = {site.port.name: self.method.parameters(site) for site in self.sites}
        if not self.frozen:
            return parameters
        return {
            place: {name: self._kept(f"{self.prefix}{place}.{name}", declared) for name, declared in by_name.items()}
            for place, by_name in parameters.items()
        }

    def _kept(self, name: str, declared: Parameter) -> Parameter:
        start = declared.start
        if self.kept is not None and name in self.kept:
            start = partial(_copy, self.kept[name])
        return Parameter(declared.shape, start, trained=False)

    @cached_property
    def by_port(self) -> dict[str, Site]:
        """The sites by the names of their ports."""
        return {site.port.name: site for site in self.sites}


def _copy(source: Tensor, tensor: Tensor, generator: torch.Generator) -> None:
    tensor.copy_(source)


@dataclass(frozen=True, eq=False)
class Assembly:
    """An adapter without its weights: methods, task and head, on one backbone."""

    parts: tuple[Part, ...]
    task: Task
    head: Head
    width: int

    @cached_property
    def sites(self) -> Sites:
        """Every site of every part."""
        return Sites(tuple(site for part in self.parts for site in part.sites))

    @cached_property
    def positions(self) -> int:
        """The positions that the methods take from each text."""
        return sum(part.method.positions for part in self.parts)

    def declared(self) -> Iterator[tuple[str, str, Parameter]]:
        """Yield (port name, with its prefix, or ``head``; parameter name; declaration) of every tensor."""
        for part in self.parts:
            for place, by_name in part.parameters.items():
                for name, parameter in by_name.items():
                    yield f"{part.prefix}{place}", name, parameter
        for name, parameter in self.head.parameters(self.width).items():
            yield HEAD, name, parameter

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor by its name in the adapter file."""
        return {f"{place}.{name}": parameter.shape for place, name, parameter in self.declared()}

    def count(self, trained: bool = True) -> int:
        """Return the number of trained weights, or of the others."""
        return sum(
            torch.Size(parameter.shape).numel() for _, _, parameter in self.declared() if parameter.trained == trained
        )

    def start(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the tensors of an untrained adapter, float32."""
        tensors = {}
        for place, name, parameter in self.declared():
            tensor = torch.zeros(parameter.shape)
            if parameter.start is not None:
                parameter.start(tensor, generator)
            tensors[f"{place}.{name}"] = tensor
        return tensors

    def check(self, tensors: Mapping[str, Tensor], owner: str) -> None:
        """Raise :class:`MismatchError` unless the tensors are exactly the declared ones, with their shapes."""
        expected = self.shapes()
        missing, surplus = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
        if missing:
            raise MismatchError(f"{owner}: the tensor {missing[0]!r} is missing ({len(missing)} in all)")
        if surplus:
            raise MismatchError(f"{owner}: the tensor {surplus[0]!r} belongs to nothing ({len(surplus)} in all)")
        for name, shape in expected.items():
            if tuple(tensors[name].shape) != shape:
                raise MismatchError(f"{owner}: {name!r} has the shape {tuple(tensors[name].shape)}, not {shape}")
            if not tensors[name].is_floating_point():
                raise MismatchError(f"{owner}: {name!r} does not hold finite numbers of floating point")


def lowest_layer(assembly: Assembly) -> int | None:
    """Return the first layer in which an adapter acts; None for an adapter that acts in no layer."""
    return min((site.port.layer for site in assembly.sites.sites if site.port.kind != "layers"), default=None)


def mixes_layers(assembly: Assembly) -> bool:
    """Return whether the adapter's head reads the states of all layers."""
    return any(site.port.kind == "layers" for site in assembly.sites.sites)


def assemble(backbone: Backbone, methods: Sequence[PluginEntry], task: Task, on: Sequence[BaseEntry] = ()) -> Assembly:
    """Put an adapter together for a backbone; ``on`` are its base adapters, lowest first.

    Raises :class:`UnknownNameError` for an unknown method, :class:`UsageError` for invalid options, and the methods'
    own errors for a backbone that lacks a port.
    """
    beneath = tuple(part for depth, base in enumerate(on) for part in parts_beneath(backbone, depth, base))
    named_methods = [(entry.name, make_method(entry.name, entry.options)) for entry in methods]
    return put_together(backbone, named_methods, task, beneath)


def parts_beneath(
    backbone: Backbone, depth: int, base: BaseEntry, kept: Mapping[str, Tensor] | None = None
) -> list[Part]:
    """Return the methods of a base adapter; ``depth`` counts from the lowest.

    ``kept`` are its weights, by their names in the file of the upper adapter.
    """
    named_methods = [(entry.name, make_method(entry.name, entry.options)) for entry in base.methods]
    ports, prefix = backbone.ports.within(base.reads), f"{ON}.{depth}."
    return [Part(name, method, _sites(method, ports), prefix, kept) for name, method in named_methods]


def put_together(
    backbone: Backbone, methods: Sequence[tuple[str, Method]], task: Task, beneath: Sequence[Part] = ()
) -> Assembly:
    """Put an adapter together from method objects with their names; see :func:`assemble`."""
    check_modality(backbone, task)
    head = task.head()
    ports = backbone.ports.within(head.reads)
    parts = tuple(Part(name, method, _sites(method, ports)) for name, method in methods)
    assembly = Assembly((*beneath, *parts), task, head, backbone.width)
    names = Counter(f"{place}.{name}" for place, name, _ in assembly.declared())
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"two methods of the adapter keep a tensor named {twice!r}; one of them has to act elsewhere")
    if mixes_layers(assembly) and head.over == "vocabulary":
        raise UsageError(
            "the head of a frozen language model reads the last states and no mix of layers: use another method, or a "
            "task with a head of its own"
        )
    if assembly.positions >= backbone.max_length:
        raise UsageError(
            f"the adapter takes {assembly.positions} positions from each text, and the backbone {backbone.id!r} reads "
            f"{backbone.max_length}: nothing is left of it"
        )
    return assembly


def check_modality(backbone: Backbone, task: Task) -> None:
    """Raise :class:`BackboneError` for a task that reads another modality than the backbone."""
    reads, fits = type(task).modality, backbone.modality
    if reads != fits:
        tasks = [plugin.name for plugin, kind in registry.usable("task") if kind.modality == fits]
        raise BackboneError(
            f"the backbone {backbone.id!r} ({backbone.architecture}) reads {fits}, and this task reads {reads}: choose "
            f"another backbone, or a task that reads {fits} ({', '.join(tasks) or 'none is installed'})"
        )


def _sites(method: Method, ports: Ports) -> tuple[Site, ...]:
    """Return the sites of a method; raise :class:`BackboneError` if the backbone takes no embeddings in front."""
    sites = method.sites(ports)
    if "front" in ports.closed and any(site.side == "front" for site in sites):
        raise BackboneError(
            f"the backbone architecture {ports.architecture!r} takes nothing in front of its input embeddings: "
            f"{ports.closed['front']}"
        )
    return sites


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """Return a method with validated options; raise :class:`UsageError` for a combination of several."""
    method = _make("method", name, options)
    if isinstance(method, Combination):
        parts = " and ".join(part for part, _ in method.methods())
        raise UsageError(f"{name!r} is not a method by itself: it stands for {parts}")
    return method  # type: ignore[no-any-return]


def make_methods(name: str, options: Mapping[str, Any]) -> list[tuple[str, Method]]:
    """Return a method with its name, or each method of a combination."""
    method = _make("method", name, options)
    if isinstance(method, Combination):
        return [(part, make_method(part, part_options)) for part, part_options in method.methods()]
    return [(name, method)]


def method_entries(name: str, options: Mapping[str, Any]) -> list[PluginEntry]:
    """Return the card entry of a method, or of each method of a combination."""
    return [entry("method", part, method.options) for part, method in make_methods(name, options)]


def checked_options(kind: registry.Kind, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options, validated by the plugin, as JSON values."""
    explicit: dict[str, Any] = _make(kind, name, options).options.model_dump(mode="json", exclude_unset=True)
    return explicit


def make_task(name: str, options: Mapping[str, Any]) -> Task:
    """Return a task with validated options."""
    return _make("task", name, options)  # type: ignore[no-any-return]


def _make(kind: registry.Kind, name: str, options: Mapping[str, Any]) -> Any:
    plugin = registry.load(kind, name)
    return plugin(validated(plugin.Options, options, f"{kind} {name!r}"))


def validated(model: type[Validated], options: Mapping[str, Any], owner: str) -> Validated:
    """Return validated options; raise :class:`UsageError` that lists every wrong option."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        problems = []
        for entry in error.errors():
            name = ".".join(str(part) for part in entry["loc"]) or "options"
            if entry["type"] == "extra_forbidden":
                problems.append(f"{name} is no option of it (it has {', '.join(model.model_fields)})")
            else:
                problems.append(f"{name}: {_problem(entry)}")
        raise UsageError(f"{owner}: {'; '.join(problems)}") from None


def _problem(entry: "ErrorDetails") -> str:
    """Return an error of pydantic in words, with the value; messages of our own name the value themselves."""
    if entry["type"] == "value_error":
        return entry["msg"].removeprefix("Value error, ")
    message = entry["msg"]
    return f"{message[:1].lower()}{message[1:]}, found {reprlib.repr(entry['input'])}"


def entry(kind: registry.Kind, name: str, options: Options) -> PluginEntry:
    """Return the card entry of a plugin: name, options, distribution and version."""
    plugin = registry.find(kind, name)
    return PluginEntry(
        name=name,
        options=options.model_dump(mode="json"),
        distribution=plugin.distribution,
        version=plugin.version,
    )
