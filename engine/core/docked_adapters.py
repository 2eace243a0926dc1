"""The docked adapters: a backbone with its ports open, and the adapters that act on the rows of its batches."""

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from adaptdock.engine.core.assembly import HEAD, Assembly, assemble, make_task
from adaptdock.engine.core.batches import collate, collate_row_inputs, length_read, reading
from adaptdock.engine.core.forward import for_head, mask_for, states
from adaptdock.engine.core.open_ports import OpenPorts
from adaptdock.engine.core.rows import Docked, MixedRows, arranged, places
from adaptdock.engine.core.slots import Gathered, Slot, Stack, Stacks, Tensors
from adaptdock.errors import MismatchError, UnknownNameError, UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.arguments import checked_number, of_type, refusal
from adaptdock.plugins.contracts import Backbone, Feature, Reading
from adaptdock.plugins.sequences import listed, text

HOST = torch.device("cpu")
KNOWN_ASSEMBLIES = 1000
NAMES = "adapter names", "['ner', 'topic']"
ADAPTER = "an adapter in memory is what read_file() or train() gives (its .adapter); load() takes the path of a file"
CARD = "a card is what read_card() gives"
ROWS = "rows", "those of boarding(['ner'])"
FEATURES = "features of a batch", "those that a task's encode() gives"


@dataclass(frozen=True, eq=False)
class Prepared:
    """An adapter that has been verified and packed for a backbone; it can be docked at once."""

    card: Card
    assembly: Assembly
    parts: tuple[Docked, ...]
    head: Slot
    sha256: str = ""
    """That of the adapter file."""

    @property
    def nbytes(self) -> int:
        """The bytes that its weights take."""
        return sum(part.slot.nbytes for part in self.parts) + self.head.nbytes

    def placed(self) -> "Prepared":
        """Return this adapter with its weights where its ports compute."""
        return self._moved(Slot.placed)

    def pinned(self) -> "Prepared":
        """Return this adapter in memory from which a GPU copies while it computes."""
        return self._moved(Slot.pinned)

    def _moved(self, move: Callable[[Slot], Slot]) -> "Prepared":
        parts = tuple(replace(part, slot=move(part.slot)) for part in self.parts)
        return replace(self, parts=parts, head=move(self.head))


@dataclass(eq=False)
class Resident:
    """A docked adapter, and how many batches use it now."""

    adapter: Prepared
    batches: int = 0
    leaving: bool = False

    @property
    def card(self) -> Card:
        """Its card."""
        return self.adapter.card

    @property
    def assembly(self) -> Assembly:
        """What it consists of."""
        return self.adapter.assembly

    @property
    def head(self) -> Slot:
        """The weights of its head."""
        return self.adapter.head


Row = tuple[Resident, ...]


class DockedAdapters:
    """A backbone with its ports open, and the adapters docked to it.

    Safe for use by many threads: a batch finishes with the adapters it started with, whatever is
    docked or undocked meanwhile.
    """

    def __init__(self, backbone: Backbone) -> None:
        of_type(backbone, Backbone, "a dock is made of a loaded backbone (Dock.open loads one by its name)")
        self.backbone = backbone
        self.ports = OpenPorts(backbone)
        self._residents: dict[str, Resident] = {}
        self._stacks = Stacks()
        self._devices = {port.name: backbone.placement(port) for port in backbone.ports} | {HEAD: backbone.device}
        self._assemblies: dict[str, Assembly] = {}
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        docked = ", ".join(map(repr, self.names)) or "no adapters"
        return f"<{type(self).__name__} on {self.backbone.id!r} ({self.backbone.architecture}) with {docked}>"

    def __len__(self) -> int:
        """Return the number of docked adapters; a dock with none is therefore false, as an empty list is."""
        return len(self._residents)

    def __contains__(self, name: object) -> bool:
        """Tell whether an adapter of that name is docked."""
        return isinstance(name, str) and name in self._residents

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def assembled(self, card: Card) -> Assembly:
        """Return what an adapter consists of that need not be docked."""
        return self._assembly(of_type(card, Card, CARD))

    def reading(self, max_length: int, row: Row = (), room: int = 0) -> Reading:
        """Return how this backbone reads, in windows of at most ``max_length`` tokens.

        They are shorter where the adapters of the row take positions for themselves, or ``room`` is kept for
        what shall be written.
        """
        checked_number(max_length, "the longest window, in tokens,", 1)
        taken = checked_number(room, "the room for new tokens")
        (row,) = _rows([row], bare=True)
        return reading(self.backbone, max_length, taken + sum(resident.assembly.positions for resident in row))

    # --------------------------------------------------------------------------- dock and undock

    def dock(self, adapter: AdapterFile | Prepared, name: str | None = None, replace: bool = False) -> str:
        """Dock an adapter that is in memory, and return its name here.

        ``name`` is the card's unless given. A taken name is refused unless ``replace`` is set: then the new version
        takes over between two batches.

        Raises :class:`MismatchError` for another backbone or for tensors that do not fit, and :class:`UsageError` for a
        taken name.
        """
        if not isinstance(adapter, AdapterFile | Prepared):
            raise UsageError(refusal(adapter, ADAPTER))
        of_type(replace, bool, "replace is True or False")
        name = adapter.card.name if name is None else text(name, "the name of an adapter")
        if "+" in name:
            raise UsageError(f"the name {name!r} contains '+', which divides the adapters of a stack; give another")
        if name in self._residents and not replace:
            raise UsageError(
                f"an adapter named {name!r} is docked already; replace it, unload it, or give another name"
            )
        prepared = adapter if isinstance(adapter, Prepared) else self.prepare(adapter)
        resident = Resident(self._on_device(prepared))
        self.ports.acquire(resident.assembly.sites)
        with self._lock:
            before = self._residents.get(name)
            if before is not None and not replace:  # another thread was faster
                self._free(resident)
                raise UsageError(f"an adapter named {name!r} was docked meanwhile; give another name")
            self._residents[name] = resident
            if before is not None:
                self._leave(before)
        return name

    def prepare(self, adapter: AdapterFile) -> Prepared:
        """Verify an adapter and pack its weights in host memory; nothing is docked yet.

        Raises :class:`MismatchError` as :meth:`dock` does.
        """
        assembly = self._assembled(of_type(adapter, AdapterFile, ADAPTER))
        parts = tuple(
            Docked(
                part.method,
                self._packed(
                    adapter,
                    ("method", part.name, part.method.stack_key),
                    self._computed(part.folded(adapter.tensors, self.backbone)),
                    part.method.grows,
                ),
                part.by_port,
            )
            for part in assembly.parts
        )
        named = {name: adapter.tensors[f"{HEAD}.{name}"] for name in assembly.head.parameters(assembly.width)}
        head = self._packed(adapter, ("head", assembly.head.stack_key), {HEAD: named}, assembly.head.grows)
        return Prepared(adapter.card, assembly, parts, head, adapter.sha256)

    def _packed(self, adapter: AdapterFile, key: Hashable, tensors: Tensors, grows: Mapping[str, int]) -> Slot:
        slot = self._stacks.for_tensors(key, tensors, grows, self._devices).pack(tensors, HOST)
        if slot.is_finite():
            return slot
        broken = next(
            (name for name, tensor in adapter.tensors.items() if not tensor.isfinite().all()), "a scaled weight"
        )
        raise MismatchError(f"the adapter {adapter.card.name!r}: {broken!r} holds something else than finite numbers")

    def _computed(self, tensors: Tensors) -> Tensors:
        """Return weights as the backbone computes, where that takes no more bytes: no batch has to convert them."""
        dtype = self.backbone.dtype
        return {
            place: {name: part.to(dtype) if part.itemsize == dtype.itemsize else part for name, part in named.items()}
            for place, named in tensors.items()
        }

    def _on_device(self, prepared: Prepared) -> Prepared:
        """Copy weights to where they are used, beside what the device computes meanwhile."""
        if self.backbone.device.type != "cuda":
            return prepared.placed()
        beside = torch.cuda.Stream(self.backbone.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(beside):
            moved = prepared.placed()
        beside.synchronize()
        return moved

    def unload(self, name: str) -> None:
        """Undock an adapter; a batch that uses it goes on with it to its end."""
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
        assembly = self._assembly(card)
        assembly.check(adapter.tensors, f"the adapter {card.name!r}")
        return assembly

    def _assembly(self, card: Card) -> Assembly:
        """Put an adapter together; those that differ in their weights alone share the result."""
        key = card.model_dump_json(include={"methods", "on", "task"})
        if key not in self._assemblies:
            if len(self._assemblies) >= KNOWN_ASSEMBLIES:
                self._assemblies.clear()
            task = make_task(card.task.name, card.task.options)
            self._assemblies[key] = assemble(self.backbone, card.methods, task, card.on)
        return self._assemblies[key]

    def _leave(self, resident: Resident) -> None:
        resident.leaving = True
        if resident.batches == 0:
            self._free(resident)

    def _free(self, resident: Resident) -> None:
        self.ports.release(resident.assembly.sites)

    def _resident(self, name: str) -> Resident:
        try:
            return self._residents[text(name, "the name of an adapter")]
        except KeyError:
            raise UnknownNameError("adapter", name, self._residents) from None

    # ---------------------------------------------------------------------------------- batches

    @contextmanager
    def boarding(self, names: Sequence[str | None]) -> Iterator[list[Row]]:
        """Resolve a name per row and keep the ports of those adapters open while the context is.

        A name is an adapter's, ``lower+upper`` for a stack, or None for a bare row. Raises
        :class:`UnknownNameError` with the row.
        """
        listed_names = listed(names, *NAMES)
        with self._lock:
            rows = [self._row(number, name) for number, name in enumerate(listed_names)]
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
            return tuple(self._resident(part) for part in text(name, f"the adapter name of row {number}").split("+"))
        except UnknownNameError as error:
            raise UnknownNameError("adapter", error.name, error.known, f"It is asked for in row {number}.") from None

    def order(self, rows: Sequence[Row]) -> list[int]:
        """Return the order in which rows are best computed: those with adapters of the same kind are neighbours."""
        return arranged([_parts(row) for row in _rows(rows, bare=True)])

    def mixed(self, rows: Sequence[Row]) -> MixedRows:
        """Lay a batch out by port."""
        compiled = self.backbone.model._compiled_call_impl is not None
        made = MixedRows([_parts(row) for row in _rows(rows, bare=True)], self.backbone.dtype, whole=compiled)
        if compiled:
            made.gather()
        return made

    @torch.inference_mode()
    def hidden(self, rows: Sequence[Row], inputs: Mapping[str, Tensor], reads: str = "encoder") -> Tensor:
        """Return the last hidden states (R, T, W) of a batch whose rows have adapters of their own."""
        rows = _rows(rows, bare=True)
        if reads not in ("encoder", "decoder"):
            raise UsageError(refusal(reads, "what is read is the 'encoder' or the 'decoder'"))
        of_type(inputs, Mapping, "the inputs are a mapping from their names to tensors (R, T)")
        order = self.order(rows)
        given = {name: tensor[order] for name, tensor in inputs.items()}
        found = states(self.backbone, self.ports, self.mixed([rows[number] for number in order]), given, reads)
        return found[places(order), -inputs["attention_mask"].shape[1] :]

    @torch.inference_mode()
    def run(self, rows: Sequence[Row], features: Sequence[Feature]) -> list[Tensor]:
        """Run a batch and return each row's logits, from the head of its topmost adapter, on the CPU.

        ``rows`` are those that :meth:`boarding` gives for names.
        """
        rows, features = _checked(rows, features)
        if not rows:
            return []
        order = self.order(rows)
        rows, features = [rows[number] for number in order], [features[number] for number in order]
        answers: dict[int, Tensor] = {}
        for numbers, hidden, inputs in self._halves(rows, features):
            for members in _by_head(rows, numbers):
                chosen = [numbers.index(number) for number in members]
                head = rows[members[0]][-1].assembly.head
                mask = mask_for(head, inputs)[chosen]
                weights = Gathered([rows[number][-1].head for number in members], torch.float32).at(HEAD)
                row_inputs = collate_row_inputs(head, [features[number] for number in members], mask.device)
                given = for_head(self.backbone, head, hidden[chosen], mask, row_inputs)
                answers.update(zip(members, head.apply(weights, given, mask), strict=True))
        heads = [row[-1].assembly.head for row in rows]
        return [
            heads[place].trim(answers[place], length_read(heads[place], features[place])).cpu()
            for place in places(order)
        ]

    def _halves(
        self, rows: Sequence[Row], features: Sequence[Feature]
    ) -> Iterator[tuple[list[int], Tensor, dict[str, Tensor]]]:
        """Yield row numbers with the states that their heads read, and their inputs; the encoder runs once."""
        everyone = list(range(len(rows)))
        inputs = collate(self.backbone, [_encoded(feature) for feature in features])
        encoded = states(self.backbone, self.ports, self.mixed(rows), inputs, "encoder")
        if not self.backbone.encoder_decoder:
            yield everyone, encoded, inputs
            return
        for reads, numbers in _by_input(rows, features).items():
            given = {name: tensor[numbers] for name, tensor in inputs.items()}
            if reads == "encoder":
                yield numbers, encoded[numbers], given
                continue
            mixed = self.mixed([rows[number] for number in numbers])
            answered = [_answered(features[number]) for number in numbers]
            given |= collate(self.backbone, answered)
            yield numbers, states(self.backbone, self.ports, mixed, given, "decoder", encoded[numbers]), given


def _parts(row: Row) -> list[tuple[Docked, ...]]:
    return [resident.adapter.parts for resident in row]


def _rows(rows: Any, bare: bool) -> list[Row]:
    """Return the rows of a batch; raise :class:`UsageError` where they are something else, or bare and may not be."""
    every: list[Row] = listed(rows, *ROWS)
    for row in every:
        if not isinstance(row, tuple) or not (row or bare) or not all(isinstance(part, Resident) for part in row):
            raise UsageError(f"a row is what boarding() gives for the name of an adapter; found {row!r:.60}")
    return every


def _checked(rows: Any, features: Any) -> tuple[list[Row], list[Feature]]:
    """Return the rows and features of a batch; raise :class:`UsageError` where they are something else."""
    rows, features = _rows(rows, bare=False), listed(features, *FEATURES)
    if len(rows) != len(features):
        raise UsageError(f"{len(rows)} rows for {len(features)} features: each row has one")
    wrong = next((feature for feature in features if not isinstance(feature, Feature)), None)
    if wrong is not None:
        raise UsageError(f"a feature is what a task's encode() gives; found {wrong!r:.60}")
    return rows, features


def _encoded(feature: Feature) -> Feature:
    """Return what is read by an encoder, or by a model that is in one piece."""
    return Feature({name: given for name, given in feature.inputs.items() if not name.startswith("decoder_")})


def _answered(feature: Feature) -> Feature:
    """Return what a decoder reads; nothing where it reads what the encoder does."""
    return Feature({name: given for name, given in feature.inputs.items() if name.startswith("decoder_")})


def _by_input(rows: Sequence[Row], features: Sequence[Feature]) -> dict[str, list[int]]:
    """Divide row numbers by what their heads read: the encoder, or the decoder, with an answer given or without."""
    groups: dict[str, list[int]] = {}
    for number, (row, feature) in enumerate(zip(rows, features, strict=True)):
        reads = row[-1].assembly.head.reads
        answers = reads == "decoder" and "decoder_input_ids" in feature.inputs
        groups.setdefault("answer" if answers else reads, []).append(number)
    return groups


def _by_head(rows: Sequence[Row], numbers: Sequence[int]) -> list[list[int]]:
    """Divide row numbers into those whose heads are computed together."""
    groups: dict[Stack, list[int]] = {}
    for number in numbers:
        groups.setdefault(rows[number][-1].head.stack, []).append(number)
    return list(groups.values())
