"""The settings of a plan as lines of a table."""

from collections.abc import Mapping
from typing import Any

from adaptdock.cli.common.output import brief
from adaptdock.engine.training.planning.plan import Plan


def setting_lines(plan: Plan) -> dict[str, str]:
    """Return every setting of task, methods and training by its name in a table."""
    return {
        **lines_of("task", plan.task.options.model_dump(mode="json")),
        **{name: line for entry in plan.methods for name, line in lines_of(entry.name, entry.options).items()},
        **lines_of("", plan.options.model_dump(mode="json", exclude={"method_options"})),
    }


def lines_of(owner: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Return values by their names in a table; ``owner`` goes before the names."""
    front = f"{owner}: " if owner else ""
    return {f"{front}{name.replace('_', ' ')}": _setting(value) for name, value in values.items()}


def _setting(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(brief(value))
