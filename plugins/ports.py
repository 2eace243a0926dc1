"""Ports: the places on a backbone where an adapter can act, and their selection by kind, role and layer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adaptdock.errors import BackboneError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

PortKind = Literal["linear", "attention", "embedding", "norm", "hidden", "layers", "logits"]


@dataclass(frozen=True)
class Port:
    """A place on the backbone where an adapter can act.

    ``name`` is stable and unique (``layers.3.query``, ``decoder.layers.0.cross_attention``); it
    names the tensors in an adapter file. ``inputs`` and ``outputs`` are the widths before and after. For embeddings,
    ``inputs`` is the size of the vocabulary, or zero if they do not read tokens. An attention port has ``heads``
    key/value heads of ``key_width`` and ``value_width``. The port of the kind ``layers`` is between the backbone and
    the heads; its ``layer`` is the number of layers. The port of the kind ``logits`` is the LM head of a language
    model, outside its body: ``outputs`` is the size of the vocabulary.
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
    """The residual connection of a block.

    The residual stream is the input of ``port``; ``norm`` is the path of the layer norm directly after the sum, if any.
    """

    port: Port
    norm: str | None = None


@dataclass(frozen=True)
class Prepended:
    """Keys and values before those of an attention call.

    ``key`` and ``value`` (R, H, L, D); ``bias`` (R, L), or (R, T, L) by query, is added to the attention scores, minus
    infinity where a row has no prefix. ``text_bias`` (R, T, T), if any, is added to the scores of the keys behind; an
    attention call with a cache of more keys is refused.
    """

    key: "Tensor"
    value: "Tensor"
    bias: "Tensor"
    text_bias: "Tensor | None" = None


@dataclass(frozen=True)
class Virtual:
    """Virtual embeddings before the input embeddings of a row.

    ``embeddings`` (R, L, W); ``mask`` (R, L) is one at embeddings, zero at padding.
    """

    embeddings: "Tensor"
    mask: "Tensor"


class Ports(Sequence[Port]):
    """The open ports of a backbone, with functions to select among them."""

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
        self.closed = dict(closed or {})  # port kind -> the reason why this backbone has no such port

    def __len__(self) -> int:
        return len(self._ports)

    def __getitem__(self, index: Any) -> Any:
        return self._ports[index]

    def roles(self, kind: PortKind) -> list[str]:
        """Return the roles of the ports of a kind, in order of occurrence."""
        return list(dict.fromkeys(port.role for port in self._ports if port.kind == kind))

    def within(self, stack: str) -> "Ports":
        """Return the ports before the states that a head reads: the encoder's, or all for the decoder."""
        readable = [port for port in self._ports if stack == "decoder" or port.stack != "decoder"]
        return Ports(readable, self.architecture, self.closed, self._residuals)

    def select(self, kind: PortKind, roles: Sequence[str], layers: str | None = None) -> tuple[Port, ...]:
        """Return the ports of one kind with these roles, in these layers (``"3-5"``, ``"0,2"``).

        The role ``all`` means every role, and the name of a port means that port alone, in any layer. If a backbone
        fuses query, key and value (or gate and up) into one linear layer, its port is returned for any of its parts.

        Raises :class:`BackboneError` if the backbone has no port of the kind, and
        :class:`UnknownNameError` / :class:`UsageError` for an unknown role or layer.
        """
        candidates = [port for port in self._ports if port.kind == kind]
        if not candidates:
            reason = self.closed.get(kind, f"no {kind} port was found in it")
            raise BackboneError(f"the backbone architecture {self.architecture!r} has no {kind} port: {reason}")
        present, port_names = self.roles(kind), {port.name for port in candidates}.intersection(roles)
        resolved = {self._resolve(kind, role, present) for role in roles if role not in port_names and role != "all"}
        allowed = set(present) if "all" in roles else resolved
        numbers = parse_layers(layers, {port.layer for port in candidates})
        selected = tuple(
            port for port in candidates if port.name in port_names or (port.role in allowed and port.layer in numbers)
        )
        if not selected:
            raise UsageError(f"there is no {kind} port with the roles {sorted(allowed)} in layers {layers!r}")
        return selected

    def _resolve(self, kind: PortKind, role: str, present: Sequence[str]) -> str:
        if role in present:
            return role
        if self.FUSED.get(role) in present:
            return self.FUSED[role]
        reason = f"Not open: {self.closed[kind]}." if kind in self.closed else ""
        raise UnknownNameError(f"{kind} role", role, ["all", *present], reason)

    def residual(self, port: Port) -> Residual:
        """Return the residual connection of the block that ends at a linear port.

        Raises :class:`BackboneError` if it is not known.
        """
        residual = self._residuals(port) if self._residuals is not None else None
        if residual is None:
            raise BackboneError(
                f"in the backbone architecture {self.architecture!r} the residual connection of {port.name} is not "
                f"known, so an adapter cannot read its sum"
            )
        return residual

    def find(self, role: str, near: Port) -> Port | None:
        """Return the port with this role in the layer of ``near``, fused ports included, or None.

        If a layer has several (with more than one feed-forward block), the port with the longest common module path
        is returned.
        """
        for name in (role, self.FUSED.get(role)):
            matches = [
                port for port in self._ports if (port.role, port.layer, port.stack) == (name, near.layer, near.stack)
            ]
            if matches:
                return max(matches, key=lambda port: _shared_path(port.module, near.module))
        return None


def _shared_path(path: str, second_path: str) -> int:
    pairs = zip(path.split("."), second_path.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def parse_layers(text: str | None, available: set[int]) -> set[int]:
    """Return the layer numbers of ``"3-5"``, ``"0,2"`` or ``"-1"`` (the last); of None, all ``available`` layers.

    Raises :class:`UsageError` for an unknown layer.
    """
    if text is None:
        return available
    numbers: set[int] = set()
    for part in str(text).split(","):
        first, dash, last = part.strip().partition("-")
        try:
            if not first and dash:
                numbers.add(max(available) + 1 - int(last))
            else:
                numbers.update(range(int(first), int(last if dash else first) + 1))
        except ValueError:
            raise UsageError(f"layers {text!r}: write numbers and ranges, such as 3-5 or 0,2,4") from None
    if not numbers or not numbers <= available:
        wrong = sorted(numbers - available)
        raise UsageError(f"layers {text!r}: no layer {wrong}; this backbone has {min(available)} to {max(available)}")
    return numbers
