"""Tags that data has as numbers, with the names that a person gives for them."""

from collections.abc import Iterable, Sequence
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Record
from adaptdock.plugins.toolkit.stored import in_sequence, stored
from adaptdock.tasks.labels.printed_lists import printed_list
from adaptdock.tasks.labels.uncounted import UNTAGGED, is_gap


def with_names(records: Iterable[Record], names: Sequence[str], split: str) -> Sequence[Record]:
    """Return records in which the numbers of tags have become names; all as they are where no names are given.

    Raises :class:`DataError` for a number without a name.
    """
    if not names:
        return in_sequence(records)
    return stored(
        {**record, "tags": _named(record["tags"], names, str(record.get("where", split)))}
        if "tags" in record
        else record
        for record in records
    )


def _named(tags: Any, names: Sequence[str], where: str) -> Any:
    parts = tags
    if isinstance(tags, str):
        printed = printed_list(tags)
        parts = tags.split() if printed is None else printed
    if not isinstance(parts, list | tuple) or not all(is_gap(part) or _is_number(part) for part in parts):
        return tags
    numbers = [None if is_gap(part) else int(part) for part in parts]
    wrong = next((number for number in numbers if number is not None and not 0 <= number < len(names)), None)
    if wrong is not None:
        raise DataError(
            f"{where}: the tag {wrong} has no name: --tag-names gives {len(names)}, for 0 to {len(names) - 1}"
        )
    return [UNTAGGED if number is None else names[number] for number in numbers]


def _is_number(part: Any) -> bool:
    if isinstance(part, str):
        return part.lstrip("-").isdecimal()
    return isinstance(part, int) and not isinstance(part, bool)
