"""The dock: a backbone with its ports open, to which adapters are docked while it works."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from adaptdock.engine.assembly import HEAD, Assembly, Part, assemble, make_task, validated
from adaptdock.engine.batches import collate, length
from adaptdock.engine.ports import OpenPorts
from adaptdock.engine.prediction import predict
from adaptdock.engine.rows import Docked, MixedRows
from adaptdock.engine.slots import Index, Stack
from adaptdock.hub.card import Card
from adaptdock.hub.file import AdapterFile, read_file
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, BackboneFamily, Feature, LoadOptions, Reading, Site
from adaptdock.plugins.errors import BackboneError, MismatchError, UnknownNameError, UsageError


@dataclass
class Resident:
    """A docked adapter: its card, what it consists of, its slots, and how many batches use it now."""

    card: Card
    assembly: Assembly
    parts: tuple[Docked, ...]
    head_stack: Stack
    head_slot: int
    batches: int = 0
    leaving: bool = False

    @property
    def sites(self) -> list[Site]:
        """Every site of every part."""
        return [site for part in self.parts for site in part.sites.values()]


Row = tuple[Resident, ...]


@dataclass
class _Stacks:
    """All stacks of a dock, by what their adapters have in common."""

    backbone: Backbone
    by_key: dict[Any, Stack] = field(default_factory=dict)

    def of_method(self, name: str, key: Any) -> Stack:
        devices = {port.name: self.backbone.placement(port) for port in self.backbone.ports}
        return self.by_key.setdefault(("method", name, key), Stack(self.backbone.dtype, devices))

    def of_head(self, key: Any) -> Stack:
        return self.by_key.setdefault(("head", key), Stack(torch.float32, {HEAD: self.backbone.device}))


class Dock:
    """A backbone with its ports open.

    Safe for use by many threads: a batch finishes with the adapters it started with, whatever is
    docked or undocked meanwhile.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.ports = OpenPorts(backbone)
        self._residents: dict[str, Resident] = {}
        self._stacks = _Stacks(backbone)
        self._lock = threading.RLock()

    @classmethod
    def open(cls, backbone: str = registry.DEFAULT_BACKBONE, **options: Any) -> Self:
        """Load a backbone by alias, path or hub id and open its ports.

        ``options`` are those of :class:`LoadOptions`: ``device``, ``dtype``, ``quantize``, ...
        """
        chosen = validated(LoadOptions, options, "loading")
        assert isinstance(chosen, LoadOptions)
        return cls(load_backbone(backbone, chosen))

    @property
    def names(self) -> list[str]:
        """The names of the docked adapters."""
        return sorted(self._residents)

    def card(self, name: str) -> Card:
        """Return the card of a docked adapter."""
        return self._resident(name).card

    def assembly(self, name: str) -> Assembly:
        """Return what a docked adapter consists of."""
        return self._resident(name).assembly

    def reading(self, max_length: int) -> Reading:
        """Return how this backbone reads, in windows of at most ``max_length`` tokens."""
        mine = self.backbone
        return Reading(mine.tokenizer, min(max_length, mine.max_length), mine.causal)

    # --------------------------------------------------------------------------- dock and undock

    def load(self, path: str | Path, name: str | None = None, replace: bool = False) -> str:
        """Dock the adapter in a file and return its name.

        ``name`` is the card's unless given. A name that is taken is refused unless ``replace`` is
        set: then the new version takes over between two batches.

        Raises :class:`FileError` for a damaged file, :class:`MismatchError` for another backbone
        or for tensors that do not fit, :class:`UsageError` for a taken name.
        """
        return self.dock(read_file(path), name, replace)

    def dock(self, adapter: AdapterFile, name: str | None = None, replace: bool = False) -> str:
        """Dock an adapter that is in memory; see :meth:`load`."""
        name = name or adapter.card.name
        if "+" in name:
            raise UsageError(f"the name {name!r} contains '+', which divides the adapters of a stack; give another")
        if name in self._residents and not replace:
            raise UsageError(
                f"an adapter named {name!r} is docked already; replace it, unload it, or give another name"
            )
        resident = self._take_slots(adapter, self._assembled(adapter))
        with self._lock:
            before = self._residents.get(name)
            if before is not None and not replace:  # another thread was faster
                self._free(resident)
                raise UsageError(f"an adapter named {name!r} was docked meanwhile; give another name")
            self._residents[name] = resident
            if before is not None:
                self._leave(before)
        return name

    def unload(self, name: str) -> None:
        """Undock an adapter; its slots are free when the last batch that uses it is done."""
        with self._lock:
            resident = self._resident(name)
            del self._residents[name]
            self._leave(resident)

    def close(self) -> None:
        """Undock every adapter: the backbone is as it was before the dock was opened."""
        for name in self.names:
            self.unload(name)

    def _assembled(self, adapter: AdapterFile) -> Assembly:
        card, mine = adapter.card, self.backbone
        if card.backbone.fingerprint != mine.fingerprint:
            raise MismatchError(
                f"the adapter {card.name!r} was trained on the backbone {card.backbone.id!r} "
                f"({card.backbone.fingerprint[:20]}...), this is {mine.id!r} ({mine.fingerprint[:20]}...): their "
                f"weights differ. Open the dock with the backbone it was trained on."
            )
        vocabulary = card.preprocessing.vocabulary
        if vocabulary and mine.vocabulary and vocabulary != mine.vocabulary:
            raise MismatchError(
                f"the adapter {card.name!r} was trained with another tokenizer ({card.preprocessing.tokenizer}) than "
                f"that of {mine.id!r}: the same words would get other numbers"
            )
        assembly = assemble(mine, card.methods, make_task(card.task.name, card.task.options))
        assembly.check(adapter.tensors, f"the adapter {card.name!r}")
        return assembly

    def _take_slots(self, adapter: AdapterFile, assembly: Assembly) -> Resident:
        parts: list[Docked] = []
        heads = self._stacks.of_head(assembly.head.stack_key)
        try:
            for entry, part in zip(adapter.card.methods, assembly.parts, strict=True):
                stack = self._stacks.of_method(entry.name, part.method.stack_key)
                sites = {site.port.name: site for site in part.sites}
                parts.append(Docked(part.method, stack, stack.add(_of_part(adapter, part)), sites))
            named = {name: adapter.tensors[f"{HEAD}.{name}"] for name in assembly.head.parameters(assembly.width)}
            resident = Resident(adapter.card, assembly, tuple(parts), heads, heads.add({HEAD: named}))
        except BaseException:
            for docked in parts:
                docked.stack.remove(docked.slot)
            raise
        self.ports.acquire(resident.sites)
        return resident

    def _leave(self, resident: Resident) -> None:
        resident.leaving = True
        if resident.batches == 0:
            self._free(resident)

    def _free(self, resident: Resident) -> None:
        self.ports.release(resident.sites)
        for part in resident.parts:
            part.stack.remove(part.slot)
        resident.head_stack.remove(resident.head_slot)

    def _resident(self, name: str) -> Resident:
        try:
            return self._residents[name]
        except KeyError:
            raise UnknownNameError("adapter", name, self._residents) from None

    # ---------------------------------------------------------------------------------- batches

    @contextmanager
    def boarding(self, names: Sequence[str | None]) -> Iterator[list[Row]]:
        """Resolve a name per row and keep those adapters in their slots while the context is open.

        A name is an adapter's, ``lower+upper`` for a stack, or None for a bare row. Raises
        :class:`UnknownNameError` with the row.
        """
        with self._lock:
            rows = [self._row(number, name) for number, name in enumerate(names)]
            aboard = {id(resident): resident for row in rows for resident in row}
            for resident in aboard.values():
                resident.batches += 1
        try:
            yield rows
        finally:
            with self._lock:
                for resident in aboard.values():
                    resident.batches -= 1
                    if resident.leaving and resident.batches == 0:
                        self._free(resident)

    def _row(self, number: int, name: str | None) -> Row:
        if name is None:
            return ()
        try:
            return tuple(self._resident(part) for part in name.split("+"))
        except UnknownNameError as error:
            raise UnknownNameError("adapter", error.name, error.known, f"It is asked for in row {number}.") from None

    @torch.inference_mode()
    def hidden(self, rows: Sequence[Row], inputs: Mapping[str, Tensor], reads: str = "encoder") -> Tensor:
        """Return the last hidden states (R, T, W) of a batch whose rows have adapters of their own."""
        mixed = MixedRows([[resident.parts for resident in row] for row in rows])
        lengths = {tensor.shape[1] for tensor in inputs.values() if tensor.ndim > 1}
        with self.ports.routed(mixed, lengths):
            return self.backbone.forward(inputs, reads)

    @torch.inference_mode()
    def logits(self, rows: Sequence[Row], features: Sequence[Feature]) -> list[Tensor]:
        """Run a batch and return each row's logits, from the head of its topmost adapter, on the CPU."""
        answers: dict[int, Tensor] = {}
        for reads in sorted({row[-1].assembly.head.reads for row in rows}):
            numbers = [number for number, row in enumerate(rows) if row[-1].assembly.head.reads == reads]
            inputs = collate(self.backbone, [features[number] for number in numbers])
            hidden = self.hidden([rows[number] for number in numbers], inputs, reads).float().to(self.backbone.device)
            mask = inputs["attention_mask"]
            for stack, members in _by_head(rows, numbers).items():
                places = torch.tensor([numbers.index(number) for number in members], device=hidden.device)
                index = Index([rows[number][-1].head_slot for number in members])
                head = rows[members[0]][-1].assembly.head
                found = head.apply(stack.gather(HEAD, index), hidden[places], mask[places]).cpu()
                answers.update(zip(members, found, strict=True))
        return [
            row[-1].assembly.head.trim(answers[number], length(features[number])) for number, row in enumerate(rows)
        ]

    def predict(self, name: str | Sequence[str], inputs: Sequence[Any], batch_size: int = 32) -> list[dict[str, Any]]:
        """Return a prediction for each input: a text, or whatever the adapter's task reads.

        ``name`` is one adapter's, or one for each input; ``lower+upper`` names a stack, whose upper
        adapter answers. Inputs of different adapters share batches.
        """
        names = [name] * len(inputs) if isinstance(name, str) else list(name)
        if not all(isinstance(given, str) for given in names):
            raise UsageError("each input needs the name of an adapter: a bare row has no head that could answer")
        if len(names) != len(inputs):
            raise UsageError(f"{len(names)} adapter names for {len(inputs)} inputs: give one name, or one for each")
        return predict(self, names, inputs, batch_size)


def _of_part(adapter: AdapterFile, part: Part) -> dict[str, dict[str, Tensor]]:
    """Return what a stack holds of one method of an adapter: port -> name -> tensor."""
    return {
        site.port.name: {
            **{name: adapter.tensors[f"{site.port.name}.{name}"] for name in part.method.parameters(site)},
            **part.method.constants(site),
        }
        for site in part.sites
    }


def _by_head(rows: Sequence[Row], numbers: Sequence[int]) -> dict[Stack, list[int]]:
    groups: dict[Stack, list[int]] = {}
    for number in numbers:
        groups.setdefault(rows[number][-1].head_stack, []).append(number)
    return groups


def load_backbone(name: str, options: LoadOptions) -> Backbone:
    """Load a backbone with the family that accepts it; the general one is asked last.

    Raises :class:`BackboneError` where no family does, or loading fails.
    """
    families: list[type[BackboneFamily]] = [family for _, family in registry.usable("backbone")]
    for family in sorted(families, key=lambda family: family.general):
        if family().accepts(name):
            return family().load(name, options)
    raise BackboneError(f"no backbone family accepts {name!r}; there are {registry.names('backbone')}")
