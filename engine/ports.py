"""Ports: forward hooks and the backbone's attention handler, through which rows reach the adapters.

While no batch is routed, and at ports where no adapter acts, the backbone computes as if nothing
were here.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adaptdock.engine.rows import Rows
from adaptdock.plugins.contracts import Backbone, Port, Prepended, Site
from adaptdock.plugins.errors import AdaptError


class _Pass:
    """One batch on its way through the backbone, in one thread."""

    def __init__(self, rows: Rows, lengths: frozenset[int]) -> None:
        self.rows, self.lengths = rows, lengths
        self.inputs: dict[str, Tensor] = {}


class OpenPorts:
    """The hooks on a backbone's modules; each is there as long as some adapter needs its port."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._running = threading.local()
        self._lock = threading.RLock()
        self._users: dict[Port, int] = {}
        self._handles: dict[Port, RemovableHandle] = {}
        self._sources: dict[Port, int] = {}
        self._source_handles: dict[Port, RemovableHandle] = {}
        self._attention: AbstractContextManager[None] | None = None

    @contextmanager
    def routed(self, rows: Rows, lengths: Iterable[int]) -> Iterator[None]:
        """Let the rows' adapters act on what this thread sends through the backbone.

        ``lengths`` are the numbers of positions that inputs may have.
        """
        outer = getattr(self._running, "batch", None)
        self._running.batch = _Pass(rows, frozenset(lengths))
        try:
            yield
        finally:
            self._running.batch = outer

    def acquire(self, sites: Iterable[Site]) -> None:
        """Open the ports of an adapter's sites."""
        with self._lock:
            for site in sites:
                _count(self._users, self._handles, site.port, 1, self._hook)
                if site.source is not None:
                    _count(self._sources, self._source_handles, site.source, 1, self._hook_source)
            self._route_attention()

    def release(self, sites: Iterable[Site]) -> None:
        """Close those ports that no adapter needs any more."""
        with self._lock:
            for site in sites:
                _count(self._users, self._handles, site.port, -1, self._hook)
                if site.source is not None:
                    _count(self._sources, self._source_handles, site.source, -1, self._hook_source)
            self._route_attention()

    # ------------------------------------------------------------------------------------ hooks

    def _hook(self, port: Port) -> RemovableHandle | None:
        if port.kind == "attention":
            return None
        module = self._backbone.model.get_submodule(port.module)

        def after(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
            batch: _Pass | None = getattr(self._running, "batch", None)
            if batch is None or not batch.rows.at(port):
                return None
            return _transformed(batch, port, args[0], out)

        return module.register_forward_hook(after)

    def _hook_source(self, port: Port) -> RemovableHandle:
        def before(_: nn.Module, args: tuple[Any, ...]) -> None:
            batch: _Pass | None = getattr(self._running, "batch", None)
            if batch is not None:
                batch.inputs[port.name] = args[0]

        return self._backbone.model.get_submodule(port.module).register_forward_pre_hook(before)

    def _route_attention(self) -> None:
        needed = any(port.kind == "attention" for port in self._users)
        if needed and self._attention is None:
            self._attention = self._backbone.open_attention(self._prepended)
            self._attention.__enter__()
        elif not needed and self._attention is not None:
            self._attention.__exit__(None, None, None)
            self._attention = None

    def _prepended(self, port: Port) -> list[Prepended]:
        batch: _Pass | None = getattr(self._running, "batch", None)
        if batch is None:
            return []
        return [action.method.prepend(action.parameters(None)) for action in batch.rows.at(port)]


def _count(users: dict[Port, int], handles: dict[Port, RemovableHandle], port: Port, change: int, hook: Any) -> None:
    users[port] = users.get(port, 0) + change
    if users[port] == 1 and change == 1:
        handle = hook(port)
        if handle is not None:
            handles[port] = handle
    elif users[port] == 0:
        del users[port]
        handle = handles.pop(port, None)
        if handle is not None:
            handle.remove()


def _transformed(batch: _Pass, port: Port, x: Tensor, out: Tensor) -> Tensor:
    shape = out.shape
    result = _by_rows(batch, port, out)
    for action in batch.rows.at(port):
        source = action.site.source
        read = (x if source is None else batch.inputs[source.name]).to(out.dtype)
        parameters = action.parameters(out)
        result = action.method.transform(parameters, _by_rows(batch, port, read), result, action.dropout)
    return result.reshape(shape)


def _by_rows(batch: _Pass, port: Port, tensor: Tensor) -> Tensor:
    """View a tensor as (R, T, W), whatever the model made of its leading dimensions."""
    rows, width = batch.rows.count, tensor.shape[-1]
    if tensor.ndim == 3 and tensor.shape[0] == rows:
        return tensor
    if tensor.ndim > 3 and tensor.shape[0] == rows:
        return tensor.reshape(rows, -1, width)
    if tensor.ndim == 2 and tensor.shape[0] in {rows * length for length in batch.lengths}:
        return tensor.view(rows, -1, width)
    raise AdaptError(
        f"the port {port.name} saw a tensor of shape {tuple(tensor.shape)} in a batch of {rows} rows; "
        f"which row is whose cannot be told, so nothing was applied"
    )
