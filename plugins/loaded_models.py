"""The ability of a backbone family to take a model that a program has loaded itself."""

from typing import Any, Protocol, runtime_checkable

from adaptdock.plugins.backbones import Backbone


@runtime_checkable
class AdoptsModels(Protocol):
    """A backbone family that builds backbones around models in memory; the engine finds it by ``isinstance``."""

    def adopts(self, model: object) -> bool:
        """Tell whether this family can use a model as a backbone."""

    def adopt(self, model: Any, tokenizer: Any) -> Backbone:
        """Return a backbone around a model, frozen; raise :class:`BackboneError` where it cannot be used.

        The fingerprint is that of the checkpoint with the same weights, so that adapters load on either.
        """
