"""Abilities of methods beyond acting at ports. A method has an ability if it has its functions.

The engine finds abilities by :func:`isinstance`; a method does not inherit from them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from adaptdock.plugins.methods import Site


@runtime_checkable
class Mergeable(Protocol):
    """A method whose effect on a linear layer is linear, so it can be merged into the backbone."""

    def merge(
        self, site: "Site", folded: "Mapping[str, Tensor]", weight: "Tensor", bias: "Tensor"
    ) -> "tuple[Tensor, Tensor]":
        """Return weight (outputs, inputs) and bias (outputs) of the linear layer merged with the adapter.

        ``weight`` and ``bias`` are those of the layer without the adapter.
        """


@runtime_checkable
class Reparameterised(Protocol):
    """A method whose parameters are trained through another module, or with other learning rates."""

    def reparameterise(self, start: "Mapping[str, Tensor]", generator: "torch.Generator") -> "nn.Module | None":
        """Return a module to train in place of the parameters, or None.

        ``start`` maps ``<port>.<parameter>`` to a tensor; calling the module without arguments must
        return such a mapping. Only this mapping is saved, not the module.
        """


@runtime_checkable
class Stepped(Protocol):
    """A method that changes its own parameters between two steps of training."""

    def memory(self, parameters: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """Return the initial state that is kept between steps, and saved in checkpoints.

        ``parameters`` maps ``<port>.<parameter>`` to the trained tensors.
        """

    def after_step(
        self,
        step: int,
        steps: int,
        parameters: "Mapping[str, Tensor]",
        gradients: "Mapping[str, Tensor]",
        memory: "Mapping[str, Tensor]",
    ) -> None:
        """Change parameters and memory in place after the optimiser's step number ``step`` of ``steps``, from 1.

        ``gradients`` has the parameters with a gradient in this step. Several trainings may share one method, so all
        its state must be in ``memory``.
        """


@runtime_checkable
class Penalised(Protocol):
    """A method with an additional term in the training loss."""

    def penalty(self, parameters: "Mapping[str, Tensor]") -> "Tensor":
        """Return the term of the loss, a scalar with gradients, from ``<port>.<parameter>`` -> tensor."""
