"""RoAd: 2D rotary adaptation (Liao and Monz 2024, arXiv:2409.00119), its first variant.

The outputs of a linear layer are rotated and scaled in pairs: ``a cos(t) y1 - a sin(t) y2`` and ``a sin(t) y1 + a
cos(t) y2``, with an angle t and a scale a for each pair. Output i is paired with output ``i + group_size / 2`` of its
group, as in PEFT. Angles start at zero. Stored is the difference of a scale from one, which also starts at zero.
"""

from collections.abc import Hashable, Mapping

from pydantic import Field
from torch import Tensor

from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site


class RoAdOptions(Options):
    """Options of ``road``."""

    group_size: int = Field(16, gt=0, multiple_of=2)
    """Number of outputs in a group, within which outputs are paired."""
    roles: tuple[str, ...] = ("query", "value")
    """Linear layers to adapt, by role; "all" for every role."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class RoAd(Method):
    """A rotation and a scale for each pair of outputs of a linear layer."""

    Options = RoAdOptions
    options: RoAdOptions

    @property
    def stack_key(self) -> Hashable:
        """The size of a group, which decides the pairs."""
        return self.options.group_size

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the linear ports with these roles; raise :class:`UsageError` if groups do not fit their outputs."""
        selected = ports.select("linear", self.options.roles, self.options.layers)
        odd = next((port for port in selected if port.outputs % self.options.group_size), None)
        if odd is not None:
            raise UsageError(f"road: {odd.name} has {odd.outputs} outputs, no multiple of --group-size")
        return tuple(Site(port) for port in selected)

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare an angle and the change of a scale (outputs / 2), zero at the start."""
        return {"angle": Parameter((site.port.outputs // 2,)), "scale_change": Parameter((site.port.outputs // 2,))}

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Compute the change along an output, ``a cos(t) - 1``, and across to its partner, ``a sin(t)``."""
        scale, angle = 1 + parameters["scale_change"], parameters["angle"]
        return {"along": scale * angle.cos() - 1, "across": scale * angle.sin()}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Rotate and scale the pairs of outputs, (R, T, outputs)."""
        half = self.options.group_size // 2
        pairs = out.unflatten(-1, (-1, 2, half))  # (R, T, groups, 2, half)
        along, across = (parameters[name].unflatten(-1, (-1, half)).unsqueeze(1) for name in ("along", "across"))
        rotated = pairs.clone()
        rotated[..., 0, :] += along * pairs[..., 0, :] - across * pairs[..., 1, :]
        rotated[..., 1, :] += along * pairs[..., 1, :] + across * pairs[..., 0, :]
        return rotated.reshape(out.shape)
