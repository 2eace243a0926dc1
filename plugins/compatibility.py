"""The check that a plugin was built for this version of the contracts, with the changes if it was not."""

from functools import cache
from inspect import Parameter, isfunction, signature
from typing import Any

from adaptdock.plugins.options import API_VERSION, CHANGES

NEW = frozenset({"forward_pass", "batch"})
"""Parameters that are new in this version of the contracts."""
ANY_NUMBER = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def reason(plugin: Any, contract: type) -> str | None:
    """Return the reason why a class does not fit this version of a contract, or None.

    It declares another ``api_version``; or it inherits this one, and one of its functions lacks a parameter that is new
    in this version. So a plugin for an earlier version is recognised although it inherits the current ``api_version``.
    """
    version, current = getattr(plugin, "api_version", API_VERSION), f"this is version {API_VERSION}"
    if version != API_VERSION:
        return f"was built for version {version} of the plugin contracts; {current}{_since(version)}"
    for name, expected in _functions(contract):
        parameters = _parameters(getattr(plugin, name, None))
        if parameters is not None and not NEW.intersection(expected) <= set(parameters):
            return (
                f"was built for an earlier version of the plugin contracts: its {name} takes "
                f"({', '.join(parameters)}); {current}, where it takes ({', '.join(expected)}){_since(API_VERSION - 1)}"
            )
    return None


def _since(version: Any) -> str:
    """Return the changes after a version, as the end of a sentence."""
    changes = [change for number, change in CHANGES.items() if isinstance(version, int) and number > version]
    return f". What changed: {'; '.join(changes)}" if changes else ""


@cache  # asked for at every use of a plugin
def _functions(contract: type) -> tuple[tuple[str, list[str]], ...]:
    """Return the public functions of a contract with their parameters."""
    functions = vars(contract).items()
    public = [(name, function) for name, function in functions if isfunction(function) and not name.startswith("_")]
    return tuple((name, _parameters(function) or []) for name, function in public)


def _parameters(function: Any) -> list[str] | None:
    """Return the parameter names of a function without self; None for any parameters, or not a function."""
    if not isfunction(function):
        return None
    parameters = list(signature(function).parameters.values())[1:]
    if any(parameter.kind in ANY_NUMBER for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]
