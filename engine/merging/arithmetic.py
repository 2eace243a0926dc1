"""Arithmetic on adapters: a weighted sum of low-rank adapters becomes one adapter of the same method."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptdock.engine.core.assembly import HEAD, assemble, entry
from adaptdock.engine.core.docked_adapters import DockedAdapters
from adaptdock.engine.merging.combination import RANDOM, CombineOptions, Combiner, Factors, check_options, combiner
from adaptdock.errors import MismatchError, UsageError
from adaptdock.hub.artefact.card import Card, PluginEntry
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, LowRank, Port, Ports

AVERAGE = "average"


@dataclass(frozen=True)
class Term:
    """One adapter of a sum: its weight, and its update at each port."""

    weight: float
    updates: Mapping[Port, Factors]

    @property
    def rank(self) -> int:
        """The largest rank of the updates."""
        return max(down.shape[0] for _, down in self.updates.values())


def combine(
    backbone: Backbone,
    adapters: Sequence[AdapterFile],
    weights: Sequence[float],
    options: CombineOptions | None = None,
    head: AdapterFile | None = None,
    name: str = "combined",
) -> AdapterFile:
    """Return the weighted sum of the updates of low-rank adapters, as one adapter of their method.

    The head comes from ``head``, or is the mean of the adapters' heads, in proportion to the absolute weights.

    Raises :class:`UsageError` for adapters, weights or options that do not go together, and
    :class:`MismatchError` for adapters of different backbones.
    """
    options = options or CombineOptions()
    check(adapters, weights, options, head)
    dock, lead, kind = DockedAdapters(backbone), head or adapters[0], adapters[0].card.methods[0].name
    terms = [_term(dock, adapter, weight) for adapter, weight in zip(adapters, weights, strict=True)]
    leading = dock.prepare(lead).assembly
    ports = backbone.ports.within(leading.head.reads)
    rank = _rank(terms, options)
    method = _spanning(kind, _union(terms, ports), ports, rank)
    methods = [entry("method", kind, method.options)]
    tensors = {**_sums(terms, method, ports, combiner(options, rank)), **_head(adapters, weights, head)}
    assemble(backbone, methods, leading.task).check(tensors, f"the adapter {name!r}")
    return AdapterFile(_card(name, adapters, weights, options, head, methods), _stored(tensors, options))


# --------------------------------------------------------------------------------------- checks


def check(
    adapters: Sequence[AdapterFile], weights: Sequence[float], options: CombineOptions, head: AdapterFile | None
) -> None:
    """Raise :class:`UsageError` or :class:`MismatchError` for problems that show without the backbone."""
    if not adapters or len(weights) != len(adapters):
        raise UsageError(f"there are {len(weights)} weights for {len(adapters)} adapters: give one for each")
    wrong = [weight for weight in weights if not math.isfinite(weight) or weight == 0]
    if wrong:
        raise UsageError(
            f"a weight is a number other than 0, found {wrong[0]}: leave out adapters that shall not count"
        )
    check_options(options)
    cards = [adapter.card for adapter in adapters]
    for number, card in enumerate(cards, 1):
        _check_method(_called(number, card), card, cards[0])
        _check_backbone(_called(number, card), card, cards[0])
    if head is not None:
        _check_backbone(f"the adapter with the head ({head.card.name!r})", head.card, cards[0])
        return
    for number, card in enumerate(cards, 1):
        _check_task(_called(number, card), card, cards[0])


def _check_method(called: str, card: Card, first: Card) -> None:
    names = [method.name for method in card.methods]
    if card.on:
        raise UsageError(
            f"{called} has the base adapter {card.on[-1].name!r}: its updates do not act on the bare backbone"
        )
    if len(names) != 1 or not issubclass(registry.load("method", names[0]), LowRank):
        fitting = [plugin.name for plugin, method in registry.usable("method") if issubclass(method, LowRank)]
        raise UsageError(
            f"{called} is {' with '.join(names)}, whose updates cannot be added; {', '.join(fitting)} can be added"
        )
    if card.methods[0].options.get("bias"):
        raise UsageError(f"{called} changes biases too, which low-rank updates cannot hold")
    if names[0] != first.methods[0].name:
        raise UsageError(
            f"{called} is {names[0]}, {_called(1, first)} is {first.methods[0].name}: combine like with like"
        )


def _check_backbone(called: str, card: Card, first: Card) -> None:
    backbone, first_backbone = card.backbone, first.backbone
    if backbone.fingerprint != first_backbone.fingerprint:
        raise MismatchError(
            f"{called} is of the backbone {backbone.id!r} ({backbone.fingerprint[:20]}...), {_called(1, first)} of "
            f"{first_backbone.id!r} ({first_backbone.fingerprint[:20]}...): their weights differ. "
            f"Combine adapters of one backbone."
        )


def _check_task(called: str, card: Card, first: Card) -> None:
    way_out = "so their heads have no mean; take that of one of them with --head FILE"
    task, first_task = card.task, first.task
    if task.name != first_task.name:
        raise UsageError(f"{called} is for {task.name}, {_called(1, first)} for {first_task.name}, {way_out}")
    for option in dict.fromkeys((*task.options, *first_task.options)):
        value, first_value = task.options.get(option), first_task.options.get(option)
        if value != first_value:
            raise UsageError(
                f"{called} has {option} {value}, {_called(1, first)} has {option} {first_value}, {way_out}"
            )


def _called(number: int, card: Card) -> str:
    return f"adapter {number} ({card.name!r})"


# ---------------------------------------------------------------------------------------- terms


def _term(dock: DockedAdapters, adapter: AdapterFile, weight: float) -> Term:
    (part,) = dock.prepare(adapter).assembly.parts
    method, folded = part.method, part.folded(adapter.tensors, dock.backbone)
    assert isinstance(method, LowRank)
    updates = {}
    for site in part.sites:
        up, down = method.factors(folded[site.port.name])
        updates[site.port] = (up.float(), down.float())
    return Term(weight, updates)


def _union(terms: Sequence[Term], ports: Ports) -> list[Port]:
    """Return every port of any adapter; raise :class:`UsageError` for a port that the head never reads."""
    acting = dict.fromkeys(port for term in terms for port in term.updates)
    behind = [port.name for port in acting if port not in ports]
    if behind:
        raise UsageError(f"the head reads the encoder alone, behind which {behind[0]} lies: take another --head")
    return list(acting)


def _rank(terms: Sequence[Term], options: CombineOptions) -> int:
    if options.how == "linear":
        return sum(term.rank for term in terms)
    most = max(min(port.inputs, port.outputs) for term in terms for port in term.updates)
    if options.rank is not None and options.rank > most:
        raise UsageError(f"--rank {options.rank}: no linear map that these adapters act at has a rank above {most}")
    return options.rank or max(term.rank for term in terms)


def _spanning(kind: str, union: Sequence[Port], ports: Ports, rank: int) -> LowRank:
    """Return a method that acts at exactly these ports; raise :class:`UsageError` if no options do."""
    roles = list(dict.fromkeys(port.role for port in union))
    layers = _layers({port.layer for port in union}, {port.layer for port in ports if port.kind == "linear"})
    method: LowRank = registry.load("method", kind).unscaled(rank, roles, layers)
    surplus = [site.port.name for site in method.sites(ports) if site.port not in union]
    if surplus:
        raise UsageError(
            f"the adapters act at {' and '.join(roles)}, but not in the same layers: an adapter for both would act at "
            f"{surplus[0]} too, where none of them does. Combine adapters whose roles are in the same layers."
        )
    return method


def _layers(numbers: set[int], available: set[int]) -> str | None:
    """Return layer numbers in the form of the methods' option: ``0-2,5``, or None for all layers."""
    if numbers == available:
        return None
    starts = [number for number in sorted(numbers) if number - 1 not in numbers]
    ends = [number for number in sorted(numbers) if number + 1 not in numbers]
    return ",".join(str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True))


# --------------------------------------------------------------------------------------- result


def _sums(terms: Sequence[Term], method: LowRank, ports: Ports, combined: Combiner) -> dict[str, Tensor]:
    """Return the tensors of the method; adapters that do not act at a port are left out of its sum."""
    tensors: dict[str, Tensor] = {}
    for port in (site.port for site in method.sites(ports)):
        acting = [term for term in terms if port in term.updates]
        factors = combined([term.weight for term in acting], [term.updates[port] for term in acting])
        tensors |= {f"{port.name}.{name}": tensor for name, tensor in method.from_factors(*factors).items()}
    return tensors


def _head(adapters: Sequence[AdapterFile], weights: Sequence[float], head: AdapterFile | None) -> dict[str, Tensor]:
    heads, shares = ([head], [1.0]) if head is not None else (adapters, [abs(weight) for weight in weights])
    return {
        name: sum(
            (share / sum(shares) * each.tensors[name].float() for each, share in zip(heads, shares, strict=True)),
            torch.zeros(()),
        )
        for name in heads[0].tensors
        if name.startswith(f"{HEAD}.")
    }


def _stored(tensors: Mapping[str, Tensor], options: CombineOptions) -> dict[str, Tensor]:
    stored = {name: tensor.to(getattr(torch, options.store)) for name, tensor in tensors.items()}
    for name, tensor in stored.items():
        if not tensor.isfinite().all():
            raise UsageError(f"{name} becomes too large for {options.store}: use smaller weights, or --store float32")
    return stored


def _card(
    name: str,
    adapters: Sequence[AdapterFile],
    weights: Sequence[float],
    options: CombineOptions,
    head: AdapterFile | None,
    methods: list[PluginEntry],
) -> Card:
    cards = [adapter.card for adapter in adapters]
    lead, sources = (cards[0], cards) if head is None else (head.card, [*cards, head.card])
    training = {
        "combined": [card.name for card in cards],
        "weights": list(weights),
        "how": options.how,
        **({"density": options.density} if options.prunes else {}),
        **({"seed": options.seed or 0} if options.how in RANDOM else {}),
        "head": AVERAGE if head is None else head.card.name,
        "precision": _agreed(card.training.get("precision") for card in sources),
    }
    return Card(
        name=name,
        task=lead.task,
        methods=methods,
        backbone=lead.backbone,
        preprocessing=lead.preprocessing,
        training={key: value for key, value in training.items() if value is not None},
        licence=_agreed(card.licence for card in sources) or "",
        languages=_agreed(card.languages for card in sources) or [],
    )


def _agreed(values: Iterable[Any]) -> Any:
    """Return the common value of all values, or None if they differ."""
    agreed, *remaining = values
    return agreed if all(value == agreed for value in remaining) else None
