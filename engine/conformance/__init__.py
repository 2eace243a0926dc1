"""The conformance kit: what a plugin has to keep to, as checks that ``adapt plugin check`` and pytest run.

    @pytest.mark.parametrize("check", checks("method", "gain"), ids=str)
    def test_gain_keeps_to_the_contract(check):
        check()

It stands in this room because it docks, trains and saves what it checks. Backbones are tiny random models.
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
    """Return the checks of a registered plugin; none has run yet, and nothing is imported.

    ``model`` is what a backbone family is to load; a tiny model of transformers unless given. Raises
    :class:`UnknownNameError` for a plugin there is not, and :class:`UsageError` for a kind that has no contract.
    """
    if kind not in CHECKED:
        raise UsageError(f"a {kind} has no contract that could be checked; there are those of {', '.join(CHECKED)}")
    registry.find(kind, name)
    found = [*common_checks(kind, name), *CHECKED[kind](name, model)]
    assert found, f"no checks for the {kind} {name!r}"
    return found
