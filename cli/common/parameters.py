"""Arguments that name an adapter: a file by its path, or an installed one by its name."""

from pathlib import Path
from typing import Any

import click

from adaptdock.hub.registry.installed import locate


class _Adapter(click.ParamType):
    """The path of an adapter; what exists as a path is one."""

    name = "adapter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; raise what :func:`locate` raises."""
        return locate(value)


ADAPTER = _Adapter()
