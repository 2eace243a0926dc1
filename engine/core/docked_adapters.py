"""The docked adapters: a backbone with its ports open, and the adapters that act on the rows of its batches."""

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from adaptdock.engine.core.assembly import HEAD, Assembly, assemble, make_task
from adaptdock.engine.core.batches import (
    collate,
    collate_row_inputs,
    encoder_inputs,
    length_read,
    reading,
    same_features,
)
from adaptdock.engine.core.forward import for_head, mask_for, routed_lm_head, shared_states, states
from adaptdock.engine.core.gathered_cache import GatheredCache
from adaptdock.engine.core.length_groups import length_groups
from adaptdock.engine.core.open_ports import OpenPorts
from adaptdock.engine.core.rows import Docked, MixedRows, arranged, places
from adaptdock.engine.core.slots import Slot, Stack, Stacks, Tensors
from adaptdock.errors import MismatchError, UnknownNameError, UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.arguments import checked_number, of_type, refusal
from adaptdock.plugins.contracts import Backbone, Feature, Reading
from adaptdock.plugins.sequences import listed, text
from adaptdock.plugins.toolkit.windowing import FEWEST_TOKENS

HOST = torch.device("cpu")
KNOWN_ASSEMBLIES = 1000
NAMES = "adapter names", "['ner', 'topic']"
ADAPTER = "an adapter in memory comes from read_file() or train() (its .adapter); load() takes the path of a file"
CARD = "a card comes from read_card()"
ROWS = "rows", "the rows of boarding(['ner'])"
FEATURES = "features of a batch", "the features from a task's encode()"


@dataclass(frozen=True, eq=False)
class Prepared:
    """An adapter verified and packed for a backbone, ready to dock."""

    card: Card
    assembly: Assembly
    parts: tuple[Docked, ...]
    head: Slot
    sha256: str = ""
    """Checksum of the adapter file; empty for an adapter that was not read from a file."""

    @property
    def nbytes(self) -> int:
        """The size of the weights in bytes."""
        return sum(part.slot.nbytes for part in self.parts) + self.head.nbytes

    def placed(self) -> "Prepared":
        """Return this adapter with its weights on the devices of its ports."""
        return self._moved(Slot.placed)

    def pinned(self) -> "Prepared":
        """Return this adapter in memory from which a GPU copies while it computes."""
        return self._moved(Slot.pinned)

    def _moved(self, move: Callable[[Slot], Slot]) -> "Prepared":
        parts = tuple(replace(part, slot=move(part.slot)) for part in self.parts)
        return replace(self, parts=parts, head=move(self.head))


@dataclass(eq=False)
class Resident:
    """A docked adapter, and the number of batches that use it now."""

    adapter: Prepared
    batches: int = 0
    leaving: bool = False

    @property
    def card(self) -> Card:
        """The adapter's card."""
        return self.adapter.card

    @property
    def assembly(self) -> Assembly:
        """The adapter's methods, task and head."""
        return self.adapter.assembly

    @property
    def head(self) -> Slot:
        """The weights of the adapter's head."""
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
        self._stacks, self._gathered = Stacks(), GatheredCache()
        self._devices = {port.name: backbone.placement(port) for port in backbone.ports} | {HEAD: backbone.device}
        self._assemblies: dict[str, Assembly] = {}
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        docked = ", ".join(map(repr, self.names)) or "no adapters"
        return f"<{type(self).__name__} on {self.backbone.id!r} ({self.backbone.architecture}) with {docked}>"

    def __len__(self) -> int:
        """Return the number of docked adapters; an empty dock is therefore false, like an empty list."""
        return len(self._residents)

    def __contains__(self, name: object) -> bool:
        """Return whether an adapter of that name is docked."""
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
        """Return the assembly of a docked adapter: methods, task and head."""
        return self._resident(name).assembly

    def assembled(self, card: Card) -> Assembly:
        """Return the assembly of any adapter, docked or not, from its card."""
        return self._assembly(of_type(card, Card, CARD))

    def reading(self, max_length: int, row: Row = (), room: int = 0) -> Reading:
        """Return the reading of this backbone: windows of at most ``max_length`` tokens.

        Windows are shorter if the adapters of the row take positions, or ``room`` is kept for new tokens.
        """
        checked_number(max_length, "the longest window, in tokens,", 1)
        reserved = checked_number(room, "the room for new tokens")
        (row,) = _rows([row], bare=True)
        return reading(self.backbone, max_length, reserved + sum(resident.assembly.positions for resident in row))

    # --------------------------------------------------------------------------- dock and undock

    def dock(self, adapter: AdapterFile | Prepared, name: str | None = None, replace: bool = False) -> str:
        """Dock an adapter in memory, and return its name in the dock.

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
        self.ports.acquire(resident.assembly.sites)  # before the name is visible: a batch may use it at once
        with self._lock:
            previous = self._residents.get(name)
            if previous is not None and not replace:  # another thread was faster
                self._free(resident)
                raise UsageError(f"an adapter named {name!r} was docked meanwhile; give another name")
            self._residents[name] = resident
            if previous is not None:
                self._leave(previous)
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
        head_tensors = {name: adapter.tensors[f"{HEAD}.{name}"] for name in assembly.head.parameters(assembly.width)}
        head = self._packed(adapter, ("head", assembly.head.stack_key), {HEAD: head_tensors}, assembly.head.grows)
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
        """Return weights in the backbone's dtype unless that needs more bytes, so that batches do not convert them."""
        dtype = self.backbone.dtype
        return {
            place: {name: part.to(dtype) if part.itemsize == dtype.itemsize else part for name, part in by_name.items()}
            for place, by_name in tensors.items()
        }

    def _on_device(self, prepared: Prepared) -> Prepared:
        """Copy weights to the devices of their ports, on a stream of its own so that running batches do not wait."""
        if self.backbone.device.type != "cuda":
            return prepared.placed()
        beside = torch.cuda.Stream(self.backbone.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(beside):
            moved = prepared.placed()
        beside.synchronize()
        return moved

    def unload(self, name: str) -> None:
        """Undock an adapter; batches in flight keep it to their end."""
        with self._lock:
            resident = self._resident(name)
            del self._residents[name]
            self._leave(resident)

    def close(self) -> None:
        """Undock every adapter: the backbone is as it was before the dock was opened."""
        for name in self.names:
            self.unload(name)

    def _assembled(self, adapter: AdapterFile) -> Assembly:
        card, backbone = adapter.card, self.backbone
        if card.backbone.fingerprint != backbone.fingerprint:
            raise MismatchError(
                f"the adapter {card.name!r} was trained on the backbone {card.backbone.id!r} "
                f"({card.backbone.fingerprint[:20]}...), this is {backbone.id!r} ({backbone.fingerprint[:20]}...): "
                f"their weights differ. Open the dock with the backbone of the adapter."
            )
        vocabulary = card.preprocessing.vocabulary
        if vocabulary and backbone.vocabulary and vocabulary != backbone.vocabulary:
            raise MismatchError(
                f"the adapter {card.name!r} was trained with another tokenizer ({card.preprocessing.tokenizer}) than "
                f"the tokenizer of {backbone.id!r}: the same words would get other numbers"
            )
        assembly = self._assembly(card)
        assembly.check(adapter.tensors, f"the adapter {card.name!r}")
        self._check_window(card, assembly)
        return assembly

    def _check_window(self, card: Card, assembly: Assembly) -> None:
        """Raise :class:`MismatchError` for windows without room for a text: every input would be refused."""
        if self.backbone.tokenizer is None:
            return
        special = self.backbone.tokenizer.num_special_tokens_to_add()
        limit = min(card.preprocessing.max_length, self.backbone.max_length - assembly.positions)
        if limit - special < FEWEST_TOKENS:
            raise MismatchError(
                f"the adapter {card.name!r}: its card says max_length {card.preprocessing.max_length}, and windows of "
                f"{limit} tokens have no room for a text: {special} tokens are special ones of {self.backbone.id!r}, "
                f"and a text needs {FEWEST_TOKENS} at least"
            )

    def _assembly(self, card: Card) -> Assembly:
        """Put an adapter together; adapters that differ only in weights share the assembly."""
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
        self._gathered.forget([part.slot for part in resident.adapter.parts] + [resident.head])

    def _resident(self, name: str) -> Resident:
        try:
            return self._residents[text(name, "the name of an adapter")]
        except KeyError:
            raise UnknownNameError("adapter", name, self._residents) from None

    # ---------------------------------------------------------------------------------- batches

    @contextmanager
    def boarding(self, names: Sequence[str | None]) -> Iterator[list[Row]]:
        """Resolve a name per row, and keep the adapters' ports open while the context is open.

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
        """Return the fastest order of rows: rows with the same methods are neighbours."""
        return arranged([_parts(row) for row in _rows(rows, bare=True)])

    def mixed(self, rows: Sequence[Row]) -> MixedRows:
        """Lay a batch out by port."""
        compiled = self.backbone.model._compiled_call_impl is not None
        mixed_rows = MixedRows(
            [_parts(row) for row in _rows(rows, bare=True)], self.backbone.dtype, compiled, self._gathered.gathered
        )
        if compiled:
            mixed_rows.gather()
        return mixed_rows

    @torch.inference_mode()
    def hidden(self, rows: Sequence[Row], inputs: Mapping[str, Tensor], reads: str = "encoder") -> Tensor:
        """Return the last hidden states (R, T, W) of a batch, each row with its own adapters."""
        rows = _rows(rows, bare=True)
        if reads not in ("encoder", "decoder"):
            raise UsageError(refusal(reads, "reads is 'encoder' or 'decoder'"))
        of_type(inputs, Mapping, "the inputs are a mapping from their names to tensors (R, T)")
        order = self.order(rows)
        ordered_inputs = {name: tensor[order] for name, tensor in inputs.items()}
        hidden_states = states(
            self.backbone, self.ports, self.mixed([rows[number] for number in order]), ordered_inputs, reads
        )
        return hidden_states[places(order), -inputs["attention_mask"].shape[1] :]

    @torch.inference_mode()
    def run(self, rows: Sequence[Row], features: Sequence[Feature], repeats: bool = False) -> list[Tensor]:
        """Run a batch and return each row's logits, from the head of its topmost adapter, on the CPU.

        ``rows`` are the rows of :meth:`boarding`. With ``repeats`` several rows have the same feature, and layers
        below the lowest adapted layer are computed once for it.
        """
        rows, features = _checked(rows, features)
        if not rows:
            return []
        order = self.order(rows)
        answers: dict[int, Tensor] = {}
        for group in length_groups(self.backbone, [features[number] for number in order]):
            numbers = [order[place] for place in group]
            logits = self._passed(
                [rows[number] for number in numbers], [features[number] for number in numbers], repeats
            )
            answers.update(zip(numbers, logits, strict=True))
        return [answers[number] for number in range(len(rows))]

    def _passed(self, rows: Sequence[Row], features: Sequence[Feature], repeats: bool) -> list[Tensor]:
        """Send rows through the backbone together, and return the logits of each on the CPU."""
        answers: dict[int, Tensor] = {}
        for numbers, hidden, inputs in self._halves(rows, features, repeats):
            for members in _by_head(rows, numbers):
                indices = [numbers.index(number) for number in members]
                head = rows[members[0]][-1].assembly.head
                mask = mask_for(head, inputs)[indices]
                weights = self._gathered.gathered([rows[number][-1].head for number in members], torch.float32).at(HEAD)
                row_inputs = collate_row_inputs(head, [features[number] for number in members], mask.device)
                with routed_lm_head(self.ports, head, self.mixed([rows[number] for number in members]), hidden):
                    head_input = for_head(self.backbone, head, hidden[indices], mask, row_inputs)
                answers.update(zip(members, head.apply(weights, head_input, mask), strict=True))
        heads = [row[-1].assembly.head for row in rows]
        return [
            head.trim(answers[number], length_read(head, features[number])).cpu() for number, head in enumerate(heads)
        ]

    def _halves(
        self, rows: Sequence[Row], features: Sequence[Feature], repeats: bool
    ) -> Iterator[tuple[list[int], Tensor, dict[str, Tensor]]]:
        """Yield row numbers, the states that their heads read, and their inputs; the encoder runs once for all."""
        everyone = list(range(len(rows)))
        inputs = collate(self.backbone, [encoder_inputs(feature) for feature in features])
        if repeats:
            texts = same_features(features)
            encoded = shared_states(self.backbone, self.ports, self.mixed(rows), inputs, "encoder", texts)
        else:
            encoded = states(self.backbone, self.ports, self.mixed(rows), inputs, "encoder")
        if not self.backbone.encoder_decoder:
            yield everyone, encoded, inputs
            return
        for reads, numbers in _by_input(rows, features).items():
            half_inputs = {name: tensor[numbers] for name, tensor in inputs.items()}
            if reads == "encoder":
                yield numbers, encoded[numbers], half_inputs
                continue
            mixed = self.mixed([rows[number] for number in numbers])
            answered = [_answered(features[number]) for number in numbers]
            half_inputs |= collate(self.backbone, answered)
            yield (
                numbers,
                states(self.backbone, self.ports, mixed, half_inputs, "decoder", encoded[numbers]),
                half_inputs,
            )


def _parts(row: Row) -> list[tuple[Docked, ...]]:
    return [resident.adapter.parts for resident in row]


def _rows(rows: Any, bare: bool) -> list[Row]:
    """Return the rows of a batch; raise :class:`UsageError` for anything else, and for bare rows unless allowed."""
    every: list[Row] = listed(rows, *ROWS)
    for row in every:
        if not isinstance(row, tuple) or not (row or bare) or not all(isinstance(part, Resident) for part in row):
            raise UsageError(f"a row comes from boarding(); found {row!r:.60}")
    return every


def _checked(rows: Any, features: Any) -> tuple[list[Row], list[Feature]]:
    """Return the rows and features of a batch; raise :class:`UsageError` for anything else."""
    rows, features = _rows(rows, bare=False), listed(features, *FEATURES)
    if len(rows) != len(features):
        raise UsageError(f"{len(rows)} rows for {len(features)} features: each row has one")
    wrong = next((feature for feature in features if not isinstance(feature, Feature)), None)
    if wrong is not None:
        raise UsageError(f"a feature comes from a task's encode(); found {wrong!r:.60}")
    return rows, features


def _answered(feature: Feature) -> Feature:
    """Return the inputs of the decoder; empty if the decoder reads the encoder's text."""
    return Feature({name: values for name, values in feature.inputs.items() if name.startswith("decoder_")})


def _by_input(rows: Sequence[Row], features: Sequence[Feature]) -> dict[str, list[int]]:
    """Group row numbers by the input of their heads: encoder, decoder, or decoder with a given answer."""
    groups: dict[str, list[int]] = {}
    for number, (row, feature) in enumerate(zip(rows, features, strict=True)):
        reads = row[-1].assembly.head.reads
        answers = reads == "decoder" and "decoder_input_ids" in feature.inputs
        groups.setdefault("answer" if answers else reads, []).append(number)
    return groups


def _by_head(rows: Sequence[Row], numbers: Sequence[int]) -> list[list[int]]:
    """Group row numbers by the stack of their heads, which are computed together."""
    groups: dict[Stack, list[int]] = {}
    for number in numbers:
        groups.setdefault(rows[number][-1].head.stack, []).append(number)
    return list(groups.values())
