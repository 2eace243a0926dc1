"""Loading a backbone by its name, with the family that accepts it."""

from adaptdock.engine.core.distributed import placed
from adaptdock.errors import BackboneError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, BackboneFamily, LoadOptions


def load_backbone(name: str, options: LoadOptions) -> Backbone:
    """Load a backbone with the family of which it is an alias, else with the one that accepts it, the general one last.

    Families are imported one after the other, our own first: an alias of ours waits for no plugin of anybody else.
    Raises :class:`BackboneError` where no family does, or loading fails, and what :func:`placed` raises.
    """
    options = placed(options)
    families: list[BackboneFamily] = []
    for _, plugin in registry.usable("backbone"):
        family: BackboneFamily = plugin()
        if name in family.aliases:
            return family.load(name, options)
        families.append(family)
    for family in sorted(families, key=lambda family: family.general):
        if family.accepts(name):
            return family.load(name, options)
    raise BackboneError(f"no backbone family accepts {name!r}; there are {registry.names('backbone')}")
