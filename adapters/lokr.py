"""LoKr: low-rank Kronecker product (Yeh et al. 2024, arXiv:2309.14859; Edalati et al. 2022, arXiv:2212.10650).

``out + scale * (C (x) B A) x`` with the Kronecker product of C (a, c) and B A (b, d), where outputs = a * b and
inputs = c * d, B (b, rank), A (rank, d); scale is alpha / rank. C starts at zero, the others Kaiming-uniform. If the
rank is not below half of b and d, their matrix is whole; ``decompose_both`` decomposes C in the same way. The sizes
are divided near their square roots, or by ``factor`` where that divides them. The product is never computed: with x as
a matrix X (c, d), the update is C X (B A)^T.
"""

from collections.abc import Hashable, Mapping

from pydantic import Field
from torch import Tensor, kron

from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Port, Ports, Site
from adaptdock.plugins.toolkit.batched_linear import linear
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget, whole_number
from adaptdock.plugins.toolkit.interchange.peft_products import ProductOptions, read_places, write_places
from adaptdock.plugins.toolkit.interchange.ports import port_selection
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, Named, refuse
from adaptdock.plugins.toolkit.lowrank import kaiming

OUTER, INNER = "lokr_w1", "lokr_w2"
UP, DOWN = "_a", "_b"
"""Suffixes of the factors of a decomposed matrix."""


class LoKrOptions(Options):
    """Options of ``lokr``."""

    rank: int = Field(8, gt=0)
    """Rank of the decomposed matrices."""
    alpha: float = Field(8.0, gt=0)
    """Scale of the update, before division by the rank."""
    factor: int = Field(-1, ge=-1)
    """First divisor of the sizes; -1 divides them near their square roots."""
    decompose_both: bool = False
    """Decompose the first matrix of the product too."""
    roles: tuple[str, ...] = ("query", "value")
    """Linear layers to adapt, by role; "all" for every role."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class LoKr(Method):
    """An update of each selected linear layer by the Kronecker product of two small matrices."""

    Options = LoKrOptions
    options: LoKrOptions
    peft_types = {"LOKR": ProductOptions}

    @property
    def stack_key(self) -> Hashable:
        """The divisor of the sizes, which sets the shapes of both matrices."""
        return self.options.factor

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the linear ports with these roles."""
        return tuple(Site(port) for port in ports.select("linear", self.options.roles, self.options.layers))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare both matrices, whole or as two factors; the first one starts at zero."""
        rank, (outer, inner) = self.options.rank, sizes(site.port, self.options.factor)
        declared = {}
        if self.options.decompose_both and rank < max(outer) / 2:
            declared[OUTER + UP] = Parameter((outer[0], rank))
            declared[OUTER + DOWN] = Parameter((rank, outer[1]), kaiming)
        else:
            declared[OUTER] = Parameter(outer)
        if rank < max(inner) / 2:
            declared[INNER + UP] = Parameter((inner[0], rank), kaiming)
            declared[INNER + DOWN] = Parameter((rank, inner[1]), kaiming)
        else:
            declared[INNER] = Parameter(inner, kaiming)
        return declared

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Compute both matrices, the first one with the scale."""
        scaled = _whole(parameters, OUTER) * (self.options.alpha / self.options.rank)
        return {"outer": scaled, "inner": _whole(parameters, INNER)}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the update, (R, T, c * d) -> (R, T, c, b) -> (R, T, a * b)."""
        outer, inner = parameters["outer"], parameters["inner"]
        rows, length, _ = x.shape
        narrow = linear(x.reshape(rows, -1, inner.shape[2]), inner)  # (R, T * c, b)
        turned = narrow.reshape(rows, length, outer.shape[2], -1).mT  # (R, T, b, c)
        update = linear(turned.reshape(rows, -1, outer.shape[2]), outer)  # (R, T * b, a)
        return out + update.reshape(rows, length, inner.shape[1], -1).mT.reshape(out.shape)

    def merge(self, site: Site, folded: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return W with the update, and the bias."""
        return weight + kron(folded["outer"].contiguous(), folded["inner"].contiguous()), bias

    @classmethod
    def from_peft(cls, source: PeftSource[ProductOptions]) -> MethodWeights:
        """Read PEFT's LoKr with one rank; scales that differ go into the first matrix."""
        options, placed = source.options, read_places(source, "lokr_", "LoKr")
        if len({options.rank(group.module) for group in placed.values()}) > 1:
            raise refuse("LoKr with a rank_pattern", "all layers have one rank here")
        rank = options.rank(next(iter(placed.values())).module)
        alpha = options.alpha if options.alpha > 0 else float(rank)
        values = {"rank": rank, "alpha": alpha, "decompose_both": options.decompose_both}
        values |= {"factor": options.decompose_factor} | port_selection(source.backbone.ports, [*placed])
        method = cls(LoKrOptions.model_validate(values))
        tensors: dict[str, Named] = {}
        for port, group in placed.items():
            declared = method.parameters(Site(port))
            reason = "the size of a factor here"
            factors = {name: group.taken(name, shaped.shape, reason) for name, shaped in declared.items()}
            first = OUTER if OUTER in factors else OUTER + UP
            factors[first] = factors[first].float() * (options.scale(group.module) / (alpha / rank))
            tensors[port.name] = factors
        return MethodWeights(values, tensors)

    def to_peft(self, target: PeftTarget) -> PeftAdapter:
        """Write PEFT's LoKr."""
        options = self.options
        values = {"r": options.rank, "alpha": whole_number(options.alpha), "decompose_both": options.decompose_both}
        names = (OUTER, INNER, *(matrix + part for matrix in (OUTER, INNER) for part in (UP, DOWN)))
        return write_places(
            target, "LOKR", {name: name for name in names}, values | {"decompose_factor": options.factor}
        )


def _whole(parameters: Mapping[str, Tensor], name: str) -> Tensor:
    return parameters[name] if name in parameters else parameters[name + UP] @ parameters[name + DOWN]


def sizes(port: Port, factor: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the shapes (a, c) and (b, d) of the two matrices at a port."""
    (a, b), (c, d) = divided(port.outputs, factor), divided(port.inputs, factor)
    return (a, c), (b, d)


def divided(size: int, factor: int) -> tuple[int, int]:
    """Return two divisors with the product ``size``, the smaller first, as LyCORIS chooses them.

    The first is ``factor`` if it divides the size; otherwise the largest divisor up to ``factor`` with a smaller sum.
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    smaller = 1
    for candidate in range(2, int(size**0.5) + 1):
        if size % candidate == 0 and (factor == -1 or candidate <= factor):
            smaller = candidate
    return smaller, size // smaller
