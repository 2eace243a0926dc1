"""The conformance kit: the contracts of plugins, as checks that ``adapt plugin check`` and pytest run.

    @pytest.mark.parametrize("check", checks("method", "gain"), ids=str)
    def test_gain_keeps_to_the_contract(check):
        check()

The kit is part of the engine because it docks, trains and saves adapters. Backbones are tiny random models.
"""

from collections.abc import Callable

from adaptdock.engine.conformance.backbones import backbone_checks
from adaptdock.engine.conformance.check import Check as Check
from adaptdock.engine.conformance.check import Outcome as Outcome
from adaptdock.engine.conformance.check import Unmet as Unmet
from adaptdock.engine.conformance.common import common_checks
from adaptdock.engine.conformance.files import file_checks
from adaptdock.engine.conformance.methods import method_checks
from adaptdock.engine.conformance.tasks import task_checks
from adaptdock.errors import UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.registry import Kind

CHECKED: dict[Kind, Callable[[str, str | None], list[Check]]] = {
    "method": method_checks,
    "task": task_checks,
    "backbone": backbone_checks,
    "files": file_checks,
}


def checks(kind: Kind, name: str, model: str | None = None) -> list[Check]:
    """Return the checks of a registered plugin, without running them or importing the plugin.

    ``model`` is the model that a backbone family loads; a tiny model of transformers unless given. Raises
    :class:`UnknownNameError` for an unknown plugin, and :class:`UsageError` for a kind without a contract.
    """
    if kind not in CHECKED:
        raise UsageError(f"a {kind} has no contract to check; the kinds with a contract are {', '.join(CHECKED)}")
    registry.find(kind, name)
    all_checks = [*common_checks(kind, name), *CHECKED[kind](name, model)]
    assert all_checks, f"no checks for the {kind} {name!r}"
    return all_checks
