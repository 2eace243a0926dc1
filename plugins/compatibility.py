"""Whether a plugin was built for this version of the contracts, and if not, what has changed."""

from collections.abc import Iterator
from inspect import Parameter, isfunction, signature
from typing import Any

from adaptdock.plugins.options import API_VERSION, CHANGES

NEW = frozenset({"forward_pass", "batch"})
"""Parameters that this version of the contracts has brought."""
ANY_NUMBER = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def reason(plugin: Any, contract: type) -> str | None:
    """Return why a class does not belong to this version of a contract, or None.

    It declares another ``api_version``; or it inherits this one, and a function of it lacks a parameter that this
    version has brought: that is how a plugin that was written for an earlier version is known.
    """
    version, here = getattr(plugin, "api_version", API_VERSION), f"this is version {API_VERSION}"
    if version != API_VERSION:
        return f"was built for version {version} of the plugin contracts; {here}{_since(version)}"
    for name, wanted in _functions(contract):
        parameters = _parameters(getattr(plugin, name, None))
        if parameters is not None and not NEW.intersection(wanted) <= set(parameters):
            return (
                f"was built for an earlier version of the plugin contracts: its {name} takes "
                f"({', '.join(parameters)}); {here}, where it takes ({', '.join(wanted)}){_since(API_VERSION - 1)}"
            )
    return None


def _since(version: Any) -> str:
    """Return what later versions than one have changed, as the end of a sentence."""
    changes = [change for number, change in CHANGES.items() if isinstance(version, int) and number > version]
    return f". What changed: {'; '.join(changes)}" if changes else ""


def _functions(contract: type) -> Iterator[tuple[str, list[str]]]:
    for name, function in vars(contract).items():
        if isfunction(function) and not name.startswith("_"):
            yield name, _parameters(function) or []


def _parameters(function: Any) -> list[str] | None:
    """Return the names of a function's parameters without self; None where it takes any, or is none."""
    if not isfunction(function):
        return None
    parameters = list(signature(function).parameters.values())[1:]
    if any(parameter.kind in ANY_NUMBER for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]
