"""Methods with a counterpart in another library, found by their abilities."""

from typing import Any

from adaptdock.errors import UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import AdapterHubFusion, AdapterHubInterchange, PeftInterchange, WeightInterchange

Ability = type[PeftInterchange] | type[AdapterHubInterchange] | type[AdapterHubFusion] | type[WeightInterchange]
LIBRARIES: dict[Ability, str] = {
    PeftInterchange: "peft",
    AdapterHubInterchange: "AdapterHub",
    AdapterHubFusion: "AdapterHub's fusion",
    WeightInterchange: "changes of weights",
}


def readers(ability: Ability, method: str | None) -> list[tuple[registry.Plugin, Any]]:
    """Return the methods with an ability, the built-in ones first; with ``method``, that method alone.

    Raises :class:`UsageError` if that method lacks the ability.
    """
    if method is not None:
        loaded = registry.load("method", method)
        if not isinstance(loaded, ability):
            names = ", ".join(plugin.name for plugin, _ in readers(ability, None))
            raise UsageError(
                f"the method {method!r} has no counterpart in {LIBRARIES[ability]}; these methods have: {names}"
            )
        return [(registry.find("method", method), loaded)]
    return [(plugin, loaded) for plugin, loaded in registry.usable("method") if isinstance(loaded, ability)]


def rival_note(reader: registry.Plugin, rivals: list[registry.Plugin]) -> list[str]:
    """Return a note if methods of other distributions read adapters of this kind, too."""
    names = [rival.name for rival in rivals if rival.distribution != reader.distribution]
    if not names:
        return []
    return [f"the adapter is read as {reader.name}; --method reads it as {' or '.join(names)}"]
