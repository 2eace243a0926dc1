"""AdapterFusion (Pfeiffer et al. 2021, arXiv:2005.00247): trained bottleneck adapters, mixed by an attention.

At each port of the members, with z_n the output of member n and h the output of the port, every position becomes
``h + V sum_n a_n z_n``, where ``a = softmax_n((Q h) . (K z_n))``. Query Q and key K (attention width, W) start
small and normal, the value V (W, W) as the identity. They and the head are trained, the members are frozen. z_n does
not include the residual h, as in the authors' code; in the softmax h is common to all members, so it changes nothing.

Stored is the difference of V from the identity, so weight decay pulls V there; the paper has a term in the loss for it.
Members with ``stream`` read the residual sum, as those of AdapterHub do: z_n is computed from ``norm(h + r)``. With
``query_reads`` the query reads the same states instead of h, and with ``query_bias`` it has a bias.

Query, key and value have W * W weights each at every site, far more than the members; a small ``attention_width``
without ``value`` has few. An untrained fusion is not the identity: it mixes its members evenly.

The forward pass needs no W * W matrix. With U the sum of the members' widths, up_n and bias_n the second layer of a
member: ``z_n = up_n u_n + bias_n``, so its score is ``u_n . (up_n^T K^T Q) h + (bias_n^T K^T Q) h``, and no tensor
is larger than (R, T, U), for any number of members. The file holds the members' weights, side by side.
"""

from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from adaptdock.adapters.bottleneck import frozen_norm, frozen_norm_of
from adaptdock.adapters.interchange import fusion
from adaptdock.errors import UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import (
    Backbone,
    Composite,
    ForwardPass,
    Method,
    Options,
    Parameter,
    Ports,
    Site,
    Trained,
)
from adaptdock.plugins.toolkit.activations import ACTIVATIONS
from adaptdock.plugins.toolkit.batched_linear import linear
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubSource
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights

MEMBER = "bottleneck"
ALIKE = ("activation", "parallel", "stream", "placement", "roles", "onto")
"""Options that must be equal in all members."""
UNMIXED = ("norm_before", "norm_after", "text_gate", "behind")
"""Options of members that fusion does not compute."""
STD = 0.02  # of BERT's own weights, as in the authors' code


class FusionOptions(Options):
    """Options of ``fusion``."""

    members: tuple[Path, ...] = ()
    """Files of the trained bottleneck adapters to fuse, two or more."""
    attention_width: int = Field(0, ge=0)
    """Width of query and key; 0 is the width of the backbone, as in the paper."""
    value: bool = True
    """Learn a value layer on the members' outputs, as in the paper."""
    query_reads: bool = False
    """Query the attention with the states that the members read, instead of the output of the port."""
    query_bias: bool = False
    """Learn a bias of the query."""
    adopted: dict[str, dict[str, Any]] = {}
    """In a card: the options of each member, by its name."""

    @field_validator("members")
    @classmethod
    def _in_any_folder(cls, members: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(path.expanduser().absolute() for path in members)


class Fusion(Composite):
    """Trained bottleneck adapters at the same ports, mixed at each position."""

    Options = FusionOptions
    options: FusionOptions
    grows = {"down": 0, "down_bias": 0, "score": 0, "score_shift": 0, "up": 1, "member": 1}
    adapterhub_fusion = fusion.FusionOptions

    def __init__(self, options: FusionOptions, weights: Sequence[Mapping[str, Tensor]] = ()) -> None:
        super().__init__(options)
        self._weights = weights
        _check_number([*options.members, *options.adopted])
        self._members = [_member(name, member_options) for name, member_options in options.adopted.items()]
        _check_alike(options.adopted, self._members)

    @property
    def stack_key(self) -> Hashable:
        """The members' activation and input, which cannot differ within one operation."""
        shared = tuple(getattr(member.options, name) for member in self._members[:1] for name in ALIKE[:3])
        return *shared, self.options.query_reads, self.options.query_bias

    @property
    def wants(self) -> tuple[Path, ...]:
        """The files of the members to fuse."""
        return self.options.members

    def adopt(self, members: Mapping[Path, Trained]) -> Self:
        """Return the fusion of these adapters; its card lists their names and options."""
        adopted: dict[str, dict[str, Any]] = {}
        for path, member in members.items():
            names = [name for name, _ in member.methods]
            if names != [MEMBER]:
                raise UsageError(
                    f"{path}: the adapter {member.name!r} is made of {' and '.join(names)}; fusion is made of adapters "
                    f"of the method {MEMBER} alone. Train it with that, or leave it out."
                )
            adopted[_free_name(member.name, adopted)] = dict(member.methods[0][1])
        options = self.options.model_copy(update={"members": (), "adopted": adopted})
        return type(self)(options, [member.tensors for member in members.values()])

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the sites of the members."""
        if not self._members:
            raise UsageError("fusion: its members have not been read yet; planning a training reads them")
        members = zip(self.options.adopted, self._members, strict=True)
        sites_by_name = {name: member.sites(ports) for name, member in members}
        for (name, sites), (next_name, next_sites) in pairwise(sites_by_name.items()):
            if sites != next_sites:
                raise UsageError(
                    f"fusion: the members {name!r} and {next_name!r} act at different ports (layers "
                    f"{self._layers(name)} and {self._layers(next_name)}). Train them for the same, or leave one out."
                )
        return next(iter(sites_by_name.values()))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare the members' weights side by side, U wide together, and query, key and value of the attention."""
        width = site.port.outputs
        narrow = self.options.attention_width or width
        units, count = sum(self._widths(site)), len(self._members)
        inputs = self._members[0].parameters(site)["down"].shape[1]
        declared = {
            "down": self._frozen(site, "down", (units, inputs)),
            "down_bias": self._frozen(site, "down_bias", (units,)),
            "up": self._frozen(site, "up", (width, units), dimension=1),
            "up_bias": self._frozen(site, "up_bias", (count, width)),
            "query": Parameter((narrow, width), _normal),
            "key": Parameter((narrow, width), _normal),
        }
        if self.options.query_bias:
            declared["query_bias"] = Parameter((narrow,))
        return declared | ({"value_change": Parameter((width, width))} if self.options.value else {})

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Fold scales and value into the members' second layers, and query and key into the weights of the scores."""
        weights = {name: tensor.float() for name, tensor in parameters.items()}
        device = weights["up"].device
        widths = torch.tensor(self._widths(site), device=device)
        owner = torch.arange(len(widths), device=device).repeat_interleave(widths)
        scale = torch.tensor([member.options.scale for member in self._members], device=device)
        up, bias = weights["up"] * scale[owner], weights["up_bias"].mT * scale  # (W, U), (W, M)
        folded = {
            "down": weights["down"],
            "down_bias": weights["down_bias"],
            "score": (weights["key"] @ up).mT @ weights["query"],  # (U, W)
            "score_bias": (weights["key"] @ bias).mT @ weights["query"],  # (M, W)
            "up": up + weights["value_change"] @ up if self.options.value else up,
            "up_bias": bias + weights["value_change"] @ bias if self.options.value else bias,
            "member": functional.one_hot(owner, len(widths)).mT,  # (M, U)
        }
        if self.options.query_bias:
            folded["score_shift"] = (weights["key"] @ up).mT @ weights["query_bias"]  # (U)
            folded["score_bias_shift"] = (weights["key"] @ bias).mT @ weights["query_bias"]  # (M)
        folded = {name: tensor.to(parameters["up"]) for name, tensor in folded.items()}
        if self._members[0].options.stream:
            folded |= frozen_norm_of(site.port, backbone, parameters["up"])
        return folded

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the members' weighted outputs: (R, T, W) -> units (R, T, U), shares (R, T, M) -> (R, T, W)."""
        options = self._members[0].options
        read = x if options.parallel else frozen_norm(parameters, out + x) if options.stream else out
        query = read if self.options.query_reads else out
        units = ACTIVATIONS[options.activation](linear(read, parameters["down"], parameters["down_bias"]))
        scores = linear(query, parameters["score_bias"], parameters.get("score_bias_shift"))
        weighted = units * linear(query, parameters["score"], parameters.get("score_shift"))
        scores = linear(weighted, parameters["member"], onto=scores)
        shares = functional.softmax(scores, dim=-1, dtype=torch.float32).to(out.dtype)
        mixed = units * linear(shares, parameters["member"].mT)
        return linear(shares, parameters["up_bias"], onto=linear(mixed, parameters["up"], onto=out))

    @classmethod
    def fuse_adapterhub(
        cls, members: Mapping[str, tuple[str, MethodWeights]], source: AdapterHubSource[fusion.FusionOptions]
    ) -> MethodWeights:
        """Read AdapterHub's fusion layers over bottlenecks; raise :class:`UsageError` for members that differ."""
        bottlenecks = {name: fusion.member(MEMBER, name, *of) for name, of in members.items()}
        weights = fusion.from_adapterhub(bottlenecks, source)
        cls(cls.Options.model_validate(weights.options))  # checks that the members go together
        return weights

    def _widths(self, site: Site) -> list[int]:
        return [member.parameters(site)["down"].shape[0] for member in self._members]

    def _layers(self, name: str) -> str:
        return self.options.adopted[name].get("layers") or "all"

    def _frozen(self, site: Site, name: str, shape: tuple[int, ...], dimension: int = 0) -> Parameter:
        """Declare a frozen tensor that starts as the members' tensors side by side."""
        full = f"{site.port.name}.{name}"
        if not self._weights:
            return Parameter(shape, trained=False)
        if not all(full in weights for weights in self._weights):
            raise UsageError(
                f"fusion: the new task reads the backbone behind the port {site.port.name}, which the members were not "
                f"trained for. Fuse adapters of tasks that read the same half of the backbone."
            )

        def start(tensor: Tensor, generator: torch.Generator) -> None:
            parts = [weights[full].float() for weights in self._weights]
            tensor.copy_(torch.cat(parts, dimension) if name != "up_bias" else torch.stack(parts))

        return Parameter(shape, start, trained=False)


def _member(name: str, options: Mapping[str, Any]) -> Any:
    """Return the method of a member, with its options."""
    plugin: type[Method] = registry.load("method", MEMBER)
    try:
        return plugin(plugin.Options.model_validate(dict(options)))
    except ValueError as error:
        raise UsageError(f"fusion: the options of the member {name!r} are not valid: {error}") from None


def _check_number(members: Sequence[Any]) -> None:
    if len(members) < 2:
        raise UsageError(
            f"fusion mixes two or more trained adapters of the method {MEMBER}, here there "
            f"{'is one' if members else 'are none'}. Name their files: --members a.safetensors,b.safetensors"
        )
    twice = next((member for number, member in enumerate(members) if member in members[:number]), None)
    if twice is not None:
        raise UsageError(f"fusion: {twice} is named twice among the members; name each once")


def _check_alike(names: Mapping[str, Any], members: Sequence[Any]) -> None:
    for name, member in zip(names, members, strict=True):
        options = member.options
        if options.onto != "output" or (options.stream and options.parallel):
            raise UsageError(
                f"fusion: the member {name!r} reads or changes the residual stream, which fusion does not; leave it out"
            )
        unmixed = next((option for option in UNMIXED if getattr(options, option)), None)
        if unmixed is not None:
            raise UsageError(f"fusion: the member {name!r} has {unmixed}, which fusion does not compute; leave it out")
    for (left_name, left), (right_name, right) in pairwise(zip(names, members, strict=True)):
        for option in ALIKE:
            left_value, right_value = getattr(left.options, option), getattr(right.options, option)
            if left_value != right_value:
                raise UsageError(
                    f"fusion: the members {left_name!r} and {right_name!r} cannot be computed together: {option} is "
                    f"{left_value!r} in one, {right_value!r} in the other. Train them with the same, or leave one out."
                )


def _free_name(name: str, names: Mapping[str, Any]) -> str:
    """Return a free name for a member: two adapters may have the same name."""
    number = 2
    free = name
    while free in names:
        free, number = f"{name} ({number})", number + 1
    return free


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=STD, generator=generator)
