"""The conformance kit over every plugin that is built in."""

import pytest

from adaptdock.engine.conformance import Check, checks
from adaptdock.plugins import registry

BUILT_IN = [
    (plugin.kind, plugin.name) for plugin in registry.discover() if plugin.kind in ("method", "task", "backbone")
]


@pytest.mark.parametrize(
    "check",
    [pytest.param(check, id=f"{kind} {name}: {check}") for kind, name in BUILT_IN for check in checks(kind, name)],
)
def test_a_built_in_plugin_keeps_to_its_contract(check: Check) -> None:
    check()
