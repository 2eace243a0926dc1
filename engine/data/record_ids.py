"""Ids of records, which should be different within a split."""

from collections import Counter
from collections.abc import Iterable

from adaptdock.plugins.contracts import Record


def repeated_ids(split: str, records: Iterable[Record]) -> list[str]:
    """Return a note on ids that more than one record of a split has; all records are kept."""
    counts = Counter(str(record["id"]) for record in records if record.get("id") is not None)
    twice = [name for name, count in counts.items() if count > 1]
    if not twice:
        return []
    places = [str(record["where"]) for record in records if str(record.get("id")) == twice[0]]
    return [f"{split}: {len(twice)} ids occur more than once, such as {twice[0]!r} at {' and '.join(places[:3])}"]
