"""Texts that look like lists of labels, but are not divided by the separator that was named."""

from collections.abc import Iterable, Sequence

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Record
from adaptdock.tasks.labels.printed_lists import printed_list

SEPARATORS = {",": "commas", ";": "semicolons", "#": "number signs"}
"""What divides labels in tables of people, and of doccano."""


def check_lists(records: Iterable[Record], separator: str, split: str) -> list[str]:
    """Return a note where labels hold another separator; raise :class:`DataError` where they surely are lists.

    They are if every part of such a label occurs alone, or in a list of other labels, too.
    """
    labels = (
        (label, str(record.get("where", split))) for record in records if isinstance(label := record["label"], str)
    )
    plain = {label: where for label, where in labels if printed_list(label) is None}
    if any(separator in label for label in plain):
        return []
    for character, name in SEPARATORS.items():
        joined = [label for label in plain if character in label]
        if not joined:
            continue
        what = f"{len(joined)} different labels hold {name}, such as {joined[0]!r:.60}"
        if _divides(joined, list(plain), character):
            raise DataError(
                f"{plain[joined[0]]}: {what}, and their parts are labels too: --label-separator {character!r} divides "
                f"them; if each is one label, --labels lists the labels"
            )
        return [f"{split}: {what}, and are taken as one label (--label-separator {character!r} divides them)"]
    return []


def _divides(joined: Sequence[str], labels: Sequence[str], character: str) -> bool:
    lists = {frozenset(_parts(label, character)) for label in labels}
    parts = {part for label in joined for part in _parts(label, character)}
    return all(sum(part in names for names in lists) > 1 for part in parts)


def _parts(label: str, character: str) -> list[str]:
    return [part.strip() for part in label.split(character) if part.strip()]
