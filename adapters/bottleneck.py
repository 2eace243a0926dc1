"""Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2021, arXiv:2005.00247).

``out + scale * (up f(down h))``: down (width / reduction factor, inputs), up starts at zero.
Houlsby placement acts after attention and after the feed-forward block, Pfeiffer placement after
the feed-forward block only; both before the residual sum. Sequential adapters read the block's
output, parallel adapters (He et al. 2022, arXiv:2110.04366) the block's input. In a recurrent backbone, which has no
such blocks, they act after each layer, whatever the placement.

With ``stream`` they read the residual stream r. Sequential adapters read the sum: ``norm(out + r)`` if a layer norm
follows it in the backbone (BERT), else ``out + r``. Parallel adapters read r itself. AdapterHub computes the adapters
of Pfeiffer et al. and of He et al. in this way (Poth et al. 2023, arXiv:2311.11077). ``onto`` is from there too: the
tensor that the adapter's output is added to, in place of ``out``. ``norm_before`` and ``norm_after`` give the adapter
learned layer norms of its own, before the first linear layer and after the second, as in AdapterHub; with ``norm_sum``
the second one takes the sum, ``norm(out + update)``, so an untrained adapter is not the identity.

With ``behind`` the adapter reads and changes the output of the layer norm after the residual sum (Adapter+, Steitz and
Roth 2024, arXiv:2406.06820, in AdapterHub). With ``text_gate`` its output is weighed by a gate for each text (UniPELT,
Mao et al. 2022, arXiv:2110.07577).
"""

from collections.abc import Hashable, Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from adaptdock.adapters.interchange import bottleneck
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Port, Ports, Site
from adaptdock.plugins.toolkit import text_gates
from adaptdock.plugins.toolkit.activations import ACTIVATIONS, Activation
from adaptdock.plugins.toolkit.batched_linear import layer_norm, linear
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubMethod, AdapterHubSource, AdapterHubTarget
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights

ENDS = {"pfeiffer": ("ffn_down",), "houlsby": ("attention_output", "ffn_down")}

EPSILON = 1e-5
"""The epsilon of the learned layer norms, torch's default."""
RECURRENT, BLOCK = "recurrent", "block"
"""A role that only recurrent layers have, and the role of the port at the output of a whole layer."""


class BottleneckOptions(Options):
    """Options of ``bottleneck``."""

    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    """houlsby: after attention and feed-forward; pfeiffer: after feed-forward only."""
    roles: tuple[str, ...] = ()
    """Linear layers to act after, by role, in place of a placement."""
    parallel: bool = False
    """Read the block's input instead of its output."""
    stream: bool = False
    """Read the residual sum of the block; if parallel, the residual stream alone."""
    onto: Literal["output", "sum", "norm"] = "output"
    """Target of the addition: the output, its sum with the residual stream, or the norm of that sum."""
    behind: bool = False
    """Act behind the layer norm that follows the residual sum, not before the sum."""
    text_gate: bool = False
    """Weigh the adapter's output by a gate that is computed from each text."""
    reduction_factor: float = Field(16.0, ge=1)
    """Width of the backbone divided by the width of the bottleneck."""
    width: int | None = Field(None, gt=0)
    """Width of the bottleneck, in place of a reduction factor."""
    norm_before: bool = False
    """Learn a layer norm before the first linear layer."""
    norm_after: bool = False
    """Learn a layer norm after the second linear layer."""
    norm_sum: bool = False
    """Apply the second norm to the sum of the target and the adapter's output."""
    activation: Activation = "relu"
    """Activation function between the two linear layers."""
    scale: float = Field(1.0, gt=0)
    """Factor on the adapter's output."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate of the inputs during training."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""

    @model_validator(mode="after")
    def _onto_what_is_read(self) -> Self:
        if self.behind and (self.parallel or self.stream or self.onto == "norm"):
            raise ValueError("behind the norm, an adapter reads the norm: leave parallel, stream and onto norm out")
        if self.onto != "output" and (self.parallel or not self.stream) and not self.behind:
            raise ValueError("onto is for adapters that read the sum: give stream, and leave parallel out")
        if self.norm_sum and (self.parallel or not self.norm_after):
            raise ValueError("norm_sum is for sequential adapters with a second norm: give norm_after")
        return self


class Bottleneck(Method):
    """A small two-layer network after (or beside) the blocks of the backbone."""

    Options = BottleneckOptions
    options: BottleneckOptions
    grows = {"down": 0, "down_bias": 0, "up": 1}
    adapterhub_types = {None: bottleneck.BottleneckOptions}

    @property
    def stack_key(self) -> Hashable:
        """The activation, the input, the norms and the target of the addition, which are those of one operation."""
        options = self.options
        norms = options.norm_before, options.norm_after, options.norm_sum
        places = options.parallel, options.stream, options.behind, options.onto
        return options.activation, options.text_gate, *places, *norms

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the last linear layers of attention and feed-forward blocks, or at recurrent layers."""
        if RECURRENT in ports.roles("linear"):
            return tuple(Site(port) for port in ports.select("hidden", (BLOCK,), self.options.layers))
        roles = self.options.roles or ENDS[self.options.placement]
        ends = ports.select("linear", roles, self.options.layers)
        if self.options.behind:
            return tuple(Site(bottleneck.norm_behind(ports, port)) for port in ends)
        return tuple(Site(port, self._source(ports, port)) for port in ends)

    def _source(self, ports: Ports, port: Port) -> Port | None:
        if self.options.stream:
            return ports.residual(port).port
        return _block_start(ports, port) if self.options.parallel else None

    def widths(self, site: Site) -> tuple[int, int]:
        """Return the widths of the states that the bottleneck reads and adds to."""
        outputs, beside = site.port.outputs, self.options.parallel and not self.options.stream
        return (site.source or site.port).inputs if beside else outputs, outputs

    def inner_width(self, site: Site) -> int:
        """Return the width of the bottleneck."""
        return self.options.width or max(1, int(site.port.outputs / self.options.reduction_factor))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare two linear layers with biases; the second starts at zero."""
        (inputs, outputs), width = self.widths(site), self.inner_width(site)
        return {
            "down": Parameter((width, inputs), _normal),
            "down_bias": Parameter((width,)),
            "up": Parameter((outputs, width)),
            "up_bias": Parameter((outputs,)),
            **self.beside_layers(site),
        }

    def beside_layers(self, site: Site) -> dict[str, Parameter]:
        """Declare the gate of the options, and their layer norms with factor one and bias zero at the start."""
        inputs, outputs = self.widths(site)
        gates = text_gates.declared(1, inputs) if self.options.text_gate else {}
        places = {
            "before": inputs if self.options.norm_before else 0,
            "after": outputs if self.options.norm_after else 0,
        }
        return gates | {
            f"{place}_{part}": Parameter((width,), start)
            for place, width in places.items()
            if width
            for part, start in (("weight", _ones), ("bias", None))
        }

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Fold the scale into the second layer; add the frozen layer norm, and ``moves`` for a moved target."""
        options, like = self.options, parameters["up_bias"]
        folded = {**parameters, **{name: parameters[name] * options.scale for name in ("up", "up_bias")}}
        if options.onto != "output" or options.norm_sum:
            folded["moves"] = like.new_ones(1)  # zero, by padding, in rows without an adapter
        if self._sums:
            norm = frozen_norm_of(site.port, backbone, like)
            if options.onto == "norm" and not norm:
                raise BackboneError(f"onto norm: in {backbone.architecture!r} no layer norm follows {site.port.name}")
            folded |= norm
        return folded

    @property
    def _sums(self) -> bool:
        return self.options.stream and not self.options.parallel

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the bottleneck's output, (R, T, W) -> (R, T, W / reduction) -> (R, T, W)."""
        options, read = self.options, x if self.options.parallel else out
        if self._sums:
            added = out + x
            read = normed = frozen_norm(parameters, added)
        gate = text_gates.gates(parameters, read, forward_pass) if options.text_gate else None
        if forward_pass.training and options.dropout:
            read = functional.dropout(read, options.dropout)
        if options.norm_before:
            read = _own_norm(parameters, "before", read)
        inner = ACTIVATIONS[options.activation](linear(read, parameters["down"], parameters["down_bias"]))
        if options.onto != "output":
            target = x if options.behind else added if options.onto == "sum" else normed
            out = _moved(parameters, out, target)
        if gate is None and not options.norm_after:
            return linear(inner, parameters["up"], parameters["up_bias"], onto=out)
        update = linear(inner, parameters["up"], parameters["up_bias"])
        update = update if gate is None else update * gate
        if options.norm_sum:
            return _moved(parameters, out, _own_norm(parameters, "after", out + update))
        return out + (_own_norm(parameters, "after", update) if options.norm_after else update)

    @classmethod
    def from_adapterhub(cls, source: AdapterHubSource[bottleneck.BottleneckOptions]) -> MethodWeights | None:
        """Read AdapterHub's bottlenecks of two linear layers."""
        return None if source.options.phm_layer else bottleneck.from_adapterhub(source)

    def to_adapterhub(self, target: AdapterHubTarget) -> AdapterHubMethod:
        """Write AdapterHub's bottlenecks."""
        return bottleneck.to_adapterhub(self.options.model_dump(), target)


def _moved(parameters: Mapping[str, Tensor], out: Tensor, target: Tensor) -> Tensor:
    """Return the target in rows with an adapter, and ``out`` in all others."""
    return torch.lerp(out, target, parameters["moves"].unsqueeze(-1).to(out.dtype))


def frozen_norm_of(port: Port, backbone: Backbone, like: Tensor) -> dict[str, Tensor]:
    """Return the frozen layer norm after the residual sum of the block that ends at a port; empty if none follows."""
    norm = backbone.ports.residual(port).norm
    if norm is None:
        return {}
    weight, bias, epsilon = backbone.norm(norm)
    size = like.new_full((1,), epsilon, dtype=torch.float32)
    return {"norm_weight": weight.to(like), "norm_bias": bias.to(like), "norm_epsilon": size}


def frozen_norm(parameters: Mapping[str, Tensor], added: Tensor) -> Tensor:
    """Return the frozen layer norm of a sum, or the sum if no norm follows it."""
    if "norm_weight" not in parameters:
        return added
    return layer_norm(added, *(parameters[f"norm_{part}"] for part in ("weight", "bias", "epsilon")))


def _own_norm(parameters: Mapping[str, Tensor], place: str, x: Tensor) -> Tensor:
    epsilon = torch.full((1, 1), EPSILON, device=x.device)
    return layer_norm(x, parameters[f"{place}_weight"], parameters[f"{place}_bias"], epsilon).to(x.dtype)


def _block_start(ports: Ports, port: Port) -> Port:
    role = "query" if port.role == "attention_output" else "ffn_up"
    start = ports.find(role, port)
    if start is None:
        raise BackboneError(f"parallel bottleneck: no {role} port precedes {port.name} in this backbone")
    return start


def _ones(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.fill_(1.0)


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=0.02, generator=generator)
