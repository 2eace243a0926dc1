"""Loading a backbone by its name, or taking a model in memory, with the family that accepts it."""

from typing import Any

from adaptdock.engine.core.distributed import join, placed
from adaptdock.errors import BackboneError, PluginError, UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.arguments import refusal
from adaptdock.plugins.compatibility import reason
from adaptdock.plugins.contracts import AdoptsModels, Backbone, BackboneFamily, LoadOptions


def load_backbone(name: str, options: LoadOptions) -> Backbone:
    """Load a backbone with the family that has it as an alias, or else with the first that accepts the name.

    The general family is asked last. Families are imported one after the other, built-in ones first: a built-in alias
    never waits for a third-party plugin. Raises :class:`BackboneError` if no family accepts the name or loading
    fails, and the errors of :func:`placed`.
    """
    options = placed(options)
    if options.shard_backbone:
        join()
    families: list[tuple[registry.Plugin, BackboneFamily]] = []
    for plugin, family_type in registry.usable("backbone"):
        family: BackboneFamily = family_type()
        if name in family.aliases:
            return _loaded(plugin, family, name, options)
        families.append((plugin, family))
    for plugin, family in sorted(families, key=lambda entry: entry[1].general):
        if family.accepts(name):
            return _loaded(plugin, family, name, options)
    raise BackboneError(f"no backbone family accepts {name!r}; there are {registry.names('backbone')}")


def _loaded(plugin: registry.Plugin, family: BackboneFamily, name: str, options: LoadOptions) -> Backbone:
    """Load a backbone; raise :class:`PluginError` if it was built for another version of the contracts."""
    backbone = family.load(name, options)
    outdated = reason(type(backbone), Backbone)
    if outdated is not None:
        raise PluginError(
            f"a backbone of the family {plugin.name!r} of {plugin.source} {outdated}. Install a release of "
            f"{plugin.distribution} that fits."
        )
    return backbone


def adopt_backbone(model: Any, tokenizer: Any) -> Backbone:
    """Return a backbone around a model in memory, by the first family that adopts the model.

    Raises :class:`UsageError` if no family adopts the model, or the tokenizer is missing.
    """
    families = [plugin() for _, plugin in registry.usable("backbone")]
    family = next((family for family in families if isinstance(family, AdoptsModels) and family.adopts(model)), None)
    if family is None:
        raise UsageError(refusal(model, "a backbone is an alias, a path, a hub id, or a loaded model of transformers"))
    if not callable(tokenizer):
        raise UsageError(refusal(tokenizer, "a loaded model needs its tokenizer (tokenizer=)"))
    return family.adopt(model, tokenizer)
