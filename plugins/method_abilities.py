"""Abilities of methods beyond acting at ports. A method has an ability if it has its functions.

The engine finds abilities by :func:`isinstance`; a method does not inherit from them.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from adaptdock.plugins.backbones import Backbone
    from adaptdock.plugins.methods import Site
    from adaptdock.plugins.toolkit.interchange.adapterhub import (
        AdapterHubMethod,
        AdapterHubSource,
        AdapterHubTarget,
        MethodOptions,
    )
    from adaptdock.plugins.toolkit.interchange.changes import WeightChange
    from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftOptions, PeftSource, PeftTarget
    from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights


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


@runtime_checkable
class Invoked(Protocol):
    """A method that acts only in texts with certain tokens; trials of an adapter put them into their texts."""

    @property
    def invocation(self) -> tuple[int, ...]:
        """The ids of these tokens, in their order."""


@runtime_checkable
class PeftInterchange(Protocol):
    """A method with a counterpart in PEFT.

    The methods are asked in turn, the built-in ones first; the first that reads an adapter gets it.
    """

    peft_types: "ClassVar[Mapping[str, type[PeftOptions]]]"
    """``peft_type`` of a configuration -> the model that validates the configuration."""

    @classmethod
    def from_peft(cls, source: "PeftSource[Any]") -> "MethodWeights | None":
        """Return options and parameters; None for a configuration of another method, before any tensor is taken.

        Each tensor has to be taken from ``source.tensors``: the import refuses the others. Raises
        :class:`UsageError` for an adapter that would compute something else here.
        """

    def to_peft(self, target: "PeftTarget") -> "PeftAdapter":
        """Return configuration and tensors; raise :class:`UsageError` for options without a counterpart."""


@runtime_checkable
class AdapterHubInterchange(Protocol):
    """A method with a counterpart in AdapterHub; see :class:`PeftInterchange`."""

    adapterhub_types: "ClassVar[Mapping[str | None, type[MethodOptions]]]"
    """``architecture`` of a configuration (None for a bottleneck) -> the model that validates the configuration."""

    @classmethod
    def from_adapterhub(cls, source: "AdapterHubSource[Any]") -> "MethodWeights | None":
        """Return options and parameters; None for a configuration of another method."""

    def to_adapterhub(self, target: "AdapterHubTarget") -> "AdapterHubMethod":
        """Return configuration and tensors; raise :class:`UsageError` for options without a counterpart."""


@runtime_checkable
class AdapterHubFusion(Protocol):
    """A method that mixes adapters as AdapterHub's fusion layers do."""

    adapterhub_fusion: "ClassVar[type[MethodOptions]]"
    """The model that validates the configuration of a fusion layer."""

    @classmethod
    def fuse_adapterhub(
        cls, members: "Mapping[str, tuple[str, MethodWeights]]", source: "AdapterHubSource[Any]"
    ) -> "MethodWeights":
        """Return options and parameters for ``members``, each with the name of its method.

        ``source`` has the configuration and the tensors of the fusion layers.
        """


@runtime_checkable
class WeightInterchange(Protocol):
    """A method that can store changes of the backbone's weights, made by another library in any way.

    Of several methods, the one with the fewest numbers stores a change.
    """

    @classmethod
    def numbers(cls, change: "WeightChange") -> int | None:
        """Return the number of stored numbers for a change; None if the method cannot store it exactly."""

    @classmethod
    def from_changes(cls, changes: "Sequence[WeightChange]", backbone: "Backbone") -> "MethodWeights":
        """Return options and parameters for changes that :meth:`numbers` accepts, at least one."""
