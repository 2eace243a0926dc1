"""Abilities: what a method can do beyond acting at ports. One that has the functions of an ability has the ability.

They are found by :func:`isinstance`; a method inherits from none of them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from adaptdock.plugins.methods import Site
    from adaptdock.plugins.toolkit.interchange.adapterhub import (
        AdapterHubMethod,
        AdapterHubSource,
        AdapterHubTarget,
        MethodOptions,
    )
    from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftOptions, PeftSource, PeftTarget
    from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights


@runtime_checkable
class Mergeable(Protocol):
    """A method that makes of a linear map another linear map, which can take its place in the backbone."""

    def merge(
        self, site: "Site", folded: "Mapping[str, Tensor]", weight: "Tensor", bias: "Tensor"
    ) -> "tuple[Tensor, Tensor]":
        """Return weight (outputs, inputs) and bias (outputs) of a linear map that has become one with the adapter.

        ``weight`` and ``bias`` are its own, without adapter.
        """


@runtime_checkable
class Reparameterised(Protocol):
    """A method whose parameters are trained by a detour, or with learning rates of their own."""

    def reparameterise(self, start: "Mapping[str, Tensor]", generator: "torch.Generator") -> "nn.Module | None":
        """Return a module that is trained in the parameters' place, or None.

        ``start`` maps ``<port>.<parameter>`` to a tensor; calling the module with no argument must
        return such a mapping. What is saved is what it returns, so the detour leaves no trace.
        """


@runtime_checkable
class Stepped(Protocol):
    """A method that changes its own parameters between two steps of training."""

    def memory(self, parameters: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """Return what is remembered from step to step, as it is before the first; checkpoints hold it.

        ``parameters`` map ``<port>.<parameter>`` to the tensors that are trained.
        """

    def after_step(
        self,
        step: int,
        steps: int,
        parameters: "Mapping[str, Tensor]",
        gradients: "Mapping[str, Tensor]",
        memory: "Mapping[str, Tensor]",
    ) -> None:
        """Change parameters and memory in place, after step number ``step`` of ``steps`` (from 1) has moved them.

        ``gradients`` are those of the step, of the parameters that it gave any. Several trainings may use one method,
        so what it remembers is in ``memory`` and nowhere else.
        """


@runtime_checkable
class Penalised(Protocol):
    """A method with a term of its own in the loss of training."""

    def penalty(self, parameters: "Mapping[str, Tensor]") -> "Tensor":
        """Return what is added to the loss, a number, from ``<port>.<parameter>`` -> tensor, with gradients."""


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
