"""LoHa: low-rank Hadamard product (Hyeon-Woo et al. 2022, arXiv:2108.06098).

``out + scale * ((B1 A1) * (B2 A2)) x`` with B1, B2 (outputs, rank), A1, A2 (rank, inputs), and the elementwise product
of two low-rank matrices, which has a rank up to rank^2; scale is alpha / rank. A2 starts at zero, the others
Kaiming-uniform. The forward pass uses the factors of the product, of rank rank^2: each product of a column of B1 and
one of B2, and of a row of A1 and one of A2.
"""

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.batched_linear import linear
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget, whole_number
from adaptdock.plugins.toolkit.interchange.peft_products import ProductOptions, read_places, write_places
from adaptdock.plugins.toolkit.interchange.ports import port_selection
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, Named, contradiction
from adaptdock.plugins.toolkit.lowrank import kaiming

PARTS = {"loha_b1": "hada_w1_a", "loha_a1": "hada_w1_b", "loha_b2": "hada_w2_a", "loha_a2": "hada_w2_b"}
"""Our names of the factors -> PEFT's."""
ELSEWHERE = "with another size it was trained on another backbone"


class LoHaOptions(Options):
    """Options of ``loha``."""

    rank: int = Field(4, gt=0)
    """Rank of both factors; the update has a rank up to its square."""
    alpha: float = Field(4.0, gt=0)
    """Scale of the update, before division by the rank."""
    roles: tuple[str, ...] = ("query", "value")
    """Linear layers to adapt, by role; "all" for every role."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class LoHa(Method):
    """An update of each selected linear layer by the elementwise product of two low-rank matrices."""

    Options = LoHaOptions
    options: LoHaOptions
    grows = {"up": 1, "down": 0}
    peft_types = {"LOHA": ProductOptions}

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the linear ports with these roles."""
        return tuple(Site(port) for port in ports.select("linear", self.options.roles, self.options.layers))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare B1, B2 (outputs, rank) and A1, A2 (rank, inputs); A2 starts at zero, the others Kaiming-uniform."""
        rank, port = self.options.rank, site.port
        up, down = (port.outputs, rank), (rank, port.inputs)
        return {
            "loha_b1": Parameter(up, kaiming),
            "loha_a1": Parameter(down, kaiming),
            "loha_b2": Parameter(up, kaiming),
            "loha_a2": Parameter(down),
        }

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Compute the factors (outputs, rank^2) and (rank^2, inputs) of the product, with the scale."""
        b1, a1, b2, a2 = (parameters[name] for name in PARTS)
        factor = self.options.alpha / self.options.rank
        return {
            "up": factor * (b1.unsqueeze(2) * b2.unsqueeze(1)).flatten(1),
            "down": (a1.unsqueeze(1) * a2.unsqueeze(0)).flatten(0, 1),
        }

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the update, (R, T, inputs) -> (R, T, rank^2) -> (R, T, outputs)."""
        return linear(linear(x, parameters["down"]), parameters["up"], onto=out)

    def merge(self, site: Site, folded: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return W with the update, and the bias."""
        return weight + folded["up"] @ folded["down"], bias

    @classmethod
    def from_peft(cls, source: PeftSource[ProductOptions]) -> MethodWeights:
        """Read PEFT's LoHa; smaller ranks are padded with zeros, and scales that differ go into B1."""
        options, placed = source.options, read_places(source, "hada_", "LoHa")
        rank = max(options.rank(group.module) for group in placed.values())
        alpha = options.alpha if options.alpha > 0 else float(rank)
        tensors: dict[str, Named] = {}
        for port, group in placed.items():
            own_rank = options.rank(group.module)
            stored = group.shape("hada_w1_a")
            if len(stored) == 2 and stored[1] != own_rank:
                where, state = group.name("hada_w1_a"), f"has the rank {stored[1]}"
                raise contradiction(source.tensors.path, "r", own_rank, where, state)
            sizes = {"b": (port.outputs, own_rank), "a": (own_rank, port.inputs)}
            factors = {name: group.taken(part, sizes[name[5]], ELSEWHERE) for name, part in PARTS.items()}
            factors["loha_b1"] = factors["loha_b1"].float() * (options.scale(group.module) / (alpha / rank))
            missing = rank - own_rank
            tensors[port.name] = {
                name: functional.pad(factor, (0, missing) if name[5] == "b" else (0, 0, 0, missing))
                for name, factor in factors.items()
            }
        return MethodWeights({"rank": rank, "alpha": alpha} | port_selection(source.backbone.ports, [*placed]), tensors)

    def to_peft(self, target: PeftTarget) -> PeftAdapter:
        """Write PEFT's LoHa."""
        values = {"r": self.options.rank, "alpha": whole_number(self.options.alpha), "init_weights": True}
        return write_places(target, "LOHA", PARTS, values)
