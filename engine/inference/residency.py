"""Residency: which of many known adapters are docked, which wait in host memory, which stay on disk.

Ten thousand adapters may be known by name and file; those that batches use are docked within a budget
of bytes, and the least recently used make room. On a GPU what was docked stays in host memory, within
a budget of its own, from which it is docked again without reading its file.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from adaptdock.engine.core.docked_adapters import NAMES, Prepared
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import BudgetError, UnknownNameError, UsageError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.registry.admission import read_adapter
from adaptdock.plugins.arguments import checked_number, file_path, of_type, refusal
from adaptdock.plugins.sequences import listed, text

Tier = Literal["device", "host", "disk"]


@dataclass(eq=False)
class _Known:
    """An adapter: its file, where its weights are now, and who holds them there."""

    path: Path
    docked: int = 0
    """Bytes of the docked version; 0 where none is docked."""
    waiting: Prepared | None = None
    stale: bool = False
    pinned: bool = False
    leases: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def held(self) -> bool:
        return self.pinned or self.leases > 0


class Residency:
    """The adapters that a dock's process knows, docked when they are used.

    ``device_bytes`` and ``host_bytes`` are the budgets in bytes; None is no limit. ``read`` reads a file whenever its
    adapter is docked, and ``probes`` asks its golden probes before its content is docked for the first time. Safe for
    use by many threads. Every method raises :class:`UnknownNameError` for a name that is not known, and
    :class:`UsageError` for arguments of a wrong type.

    >>> from adaptdock import Dock
    >>> adapters = Residency(Dock.open("minilm"), device_bytes=50_000_000)
    >>> adapters.know("people", "ner.safetensors")
    >>> adapters.tier("people")
    'disk'
    >>> adapters.predict("people", ["Ada lived in London."])
    [{'text': 'Ada lived in London.', 'entities': [...]}]
    >>> adapters.tier("people"), adapters.resident_bytes == adapters.docked_bytes("people") > 0
    ('device', True)
    """

    def __init__(
        self,
        dock: Dock,
        device_bytes: int | None = None,
        host_bytes: int | None = None,
        read: Callable[[Path], AdapterFile] = read_adapter,
        probes: bool = True,
    ) -> None:
        of_type(dock, Dock, "a residency is made of a Dock")
        if not callable(read):
            raise UsageError(refusal(read, "read is a function from a path to an adapter in memory"))
        self.dock, self._read_file, self._probes = dock, read, of_type(probes, bool, "probes is True or False")
        for budget, name in ((device_bytes, "device_bytes"), (host_bytes, "host_bytes")):
            if budget is not None:
                checked_number(budget, f"the budget {name}, in bytes,")
        self.device_bytes, self.host_bytes = device_bytes, host_bytes
        self._known: dict[str, _Known] = {}
        self._docked: OrderedDict[str, _Known] = OrderedDict()
        self._waiting: OrderedDict[str, _Known] = OrderedDict()
        self._lock = threading.RLock()
        self._separate = dock.backbone.device.type != "cpu"  # else host memory is where docked weights are

    @property
    def names(self) -> list[str]:
        """The names that are known."""
        return sorted(self._known)

    @property
    def resident_bytes(self) -> int:
        """The bytes of all docked weights."""
        with self._lock:
            return sum(known.docked for known in self._docked.values())

    def know(self, name: str, path: str | Path) -> None:
        """Make a file known under a name; it is read when it is first used.

        A name that is known already gets a new version: batches under way keep the old one. Raises
        :class:`UsageError` for a name that is no text or contains ``+``, and for what is no path.
        """
        if "+" in text(name, "the name of an adapter") or not name:
            raise UsageError(f"the name {name!r} cannot be used: give one without '+', which divides a stack")
        file = file_path(path, "the file of an adapter")
        with self._lock:
            known = self._known.setdefault(name, _Known(file))
            known.path, known.stale = file, bool(known.docked)
            known.waiting = None
            self._waiting.pop(name, None)

    def forget(self, name: str) -> None:
        """Undock an adapter and forget it; batches under way keep it to their end."""
        with self._lock:
            known = self._find(name)
            del self._known[name]
            self._waiting.pop(name, None)
            if self._docked.pop(name, None) is not None:
                known.docked = 0
                self.dock.unload(name)

    def pin(self, name: str) -> None:
        """Dock an adapter and keep it docked; raise :class:`BudgetError` where it finds no room."""
        with self.present([name]):
            self._find(name).pinned = True

    def unpin(self, name: str) -> None:
        """Let an adapter make room for others again."""
        self._find(name).pinned = False

    def tier(self, name: str) -> Tier:
        """Return where an adapter's weights are now: ``device`` (docked), ``host`` or ``disk``."""
        known = self._find(name)
        return "device" if known.docked else "disk" if known.waiting is None else "host"

    def docked_bytes(self, name: str) -> int:
        """Return the bytes of an adapter's docked weights; 0 where they are not docked, or it is not known."""
        known = self._known.get(text(name, "the name of an adapter"))
        return 0 if known is None else known.docked

    @contextmanager
    def present(self, names: Sequence[str | None]) -> Iterator[None]:
        """Keep the adapters of a batch's rows docked while the context is open; names as in :meth:`Dock.boarding`.

        Raises :class:`UnknownNameError` with the row, :class:`BudgetError`, and what :meth:`Dock.load` raises.
        """
        leased: dict[str, _Known] = {}
        rows = [None if name is None else text(name, "the name of an adapter") for name in listed(names, *NAMES)]
        try:
            with self._lock:
                for row, name in enumerate(rows):
                    for part in name.split("+") if name is not None else ():
                        if part not in leased:
                            leased[part] = self._find(part, f"It is asked for in row {row}.")
                            leased[part].leases += 1
            for name, known in leased.items():
                self._bring(name, known)
            yield
        finally:
            with self._lock:
                for known in leased.values():
                    known.leases -= 1

    def predict(self, name: str | Sequence[str], inputs: Sequence[Any], batch_size: int = 32) -> list[dict[str, Any]]:
        """Predict as :meth:`Dock.predict` does, with any of the known adapters."""
        names = _names(name)
        with self.present(names if isinstance(names, list) else [names]):
            return self.dock.predict(names, inputs, batch_size)

    def generate(
        self, names: str | Sequence[str | None] | None, texts: Sequence[str], batch_size: int = 8, **options: Any
    ) -> list[str]:
        """Generate as :meth:`Dock.generate` does, with any of the known adapters."""
        every = _names(names)
        with self.present(every if isinstance(every, list) else [every]):
            return self.dock.generate(every, texts, batch_size, **options)

    # ------------------------------------------------------------------------------------ inside

    def _find(self, name: str, hint: str = "") -> _Known:
        try:
            return self._known[text(name, "the name of an adapter")]
        except KeyError:
            raise UnknownNameError("adapter", name, self._known, hint) from None

    def _bring(self, name: str, known: _Known) -> None:
        """Dock a leased adapter unless it is; one thread reads its file, the others wait for it."""
        with known.lock:
            if known.docked and not known.stale:
                with self._lock:
                    self._docked.move_to_end(name)
                return
            prepared = known.waiting or self._read(known)
            with self._lock:
                if self._find(name) is not known:  # forgotten meanwhile, and another made known under its name
                    raise UnknownNameError("adapter", name, self._known)
                self._make_room(name, prepared.nbytes - known.docked)
                self.dock.dock(prepared, name, replace=True)
                known.docked, known.stale = prepared.nbytes, False
                self._docked[name] = known
                self._docked.move_to_end(name)
                if self._separate:
                    self._keep_waiting(name, known, prepared)

    def _read(self, known: _Known) -> Prepared:
        adapter = self._read_file(known.path)
        prepared = self.dock.proved(adapter) if self._probes else self.dock.prepare(adapter)
        return prepared.pinned() if self.dock.backbone.device.type == "cuda" else prepared

    def _make_room(self, name: str, needed: int) -> None:
        if self.device_bytes is None:
            return
        there = sum(known.docked for known in self._docked.values())
        going = []
        for other, known in self._docked.items():
            if there + needed <= self.device_bytes:
                break
            if not known.held:
                going.append(other)
                there -= known.docked
        if there + needed > self.device_bytes:
            pinned = sum(known.docked for known in self._docked.values() if known.pinned)
            used = sum(known.docked for known in self._docked.values() if known.leases and not known.pinned)
            raise BudgetError(name, needed, self.device_bytes, pinned, used)
        for other in going:
            self._docked.pop(other).docked = 0
            self.dock.unload(other)

    def _keep_waiting(self, name: str, known: _Known, prepared: Prepared) -> None:
        known.waiting = prepared
        self._waiting[name] = known
        self._waiting.move_to_end(name)
        if self.host_bytes is None:
            return
        there = sum(other.waiting.nbytes for other in self._waiting.values() if other.waiting is not None)
        while there > self.host_bytes and self._waiting:
            _, oldest = self._waiting.popitem(last=False)
            assert oldest.waiting is not None  # only those that have it are listed
            there -= oldest.waiting.nbytes
            oldest.waiting = None


def _names(given: Any) -> Any:
    """Return one name, or none, as it is, and several as a list, which can be gone through twice."""
    return given if given is None or isinstance(given, str) else listed(given, *NAMES)
