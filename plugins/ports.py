"""Ports: the places on a backbone where an adapter can act, and how a method chooses among them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adaptdock.errors import BackboneError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

PortKind = Literal["linear", "attention", "embedding", "norm", "hidden", "layers"]


@dataclass(frozen=True)
class Port:
    """A place on the backbone where an adapter can act.

    ``name`` is stable and unique (``layers.3.query``, ``decoder.layers.0.cross_attention``); it
    names the tensors in an adapter file. ``inputs`` and ``outputs`` are the widths before and after; of embeddings
    ``inputs`` is the number of words, zero where they read something else than tokens. An attention port has ``heads``
    key/value heads of ``key_width`` and ``value_width``. The port of the kind ``layers`` lies between the backbone and
    the heads; ``layer`` is the number of layers beneath it.
    """

    name: str
    kind: PortKind
    role: str
    layer: int
    stack: str
    module: str
    inputs: int = 0
    outputs: int = 0
    heads: int = 0
    key_width: int = 0
    value_width: int = 0


@dataclass(frozen=True)
class Residual:
    """What the output of a block is added to.

    It comes in at ``port``; ``norm`` is the path of the layer norm that the sum goes through at once, if it does.
    """

    port: Port
    norm: str | None = None


@dataclass(frozen=True)
class Prepended:
    """Keys and values put in front of an attention call's own.

    ``key`` and ``value`` (R, H, L, D); ``bias`` (R, L) is added to the attention scores, minus
    infinity where a row has nothing to see.
    """

    key: "Tensor"
    value: "Tensor"
    bias: "Tensor"


@dataclass(frozen=True)
class Virtual:
    """Input embeddings put in front of a row's own.

    ``embeddings`` (R, L, W); ``mask`` (R, L) is one where there is something, zero where a row has nothing.
    """

    embeddings: "Tensor"
    mask: "Tensor"


class Ports(Sequence[Port]):
    """The open ports of a backbone, and how a method chooses among them."""

    FUSED: ClassVar[Mapping[str, str]] = {
        "query": "qkv",
        "key": "qkv",
        "value": "qkv",
        "ffn_up": "ffn_gate_up",
        "ffn_gate": "ffn_gate_up",
    }

    def __init__(
        self,
        ports: Iterable[Port],
        architecture: str,
        closed: Mapping[str, str] | None = None,
        residuals: "Callable[[Port], Residual | None] | None" = None,
    ) -> None:
        self._ports = tuple(ports)
        self._residuals = residuals
        self.architecture = architecture
        self.closed = dict(closed or {})  # port kind -> why this backbone has none of it

    def __len__(self) -> int:
        return len(self._ports)

    def __getitem__(self, index: Any) -> Any:
        return self._ports[index]

    def roles(self, kind: PortKind) -> list[str]:
        """Return the roles that ports of this kind have, in the order they occur."""
        return list(dict.fromkeys(port.role for port in self._ports if port.kind == kind))

    def within(self, stack: str) -> "Ports":
        """Return the ports that lie before what a head reads: the encoder's alone, or all there are."""
        kept = [port for port in self._ports if stack == "decoder" or port.stack != "decoder"]
        return Ports(kept, self.architecture, self.closed, self._residuals)

    def select(self, kind: PortKind, roles: Sequence[str], layers: str | None = None) -> tuple[Port, ...]:
        """Return the ports of one kind with these roles, in these layers (``"3-5"``, ``"0,2"``).

        The role ``all`` stands for every role there is, and the name of a port for that port alone, whatever
        the layers. A backbone that fuses query, key and value (or gate and up) into one map gives that map's
        port for any of its parts.

        Raises :class:`BackboneError` where the backbone has no such port, and
        :class:`UnknownNameError` / :class:`UsageError` for a role or layer it does not have.
        """
        there = [port for port in self._ports if port.kind == kind]
        if not there:
            reason = self.closed.get(kind, f"no {kind} port was found in it")
            raise BackboneError(f"the backbone architecture {self.architecture!r} has no {kind} port: {reason}")
        present, named = self.roles(kind), {port.name for port in there}.intersection(roles)
        wanted = {self._resolve(kind, role, present) for role in roles if role not in named and role != "all"}
        wanted = set(present) if "all" in roles else wanted
        numbers = parse_layers(layers, {port.layer for port in there})
        chosen = tuple(port for port in there if port.name in named or (port.role in wanted and port.layer in numbers))
        if not chosen:
            raise UsageError(f"no {kind} port with the roles {sorted(wanted)} lies in layers {layers!r}")
        return chosen

    def _resolve(self, kind: PortKind, role: str, present: Sequence[str]) -> str:
        if role in present:
            return role
        if self.FUSED.get(role) in present:
            return self.FUSED[role]
        reason = f"Not open: {self.closed[kind]}." if kind in self.closed else ""
        raise UnknownNameError(f"{kind} role", role, ["all", *present], reason)

    def residual(self, port: Port) -> Residual:
        """Return what the output of the block that ends at a linear port is added to.

        Raises :class:`BackboneError` where that is not known.
        """
        found = self._residuals(port) if self._residuals is not None else None
        if found is None:
            raise BackboneError(
                f"in the backbone architecture {self.architecture!r} it cannot be told what the output of {port.name} "
                f"is added to, so nothing can read that sum"
            )
        return found

    def find(self, role: str, near: Port) -> Port | None:
        """Return the port with this role in the layer of another port, fused ones included, or None.

        Where a layer has several (some have more than one feed-forward block), it is the one that
        shares most of its module path with the other port.
        """
        for name in (role, self.FUSED.get(role)):
            found = [
                port for port in self._ports if (port.role, port.layer, port.stack) == (name, near.layer, near.stack)
            ]
            if found:
                return max(found, key=lambda port: _shared_path(port.module, near.module))
        return None


def _shared_path(one: str, other: str) -> int:
    pairs = zip(one.split("."), other.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def parse_layers(text: str | None, there: set[int]) -> set[int]:
    """Turn ``"3-5"``, ``"0,2"`` or ``"-1"`` (the last) into layer numbers; None means all of them.

    Raises :class:`UsageError` for a layer the backbone does not have.
    """
    if text is None:
        return there
    numbers: set[int] = set()
    for part in str(text).split(","):
        first, dash, last = part.strip().partition("-")
        try:
            if not first and dash:
                numbers.add(max(there) + 1 - int(last))
            else:
                numbers.update(range(int(first), int(last if dash else first) + 1))
        except ValueError:
            raise UsageError(f"layers {text!r}: write numbers and ranges, such as 3-5 or 0,2,4") from None
    if not numbers or not numbers <= there:
        wrong = sorted(numbers - there)
        raise UsageError(f"layers {text!r}: no layer {wrong}; this backbone has {min(there)} to {max(there)}")
    return numbers
