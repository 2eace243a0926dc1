"""Data sets of the hub, by name: OWNER/NAME, or OWNER/NAME:CONFIGURATION."""

import re
from pathlib import Path
from typing import Any

from adaptdock.engine.data.formats import FORMATS
from adaptdock.errors import DataError

NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def hub_dataset(name: str) -> Any:
    """Return a data set of the hub, of the ``datasets`` library.

    Raises :class:`DataError` for a name that the hub does not have, and without asking the hub for the name of a file.
    """
    identifier, _, configuration = name.partition(":")
    if Path(name).suffix.lower() in FORMATS or not NAME.fullmatch(identifier):
        raise DataError(f"{name}: there is no such file or folder (a data set of the hub is named OWNER/NAME)")
    import datasets

    try:
        return datasets.load_dataset(identifier, configuration or None)
    except Exception as error:  # the library raises many kinds, all of them about this name
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name!r} is no folder or file here, and no data set that the hub gives: {reason}") from error
