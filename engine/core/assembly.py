"""An adapter put together: methods with their sites, the task and its head, on one backbone."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from adaptdock.engine.core.open_ports import Sites
from adaptdock.errors import BackboneError, MismatchError, UsageError
from adaptdock.hub.artefact.card import BaseEntry, PluginEntry
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Combination, Head, Method, Options, Parameter, Ports, Site, Task

HEAD, ON = "head", "on"
Validated = TypeVar("Validated", bound=Options)


@dataclass(frozen=True)
class Part:
    """One method of an adapter, and where it acts.

    One that belongs to an adapter beneath has a ``prefix`` in front of its tensors' names, and ``kept`` weights,
    which are not trained, where they are known already.
    """

    name: str
    method: Method
    sites: tuple[Site, ...]
    prefix: str = ""
    kept: Mapping[str, Tensor] | None = None

    @property
    def frozen(self) -> bool:
        """Whether its weights are those of an adapter that has been trained before."""
        return bool(self.prefix)

    def folded(self, tensors: Mapping[str, Tensor], backbone: Backbone) -> dict[str, dict[str, Tensor]]:
        """Return what acts at each site, port -> name -> tensor, from tensors named as in an adapter file."""
        found = {}
        for site in self.sites:
            place = site.port.name
            own = {name: tensors[f"{self.prefix}{place}.{name}"] for name in self.parameters[place]}
            found[place] = self.method.fold(site, own, backbone)
        return found

    @cached_property
    def parameters(self) -> dict[str, dict[str, Parameter]]:
        """What the method keeps at each site, by port."""
        found = {site.port.name: self.method.parameters(site) for site in self.sites}
        if not self.frozen:
            return found
        return {
            place: {name: self._kept(f"{self.prefix}{place}.{name}", declared) for name, declared in named.items()}
            for place, named in found.items()
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
    """All that an adapter consists of, except its weights."""

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
            for place, named in part.parameters.items():
                for name, parameter in named.items():
                    yield f"{part.prefix}{place}", name, parameter
        for name, parameter in self.head.parameters(self.width).items():
            yield HEAD, name, parameter

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor by its name in the adapter file."""
        return {f"{place}.{name}": parameter.shape for place, name, parameter in self.declared()}

    def count(self, trained: bool = True) -> int:
        """Return the number of weights that are trained, or of those that are not."""
        return sum(torch.Size(found.shape).numel() for _, _, found in self.declared() if found.trained == trained)

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
        """Raise :class:`MismatchError` unless exactly the declared tensors are there, with their shapes."""
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
                raise MismatchError(f"{owner}: {name!r} holds something else than finite numbers of floating point")


def lowest_layer(assembly: Assembly) -> int | None:
    """Return the first layer in which an adapter acts; None if none acts anywhere."""
    return min((site.port.layer for site in assembly.sites.sites if site.port.kind != "layers"), default=None)


def mixes_layers(assembly: Assembly) -> bool:
    """Tell whether its head reads the states of all layers."""
    return any(site.port.kind == "layers" for site in assembly.sites.sites)


def assemble(backbone: Backbone, methods: Sequence[PluginEntry], task: Task, on: Sequence[BaseEntry] = ()) -> Assembly:
    """Put an adapter together for a backbone; ``on`` are the adapters beneath, lowest first.

    Raises :class:`UnknownNameError` for a method there is not, :class:`UsageError` for options that
    are not valid, and what the methods raise where the backbone lacks a port.
    """
    beneath = tuple(part for depth, base in enumerate(on) for part in parts_beneath(backbone, depth, base))
    made = [(entry.name, make_method(entry.name, entry.options)) for entry in methods]
    return put_together(backbone, made, task, beneath)


def parts_beneath(
    backbone: Backbone, depth: int, base: BaseEntry, kept: Mapping[str, Tensor] | None = None
) -> list[Part]:
    """Return the methods of an adapter that is the base of another; ``depth`` counts from the lowest.

    ``kept`` are its weights by the names that they have in the file of the upper one.
    """
    made = [(entry.name, make_method(entry.name, entry.options)) for entry in base.methods]
    ports, prefix = backbone.ports.within(base.reads), f"{ON}.{depth}."
    return [Part(name, method, _sites(method, ports), prefix, kept) for name, method in made]


def put_together(
    backbone: Backbone, methods: Sequence[tuple[str, Method]], task: Task, beneath: Sequence[Part] = ()
) -> Assembly:
    """Put an adapter together of methods that have been made, each with its name; see :func:`assemble`."""
    head = task.head()
    ports = backbone.ports.within(head.reads)
    parts = tuple(Part(name, method, _sites(method, ports)) for name, method in methods)
    made = Assembly((*beneath, *parts), task, head, backbone.width)
    names = Counter(f"{place}.{name}" for place, name, _ in made.declared())
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"two methods of the adapter keep a tensor named {twice!r}; one of them has to act elsewhere")
    if mixes_layers(made) and head.over == "vocabulary":
        raise UsageError(
            "the map of a frozen language model reads the last states and no mix of layers: take another method, or a "
            "task with a head of its own"
        )
    if made.positions >= backbone.max_length:
        raise UsageError(
            f"the adapter takes {made.positions} positions from each text, and the backbone {backbone.id!r} reads "
            f"{backbone.max_length}: nothing is left of it"
        )
    return made


def _sites(method: Method, ports: Ports) -> tuple[Site, ...]:
    """Return where a method acts; raise :class:`BackboneError` where nothing can stand in front of the embeddings."""
    sites = method.sites(ports)
    if "front" in ports.closed and any(site.side == "front" for site in sites):
        raise BackboneError(
            f"the backbone architecture {ports.architecture!r} takes nothing in front of its input embeddings: "
            f"{ports.closed['front']}"
        )
    return sites


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """Return a method with validated options; raise :class:`UsageError` for a combination of several."""
    made = _make("method", name, options)
    if isinstance(made, Combination):
        parts = " and ".join(part for part, _ in made.methods())
        raise UsageError(f"{name!r} is no method by itself: it stands for {parts}")
    return made  # type: ignore[no-any-return]


def make_methods(name: str, options: Mapping[str, Any]) -> list[tuple[str, Method]]:
    """Return a method with its name, or each method that a combination is made of."""
    made = _make("method", name, options)
    if isinstance(made, Combination):
        return [(part, make_method(part, own)) for part, own in made.methods()]
    return [(name, made)]


def method_entries(name: str, options: Mapping[str, Any]) -> list[PluginEntry]:
    """Return what a card says of a method, or of each method that a combination is made of."""
    return [entry("method", part, method.options) for part, method in make_methods(name, options)]


def checked_options(kind: registry.Kind, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are given as the plugin understands them, as JSON."""
    found: dict[str, Any] = _make(kind, name, options).options.model_dump(mode="json", exclude_unset=True)
    return found


def make_task(name: str, options: Mapping[str, Any]) -> Task:
    """Return a task with validated options."""
    return _make("task", name, options)  # type: ignore[no-any-return]


def _make(kind: registry.Kind, name: str, options: Mapping[str, Any]) -> Any:
    plugin = registry.load(kind, name)
    return plugin(validated(plugin.Options, options, f"{kind} {name!r}"))


def validated(model: type[Validated], options: Mapping[str, Any], owner: str) -> Validated:
    """Return the options as the model wants them; raise :class:`UsageError` naming every wrong one."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        problems = []
        for entry in error.errors():
            name = ".".join(str(part) for part in entry["loc"]) or "options"
            if entry["type"] == "extra_forbidden":
                problems.append(f"{name} is no option of it (it has {', '.join(model.model_fields)})")
            else:
                problems.append(f"{name}: {entry['msg'].lower()}, found {entry['input']!r}")
        raise UsageError(f"{owner}: {'; '.join(problems)}") from None


def entry(kind: registry.Kind, name: str, options: Options) -> PluginEntry:
    """Return what a card says of a plugin."""
    plugin = registry.find(kind, name)
    return PluginEntry(
        name=name,
        options=options.model_dump(mode="json"),
        distribution=plugin.distribution,
        version=plugin.version,
    )
