"""Arguments that name an adapter: a file by its path, or an installed adapter by its name."""

from pathlib import Path
from typing import Any

import click

from adaptdock.hub.registry.installed import locate


class _Adapter(click.ParamType):
    """The path of an adapter; an existing path takes precedence over a name."""

    name = "adapter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; raises the errors of :func:`locate`."""
        return locate(value)


ADAPTER = _Adapter()
