"""Prefix tuning (Li and Liang 2021, arXiv:2101.00190): learned keys and values in every attention.

``softmax([q P_k' + 2 log|g|, q K']) [P_v; V]`` with P_k, P_v (heads, length, head width). The gate g
(length) starts close to zero, so an untrained prefix gets no attention (the idea of the zero-initialised attention of
LLaMA-Adapter, Zhang et al. 2023, arXiv:2303.16199, here within a single softmax). With ``gate`` off g is fixed at one,
as in the paper, where an untrained prefix is not the identity. With ``move`` the positions of a text are counted as if
the prefix were tokens before it, as with a prefix in the KV cache (the authors' code, and peft).

With ``top_left`` the prefix is masked as the first positions of a causal text: the token at position i attends to
prefix positions up to i, and to tokens up to i - length. This is the mask of PyTorch's ``is_causal`` (aligned top-left)
over keys of prefix and text; adapters of AdapterHub get it under sdpa, in texts without padding. A single token attends
to all. It acts in causal attention alone.

With ``text_gates`` keys and values are multiplied by gates that are computed from each text, as in UniPELT (Mao et al.
2022, arXiv:2110.07577). A gate reads the input of the attention's queries.
"""

from collections.abc import Hashable, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from adaptdock.adapters.interchange import prefix
from adaptdock.errors import BackboneError, UsageError
from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Port, Ports, Prepended, Site
from adaptdock.plugins.toolkit import text_gates
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubMethod, AdapterHubSource, AdapterHubTarget
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget, VirtualOptions
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights
from adaptdock.plugins.toolkit.learning_rates import Rates

QUERIES = {"attention": "query", "cross_attention": "cross_query"}
"""Role of an attention port -> the role of the linear layer of its queries."""
LEARNED = ("prefix_key", "prefix_value")
CLOSED = 1e-3  # a gate of zero would have no finite gradient


class PrefixOptions(Options):
    """Options of ``prefix``."""

    length: int = Field(16, gt=0)
    """Number of learned positions in each attention."""
    gate: bool = True
    """Learn a gate for the attention to each position, closed at the start."""
    text_gates: int = Field(0, ge=0, le=2)
    """Gates computed from each text: 1 for keys and values together, 2 for one each."""
    move: bool = False
    """Count positions as if the prefix were tokens of the text."""
    top_left: bool = False
    """Mask the prefix as the first positions of a causal text (AdapterHub under sdpa)."""
    learning_rate_factor: float = Field(10.0, gt=0)
    """Learning rate of the prefix, as a multiple of the head's: prefixes need larger steps."""
    reparameterise: bool = False
    """Train the prefix through a small network, which is not saved."""
    hidden: int = Field(64, gt=0)
    """Width of that network."""
    roles: tuple[str, ...] = ("attention",)
    """Ports of the prefix: attention, cross_attention, or all."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class Prefix(Method):
    """Learned keys and values before those of an attention; positions change only with ``move``."""

    Options = PrefixOptions
    options: PrefixOptions
    grows = {"prefix_key": 1, "prefix_value": 1, "prefix_gate": 0}
    peft_types = {"PREFIX_TUNING": VirtualOptions, "CARTRIDGE": VirtualOptions}
    adapterhub_types = {"prefix_tuning": prefix.PrefixOptions}

    @property
    def stack_key(self) -> Hashable:
        """The number of gates computed from a text, and ``top_left``."""
        return self.options.text_gates, self.options.top_left

    @property
    def positions(self) -> int:
        """The length with ``move``, else 0."""
        return self.options.length if self.options.move else 0

    @property
    def shift(self) -> int:
        """The length with ``move``, else 0: positions by which a text is shifted."""
        return self.positions

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the attention ports."""
        selected = ports.select("attention", self.options.roles, self.options.layers)
        return tuple(Site(port, _queries(ports, port) if self.options.text_gates else None) for port in selected)

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare keys, values (heads, length, head width) and gates (length)."""
        length, port = self.options.length, site.port
        declared = {
            "prefix_key": Parameter((port.heads, length, port.key_width), _normal),
            "prefix_value": Parameter((port.heads, length, port.value_width), _normal),
        }
        if self.options.gate:
            declared["prefix_gate"] = Parameter((length,), _closed)
        if site.source is not None:
            declared |= text_gates.declared(self.options.text_gates, site.source.inputs)
        return declared

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Add open gates, one, if none are learned; with ``top_left`` the length, by which the text is masked later.

        Raises :class:`UsageError` for ``top_left`` on a backbone without causal attention.
        """
        gate, length = parameters["prefix_key"].new_ones(self.options.length), self.options.length
        folded = {"prefix_gate": gate, **parameters}
        if self.options.top_left and self._causal(site.port, backbone):
            folded["lag"] = gate.new_full((1,), length, dtype=torch.float32)
        return folded

    def _causal(self, port: Port, backbone: Backbone) -> bool:
        if not backbone.causal and not backbone.encoder_decoder:
            raise UsageError("prefix with top_left: this backbone has no causal attention; leave --top-left out")
        return port.role == "attention" and (port.stack == "decoder" or not backbone.encoder_decoder)

    def prepend(self, parameters: Mapping[str, Tensor], forward_pass: ForwardPass) -> Prepended:
        """Return keys and values, with the logarithm of the squared gates as bias (minus infinity at padding)."""
        bias = 2 * parameters["prefix_gate"].float().abs().log()
        key, value = (parameters[name] for name in LEARNED)
        if self.options.text_gates:
            assert forward_pass.read is not None
            gates = text_gates.gates(parameters, forward_pass.read.to(key.dtype), forward_pass).unsqueeze(-1)
            key, value = key * gates[:, :, :1], value * gates[:, :, -1:]
        if "lag" not in parameters:
            return Prepended(key, value, bias)
        return Prepended(key, value, *_top_left(parameters["lag"], bias, forward_pass))

    def reparameterise(self, start: Mapping[str, Tensor], generator: torch.Generator) -> nn.Module | None:
        """Return a small network that computes all keys and values, as in section 4.3 of the paper.

        Without ``reparameterise``, train them with the head's learning rate times ``learning_rate_factor``.
        """
        if self.options.reparameterise:
            return _Network(start, self.options, generator)
        gates = (text_gates.WEIGHT, text_gates.BIAS)
        names = [name for name in start if not name.endswith(gates)]
        return Rates(start, dict.fromkeys(names, self.options.learning_rate_factor))

    @classmethod
    def from_peft(cls, source: PeftSource[VirtualOptions]) -> MethodWeights:
        """Read PEFT's prefix tuning."""
        return prefix.from_peft(source)

    def to_peft(self, target: PeftTarget) -> PeftAdapter:
        """Write PEFT's prefix tuning."""
        return prefix.to_peft(self.options.model_dump(), target)

    @classmethod
    def from_adapterhub(cls, source: AdapterHubSource[prefix.PrefixOptions]) -> MethodWeights:
        """Read AdapterHub's prefix tuning."""
        return prefix.from_adapterhub(source)

    def to_adapterhub(self, target: AdapterHubTarget) -> AdapterHubMethod:
        """Write AdapterHub's prefix tuning."""
        return prefix.to_adapterhub(self.options.model_dump(), target)


class _Network(nn.Module):
    def __init__(self, start: Mapping[str, Tensor], options: PrefixOptions, generator: torch.Generator) -> None:
        super().__init__()
        self.shapes = {name: tensor.shape for name, tensor in start.items() if name.endswith(LEARNED)}
        self.gate_names = [name for name in start if not name.endswith(LEARNED)]
        self.gates = nn.ParameterList([start[name].clone() for name in self.gate_names])
        total = sum(shape[0] * shape[2] for shape in self.shapes.values())
        self.table = nn.Parameter(torch.empty(options.length, options.hidden).normal_(generator=generator))
        self.down = nn.Linear(options.hidden, options.hidden)
        self.up = nn.Linear(options.hidden, total)
        with torch.no_grad():
            for linear in (self.down, self.up):
                linear.weight.normal_(std=options.hidden**-0.5, generator=generator)
                linear.bias.zero_()

    def forward(self) -> dict[str, Tensor]:
        """Return every key, value and gate in the form of the adapter file."""
        flat = self.up(torch.tanh(self.down(self.table)))  # (L, total)
        sizes = [shape[0] * shape[2] for shape in self.shapes.values()]
        folded = {
            name: part.view(shape[1], shape[0], shape[2]).transpose(0, 1)
            for (name, shape), part in zip(self.shapes.items(), flat.split(sizes, dim=1), strict=True)
        }
        return folded | dict(zip(self.gate_names, self.gates, strict=True))


def _queries(ports: Ports, port: Port) -> Port:
    """Return the linear layer of an attention's queries; raise :class:`BackboneError` if there is none."""
    queries = ports.find(QUERIES.get(port.role, ""), port)
    if queries is None:
        raise BackboneError(f"prefix with text_gates: no linear layer makes the queries of {port.name}")
    return queries


def _top_left(lag: Tensor, bias: Tensor, forward_pass: ForwardPass) -> tuple[Tensor, Tensor]:
    """Return the biases of a top-left causal mask, of the prefix (R, T, L) and of the text (R, T, T).

    ``lag`` (R, 1) is the length of each row's prefix, zero without one; ``bias`` (R, L) that of the gates.
    """
    positions = forward_pass.positions.unsqueeze(2)  # (R, T, 1), of the queries
    masked = (lag > 0) & (forward_pass.mask.sum(1, keepdim=True) > 1)  # (R, 1): a single token attends to all
    prefix = torch.arange(bias.shape[1], device=bias.device)
    ahead = masked.unsqueeze(2) & (prefix > positions)
    late = masked.unsqueeze(2) & (positions.mT > positions - lag.unsqueeze(2))
    minus_infinity = torch.tensor(-torch.inf, device=bias.device)
    zero = torch.zeros((), device=bias.device)
    return bias.unsqueeze(1) + torch.where(ahead, minus_infinity, zero), torch.where(late, minus_infinity, zero)


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=0.5, generator=generator)


def _closed(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.fill_(CLOSED)
