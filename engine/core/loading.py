"""Loading a backbone by its name, or taking a model in memory, with the family that accepts it."""

from typing import Any

from adaptdock.errors import BackboneError, UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.arguments import refusal
from adaptdock.plugins.contracts import AdoptsModels, Backbone, BackboneFamily, LoadOptions


def load_backbone(name: str, options: LoadOptions) -> Backbone:
    """Load a backbone with the family of which it is an alias, else with the one that accepts it, the general one last.

    Families are imported one after the other, our own first: an alias of ours waits for no plugin of anybody else.
    Raises :class:`BackboneError` where no family does, or loading fails.
    """
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


def adopt_backbone(model: Any, tokenizer: Any) -> Backbone:
    """Return a backbone around a model in memory, by the first family that takes it.

    Raises :class:`UsageError` where no family does or the tokenizer is missing.
    """
    families = [plugin() for _, plugin in registry.usable("backbone")]
    family = next((family for family in families if isinstance(family, AdoptsModels) and family.adopts(model)), None)
    if family is None:
        raise UsageError(refusal(model, "a backbone is an alias, a path, a hub id, or a loaded model of transformers"))
    if not callable(tokenizer):
        raise UsageError(refusal(tokenizer, "a loaded model needs its tokenizer (tokenizer=)"))
    return family.adopt(model, tokenizer)
