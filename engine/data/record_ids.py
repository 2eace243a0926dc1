"""Ids of records, which should be different within a split."""

from collections.abc import Sequence

from adaptdock.plugins.contracts import Record
from adaptdock.plugins.toolkit.hashes import hash_of, hashes_of, repeated


def repeated_ids(split: str, records: Sequence[Record]) -> list[str]:
    """Return a note on ids that more than one record of a split has; all records are kept."""
    twice = repeated(hashes_of(hash_of(_id(record)) for record in records))
    if not len(twice):
        return []
    first = int(twice[0])
    alike = [record for record in records if hash_of(_id(record)) == first]
    places = [str(record["where"]) for record in alike[:3]]
    return [
        f"{split}: {len(twice)} ids occur more than once, such as {str(alike[0]['id'])!r} at {' and '.join(places)}"
    ]


def _id(record: Record) -> Sequence[str]:
    """Return the id of a record as a text, behind a mark, as an empty id differs from none."""
    return () if record.get("id") is None else ("id", str(record["id"]))
