"""Fields with a file: paths in data files, and files in requests.

A relative path in a data file is relative to the folder of that data file. A request holds the file itself: a path
would allow a client to read files of the server.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Task
from adaptdock.plugins.toolkit.sources import is_embedded


def in_folder(values: dict[str, Any], task: type[Task], name: str | Path) -> dict[str, Any]:
    """Return a record with paths that are valid in any folder; ``name`` is its data file, or the name of a table."""
    if not task.files:
        return values
    folder = Path(name).parent if Path(name).is_file() else Path()
    return {**values, **{field: _joined(values[field], folder) for field in task.files if field in values}}


def check_embedded(item: Any, task: type[Task]) -> None:
    """Raise :class:`DataError` for an input of a request with a path where the task reads a file."""
    names = {name for field in task.files for name in (field, *task.columns.get(field, ()))}
    values = [item[name] for name in names if name in item] if isinstance(item, Mapping) else [item]
    if names and not (values and all(map(is_embedded, values))):
        raise DataError(
            "a request holds the file itself, as a data URL in base64 (data:TYPE;base64,...): the server opens no paths"
        )


def _joined(value: Any, folder: Path) -> Any:
    """Return a path with its folder; of the files of the datasets library, which are dicts, the path too."""
    if isinstance(value, Mapping) and isinstance(value.get("path"), str) and not value.get("bytes"):
        return {**value, "path": _joined(value["path"], folder)}
    if not isinstance(value, str | Path) or is_embedded(value) or not str(value).strip():
        return value
    return str(folder / Path(str(value).strip()).expanduser())
