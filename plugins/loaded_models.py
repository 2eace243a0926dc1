"""The ability of a backbone family to use a model that is already in memory."""

from typing import Any, Protocol, runtime_checkable

from adaptdock.plugins.backbones import Backbone


@runtime_checkable
class AdoptsModels(Protocol):
    """A backbone family that wraps models in memory; the engine finds it by ``isinstance``."""

    def adopts(self, model: object) -> bool:
        """Return whether this family can use a model as a backbone."""

    def adopt(self, model: Any, tokenizer: Any) -> Backbone:
        """Return a backbone around a model, frozen; raise :class:`BackboneError` if it cannot be used.

        The fingerprint must be that of the checkpoint with the same weights, so that adapters load on both.
        """
