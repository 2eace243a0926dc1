"""Open ports: the forward hooks and the attention handler that call the adapters of a batch's rows.

Without a routed batch, and at ports where no adapter acts, the backbone computes as if no hooks existed.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adaptdock.engine.core.position_layouts import EMBEDDINGS, ENCODER, half
from adaptdock.engine.core.rows import Action, Rows
from adaptdock.errors import AdaptError
from adaptdock.plugins.contracts import Backbone, ForwardPass, Layout, Port, Prepended, Site

Act = Literal["transform", "enter", "read", "attend"]


@dataclass(frozen=True, eq=False)
class Sites:
    """The sites of an adapter, and the ports that must be open for them."""

    sites: tuple[Site, ...]

    @cached_property
    def needs(self) -> tuple[tuple[Port, Act], ...]:
        """Each port that must be open, with the kind of hook; methods that act around the model need none."""
        needed: dict[tuple[Port, Act], None] = {}
        for site in self.sites:
            if site.port.kind == "attention":
                needed[site.port, "attend"] = None
            elif site.port.kind != "layers" and site.side != "front":
                needed[site.port, "transform" if site.side == "output" else "enter"] = None
            if site.source is not None:
                needed[site.source, "read"] = None
        return tuple(needed)


class _Pass:
    """One batch on its way through the backbone, in one thread."""

    def __init__(self, rows: Rows, lengths: frozenset[int], layouts: Mapping[str, Layout], copies: int) -> None:
        self.rows, self.lengths, self.copies = rows, lengths, copies
        self.layouts = dict(layouts)
        self.inputs: dict[str, Tensor] = {}

    def forward_pass(
        self, port: Port, action: Action, rows: int, like: Tensor | None = None, tokens: Tensor | None = None
    ) -> ForwardPass:
        """Return the forward pass that an action sees: all ``rows`` at the port, or the rows of its span.

        ``like`` (R, T, W) passes the port; ``tokens`` (R, T) are the tokens that an embedding port looks up.
        """
        layout, span = self.layouts.get(half(port)), action.span
        if layout is not None and port.kind == "embedding":
            layout = layout.with_tokens(tokens)
        copies = 1 if layout is None else rows // layout.rows
        rows = rows if span is None else len(range(rows)[span])
        if like is None:
            return ForwardPass(rows, action.dropout, layout, copies, span)
        return ForwardPass(rows, action.dropout, layout, copies, span, like.shape[1], like.device)

    def attention_pass(self, port: Port, action: Action, rows: int) -> ForwardPass:
        """Return the forward pass at an attention port, with the input of the port that the site reads."""
        source = action.site.source
        if source is None:
            return self.forward_pass(port, action, rows)
        states = self.as_rows(source, self.inputs[source.name])[1]
        return replace(self.forward_pass(port, action, rows, states), read=states)

    def as_rows(self, port: Port, tensor: Tensor) -> tuple[Rows, Tensor]:
        """Return the rows of a tensor and the tensor as (R, T, W), whatever its leading dimensions.

        In a beam search a tensor may hold each row several times.
        """
        leading, copies = tensor.shape[0], 1
        if tensor.ndim == 2:
            copies = self._copies_of_flat(port, tensor)
        elif leading != self.rows.count:
            copies = self.copies
        rows = self.rows if copies == 1 else self.rows.repeated(copies)
        if tensor.ndim == 3 and leading == rows.count:
            return rows, tensor
        if tensor.ndim == 2 or leading == rows.count:
            return rows, tensor.reshape(rows.count, -1, tensor.shape[-1])
        raise self._lost(port, tensor)

    def _copies_of_flat(self, port: Port, tensor: Tensor) -> int:
        possible = {
            copies
            for copies in (1, self.copies)
            for length in self.lengths
            if tensor.shape[0] == self.rows.count * copies * length
        }
        if len(possible) != 1:
            raise self._lost(port, tensor)
        return possible.pop()

    def _lost(self, port: Port, tensor: Tensor) -> AdaptError:
        return AdaptError(
            f"the port {port.name} saw a tensor of shape {tuple(tensor.shape)} in a batch of {self.rows.count} rows; "
            f"the rows cannot be assigned, so no adapter was applied"
        )


class OpenPorts:
    """The hooks on a backbone's modules; a hook exists while some adapter needs its port."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._running = threading.local()
        self._lock = threading.RLock()
        self._users: Counter[Sites] = Counter()
        self._open: Counter[tuple[Port, Act]] = Counter()
        self._handles: dict[tuple[Port, Act], RemovableHandle] = {}
        self._attention: AbstractContextManager[None] | None = None

    @contextmanager
    def routed(
        self, rows: Rows, lengths: Iterable[int], layouts: Mapping[str, Layout], copies: int = 1
    ) -> Iterator[None]:
        """Route the batches that this thread sends through the backbone to the rows' adapters.

        ``lengths`` are the possible numbers of positions of the inputs, ``layouts`` the layouts of the model's halves,
        and ``copies`` is the number of times that the model may repeat each row (its beams).
        """
        outer = getattr(self._running, "batch", None)
        self._running.batch = _Pass(rows, frozenset(lengths), layouts, copies)
        try:
            yield
        finally:
            self._running.batch = outer

    def lay_out(self, called: str, layout: Layout) -> None:
        """Set the layout of the next call of a half, in a search of this thread."""
        batch = self._batch
        if batch is not None:
            batch.layouts[called] = layout
            if called == ENCODER:
                batch.layouts[EMBEDDINGS] = layout

    def acquire(self, sites: Sites) -> None:
        """Open the ports of an adapter's sites; adapters of one assembly are counted together."""
        with self._lock:
            self._users[sites] += 1
            if self._users[sites] == 1:
                for need in sites.needs:
                    self._open[need] += 1
                    if self._open[need] == 1 and need[1] != "attend":
                        self._handles[need] = self._hook(*need)
                self._route_attention()

    def release(self, sites: Sites) -> None:
        """Close the ports that no adapter needs any more."""
        with self._lock:
            self._users[sites] -= 1
            if not self._users[sites]:
                del self._users[sites]
                for need in sites.needs:
                    self._open[need] -= 1
                    if not self._open[need]:
                        del self._open[need]
                        if need in self._handles:
                            self._handles.pop(need).remove()
                self._route_attention()

    @property
    def _batch(self) -> _Pass | None:
        return getattr(self._running, "batch", None)

    # ------------------------------------------------------------------------------------ hooks

    def _hook(self, port: Port, act: Act) -> RemovableHandle:
        module = self._backbone.module(port)

        def read(_: nn.Module, args: tuple[Any, ...]) -> None:
            batch = self._batch
            if batch is not None:
                batch.inputs[port.name] = args[0]

        def enter(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            batch = self._batch
            return None if batch is None else _entered(batch, port, args)

        def transform(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
            batch = self._batch
            return None if batch is None else _transformed(batch, port, args[0], out)

        def block(_: nn.Module, args: tuple[Any, ...], keywords: Mapping[str, Any], out: Any) -> Any:
            batch = self._batch
            return None if batch is None else _block_transformed(batch, port, _states(args, keywords), out)

        if act == "read":  # first: another method must read the input before an "enter" hook changes it
            return module.register_forward_pre_hook(read, prepend=True)
        if act == "enter":
            return module.register_forward_pre_hook(enter)
        if port.kind == "hidden":
            return module.register_forward_hook(block, with_kwargs=True)
        return module.register_forward_hook(transform)

    def _route_attention(self) -> None:
        needed = any(act == "attend" for _, act in self._open)
        if needed and self._attention is None:
            self._attention = self._backbone.open_attention(self._prepended)
            self._attention.__enter__()
        elif not needed and self._attention is not None:
            self._attention.__exit__(None, None, None)
            self._attention = None

    def _prepended(self, port: Port, rows: int) -> list[Prepended]:
        batch = self._batch
        if batch is None:
            return []
        actions = batch.rows.repeated(rows // batch.rows.count).at(port)
        return [
            action.method.prepend(action.parameters(None), batch.attention_pass(port, action, rows))
            for action in actions
        ]


def _entered(batch: _Pass, port: Port, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if not batch.rows.at(port, "input"):
        return None
    rows, x = batch.as_rows(port, args[0])
    for action in rows.at(port, "input"):
        span, forward_pass = action.span, batch.forward_pass(port, action, rows.count, x)
        if span is None:
            x = action.method.enter(action.parameters(x), x, forward_pass)
        else:
            x = joined(x, span, action.method.enter(action.parameters(x), x[span], forward_pass))
    return x.reshape(args[0].shape), *args[1:]


def _transformed(batch: _Pass, port: Port, x: Tensor, out: Tensor) -> Tensor | None:
    if not batch.rows.at(port):
        return None
    rows, result = batch.as_rows(port, out)
    port_input = tokens = None
    if port.kind == "embedding":  # its input are tokens, except in ELMo, which reads characters
        port_input, tokens = result, x.reshape(result.shape[:2]) if x.shape == out.shape[:-1] else None
    for action in rows.at(port):
        source = action.site.source
        if source is not None:
            action_input = batch.as_rows(port, batch.inputs[source.name].to(out))[1]
        else:
            action_input = port_input = batch.as_rows(port, x.to(out.dtype))[1] if port_input is None else port_input
        span, parameters = action.span, action.parameters(out)
        forward_pass = batch.forward_pass(port, action, rows.count, result, tokens)
        if span is None:
            result = action.method.transform(parameters, action_input, result, forward_pass)
        else:
            part = result[span]
            changed = action.method.transform(parameters, action_input[span], part, forward_pass)
            if changed is not part:  # otherwise the method changed its rows in place
                result = joined(result, span, changed)
    return result if result.shape == out.shape else result.reshape(out.shape)


def _block_transformed(batch: _Pass, port: Port, x: Tensor, out: Any) -> Any:
    """Change the states that leave a block; some blocks return a tuple, with the states first."""
    if isinstance(out, Tensor):
        return _transformed(batch, port, x, out)
    states = _transformed(batch, port, x, out[0])
    return None if states is None else (states, *out[1:])


def _states(args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
    """Return the states that enter a block."""
    return args[0] if args else keywords["hidden_states"]  # type: ignore[no-any-return]


def joined(whole: Tensor, span: slice, part: Tensor) -> Tensor:
    """Return a tensor with the rows of a span replaced by ``part``."""
    return torch.cat([whole[: span.start], part, whole[span.stop :]])
