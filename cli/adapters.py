"""An adapter docked to its backbone, for the commands that use one."""

from adaptdock.engine.dock import Dock, load_backbone
from adaptdock.engine.training import with_precision
from adaptdock.hub.card import Card
from adaptdock.plugins.contracts import LoadOptions


def open_dock(card: Card, backbone: str | None, options: LoadOptions) -> Dock:
    """Open a dock with the backbone that a card names, or with another that holds the same weights."""
    if backbone is None and options.revision is None:
        options = options.model_copy(update={"revision": card.backbone.revision})
    if options.dtype == "auto" and not options.quantize and card.training.get("precision") == "bfloat16":
        options = with_precision(options)  # as it was trained and measured, where the device computes that fast
    return Dock(load_backbone(backbone or card.backbone.id, options))
