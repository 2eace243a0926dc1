"""The backbone of an adapter, bare or in a dock."""

from adaptdock.cli.common.output import waiting
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.planning.hyperparameters import with_precision
from adaptdock.hub.artefact.card import Card
from adaptdock.plugins.contracts import Backbone, LoadOptions


def open_dock(card: Card, backbone: str | None, options: LoadOptions) -> Dock:
    """Open a dock with the backbone of a card, or with another source of the same weights."""
    if options.dtype == "auto" and not options.quantize and card.training.get("precision") == "bfloat16":
        options = with_precision(options)  # as it was trained and measured, where the device computes that fast
    return Dock(open_backbone(card, backbone, options))


def open_backbone(card: Card, backbone: str | None, options: LoadOptions) -> Backbone:
    """Load the backbone of a card, or another source of the same weights."""
    options = options.model_copy(update={"drop_layers": options.drop_layers or card.backbone.drop_layers})
    if backbone is None and options.revision is None:
        options = options.model_copy(update={"revision": card.backbone.revision})
    return loaded(backbone or card.backbone.id, options)


def loaded(name: str, options: LoadOptions) -> Backbone:
    """Load a backbone, and say so on a terminal meanwhile."""
    with waiting(f"Loading {name} ..."):
        return load_backbone(name, options)
