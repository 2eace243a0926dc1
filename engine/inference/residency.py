"""Residency: the placement of many known adapters on the device, in host memory or on disk.

Ten thousand adapters may be known by name and file. Adapters in use are docked within a budget of bytes, and
the least recently used make room. On a GPU, adapters stay in host memory after docking, within
a budget of its own, and are docked again without reading their files.
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
class _Entry:
    """A known adapter: its file, the place of its weights, and its leases."""

    path: Path
    docked: int = 0
    """Bytes of the docked version; 0 if no version is docked."""
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

    ``device_bytes`` and ``host_bytes`` are the budgets in bytes, or None. ``read`` reads a file before its
    adapter is docked, and ``probes`` checks its golden probes before its content is docked for the first time. Safe for
    use by many threads. Every method raises :class:`UnknownNameError` for an unknown name, and :class:`UsageError` for
    arguments of a wrong type.

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
        self._known: dict[str, _Entry] = {}
        self._docked: OrderedDict[str, _Entry] = OrderedDict()
        self._waiting: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.RLock()
        self._separate = dock.backbone.device.type != "cpu"  # else host memory is where docked weights are

    @property
    def names(self) -> list[str]:
        """The names of the known adapters."""
        return sorted(self._known)

    @property
    def resident_bytes(self) -> int:
        """The size of all docked weights in bytes."""
        with self._lock:
            return sum(entry.docked for entry in self._docked.values())

    def know(self, name: str, path: str | Path) -> None:
        """Register a file under a name; the file is read at its first use.

        A known name gets a new version: batches in flight keep the old version. Raises
        :class:`UsageError` for a name that is not a text or contains ``+``, and for a value that is not a path.
        """
        if "+" in text(name, "the name of an adapter") or not name:
            raise UsageError(f"the name {name!r} cannot be used: give one without '+', which divides a stack")
        file = file_path(path, "the file of an adapter")
        with self._lock:
            entry = self._known.setdefault(name, _Entry(file))
            entry.path, entry.stale = file, bool(entry.docked)
            entry.waiting = None
            self._waiting.pop(name, None)

    def forget(self, name: str) -> None:
        """Undock an adapter and forget it; batches in flight keep it to their end."""
        with self._lock:
            entry = self._find(name)
            del self._known[name]
            self._waiting.pop(name, None)
            if self._docked.pop(name, None) is not None:
                entry.docked = 0
                self.dock.unload(name)

    def pin(self, name: str) -> None:
        """Dock an adapter and keep it docked; raise :class:`BudgetError` if the budget has no room."""
        with self.present([name]):
            self._find(name).pinned = True

    def unpin(self, name: str) -> None:
        """Allow an adapter to be undocked for others again."""
        self._find(name).pinned = False

    def tier(self, name: str) -> Tier:
        """Return where an adapter's weights are now: ``device`` (docked), ``host`` or ``disk``."""
        entry = self._find(name)
        return "device" if entry.docked else "disk" if entry.waiting is None else "host"

    def docked_bytes(self, name: str) -> int:
        """Return the size of an adapter's docked weights in bytes; 0 for an adapter that is not docked or not known."""
        entry = self._known.get(text(name, "the name of an adapter"))
        return 0 if entry is None else entry.docked

    @contextmanager
    def present(self, names: Sequence[str | None]) -> Iterator[None]:
        """Keep the adapters of a batch's rows docked while the context is open; names as in :meth:`Dock.boarding`.

        Raises :class:`UnknownNameError` with the row, :class:`BudgetError`, and the errors of :meth:`Dock.load`.
        """
        leased: dict[str, _Entry] = {}
        rows = [None if name is None else text(name, "the name of an adapter") for name in listed(names, *NAMES)]
        try:
            with self._lock:
                for row, name in enumerate(rows):
                    for part in name.split("+") if name is not None else ():
                        if part not in leased:
                            leased[part] = self._find(part, f"It is asked for in row {row}.")
                            leased[part].leases += 1
            for name, entry in leased.items():
                self._bring(name, entry)
            yield
        finally:
            with self._lock:
                for entry in leased.values():
                    entry.leases -= 1

    def predict(self, name: str | Sequence[str], inputs: Sequence[Any], batch_size: int = 32) -> list[dict[str, Any]]:
        """Predict with any of the known adapters; see :meth:`Dock.predict`."""
        names = _names(name)
        with self.present(names if isinstance(names, list) else [names]):
            return self.dock.predict(names, inputs, batch_size)

    def generate(
        self, names: str | Sequence[str | None] | None, texts: Sequence[str], batch_size: int = 8, **options: Any
    ) -> list[str]:
        """Generate with any of the known adapters; see :meth:`Dock.generate`."""
        every = _names(names)
        with self.present(every if isinstance(every, list) else [every]):
            return self.dock.generate(every, texts, batch_size, **options)

    # ------------------------------------------------------------------------------------ inside

    def _find(self, name: str, hint: str = "") -> _Entry:
        try:
            return self._known[text(name, "the name of an adapter")]
        except KeyError:
            raise UnknownNameError("adapter", name, self._known, hint) from None

    def _bring(self, name: str, entry: _Entry) -> None:
        """Dock a leased adapter unless it is docked; one thread reads its file while others wait."""
        with entry.lock:
            if entry.docked and not entry.stale:
                with self._lock:
                    self._docked.move_to_end(name)
                return
            prepared = entry.waiting or self._read(entry)
            with self._lock:
                if self._find(name) is not entry:  # forgotten meanwhile, and the name registered again
                    raise UnknownNameError("adapter", name, self._known)
                self._make_room(name, prepared.nbytes - entry.docked)
                self.dock.dock(prepared, name, replace=True)
                entry.docked, entry.stale = prepared.nbytes, False
                self._docked[name] = entry
                self._docked.move_to_end(name)
                if self._separate:
                    self._keep_waiting(name, entry, prepared)

    def _read(self, entry: _Entry) -> Prepared:
        adapter = self._read_file(entry.path)
        prepared = self.dock.proved(adapter) if self._probes else self.dock.prepare(adapter)
        return prepared.pinned() if self.dock.backbone.device.type == "cuda" else prepared

    def _make_room(self, name: str, needed: int) -> None:
        if self.device_bytes is None:
            return
        docked_bytes = sum(entry.docked for entry in self._docked.values())
        evicted = []
        for candidate, entry in self._docked.items():
            if docked_bytes + needed <= self.device_bytes:
                break
            if not entry.held:
                evicted.append(candidate)
                docked_bytes -= entry.docked
        if docked_bytes + needed > self.device_bytes:
            pinned = sum(entry.docked for entry in self._docked.values() if entry.pinned)
            used = sum(entry.docked for entry in self._docked.values() if entry.leases and not entry.pinned)
            raise BudgetError(name, needed, self.device_bytes, pinned, used)
        for candidate in evicted:
            self._docked.pop(candidate).docked = 0
            self.dock.unload(candidate)

    def _keep_waiting(self, name: str, entry: _Entry, prepared: Prepared) -> None:
        entry.waiting = prepared
        self._waiting[name] = entry
        self._waiting.move_to_end(name)
        if self.host_bytes is None:
            return
        waiting_bytes = sum(waiter.waiting.nbytes for waiter in self._waiting.values() if waiter.waiting is not None)
        while waiting_bytes > self.host_bytes and self._waiting:
            _, oldest = self._waiting.popitem(last=False)
            assert oldest.waiting is not None  # self._waiting lists only entries with weights in host memory
            waiting_bytes -= oldest.waiting.nbytes
            oldest.waiting = None


def _names(names: Any) -> Any:
    """Return a single name or None unchanged, and several names as a list, since they are iterated twice."""
    return names if names is None or isinstance(names, str) else listed(names, *NAMES)
