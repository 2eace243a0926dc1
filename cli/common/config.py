"""The file of ``--config``: flags as YAML or TOML."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adaptdock.errors import DataError, UnknownNameError, UsageError


def read_config(path: Path) -> dict[str, Any]:
    """Return the keys and values of a file, ``-`` in keys turned into ``_``.

    Raises :class:`DataError` for a file that cannot be read, and :class:`UsageError` for values of no flag.
    """
    return {key.replace("-", "_"): _value(path, key, value) for key, value in _table(path).items()}


def read_tables(path: Path) -> dict[str, dict[str, Any]]:
    """Return the tables of a file by their names; ``-`` in their keys turned into ``_``, values as they are.

    Raises what :func:`read_config` raises.
    """
    tables = {}
    for name, table in _table(path).items():
        if not isinstance(table, Mapping):
            raise UsageError(f"{path}: {name} has to be a table of keys and values, and is {table!r:.60}")
        tables[name] = {str(key).replace("-", "_"): value for key, value in table.items() if value is not None}
    return tables


def _table(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not valid UTF-8 ({error.reason} at byte {error.start})") from None
    content = _parsed(path, text)
    if not isinstance(content, Mapping):
        raise UsageError(
            f"{path}: a configuration has to be a table of flags and values, and is a {type(content).__name__}"
        )
    return {str(key): value for key, value in content.items() if value is not None}


def check_keys(path: Path, config: Mapping[str, Any], known: Iterable[str], owners: str) -> None:
    """Raise :class:`UnknownNameError` for a key that is not a flag; ``owners`` names the command in the error."""
    names = list(known)
    for key in config:
        if key not in names:
            raise UnknownNameError(f"key in {path}:", key, names, f"The keys are the flags of {owners}.")


def _parsed(path: Path, text: str) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise DataError(f"{path}: not TOML: {error}") from None
    if suffix not in (".yaml", ".yml", ".json"):
        raise UsageError(f"{path}: a configuration has the suffix .yaml or .toml")
    import yaml

    try:
        return yaml.safe_load(text) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path}: not YAML: {error}") from None


def _value(path: Path, key: Any, value: Any) -> Any:
    """Return a value as its flag gives it: a text, a boolean, or a list of texts."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Mapping) and key == "columns":
        return [f"{field}={column}" for field, column in value.items()]
    if isinstance(value, list) and not any(isinstance(part, list | Mapping) for part in value):
        return [str(part) for part in value]
    if isinstance(value, list | Mapping):
        raise UsageError(f"{path}: {key} is a {type(value).__name__}, and a flag takes one value")
    return str(value)
