"""The file behind ``--config``: the flags of ``adapt train``, as YAML or TOML."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adaptdock.errors import DataError, UnknownNameError, UsageError


def read_config(path: Path) -> dict[str, Any]:
    """Return the keys and values of a file, ``-`` in keys turned into ``_``.

    Raises :class:`DataError` for a file that cannot be read, :class:`UsageError` for values that no
    flag could have.
    """
    return {key.replace("-", "_"): _value(path, key, value) for key, value in _table(path).items()}


def read_tables(path: Path) -> dict[str, dict[str, Any]]:
    """Return the tables of a file by their names; ``-`` in their keys turned into ``_``, values as they are.

    Raises what :func:`read_config` raises.
    """
    found = {}
    for name, table in _table(path).items():
        if not isinstance(table, Mapping):
            raise UsageError(f"{path}: {name} has to be a table of keys and values, found {table!r:.60}")
        found[name] = {str(key).replace("-", "_"): value for key, value in table.items() if value is not None}
    return found


def _table(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: it cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not valid UTF-8 ({error.reason} at byte {error.start})") from None
    found = _parsed(path, text)
    if not isinstance(found, Mapping):
        raise UsageError(f"{path}: a configuration is a table of flags and values, this is a {type(found).__name__}")
    return {str(key): value for key, value in found.items() if value is not None}


def check_keys(path: Path, config: Mapping[str, Any], known: Iterable[str], owners: str) -> None:
    """Refuse the first key that is no flag; ``owners`` says whose flags there are."""
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
        raise UsageError(f"{path}: a configuration is a .yaml or a .toml file")
    import yaml

    try:
        return yaml.safe_load(text) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path}: not YAML: {error}") from None


def _value(path: Path, key: Any, value: Any) -> Any:
    """Return a value as its flag would give it: text, or true and false, or a list of texts."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Mapping) and key == "columns":
        return [f"{field}={column}" for field, column in value.items()]
    if isinstance(value, list) and not any(isinstance(part, list | Mapping) for part in value):
        return [str(part) for part in value]
    if isinstance(value, list | Mapping):
        raise UsageError(f"{path}: {key} holds a {type(value).__name__}, where a flag takes one value")
    return str(value)
