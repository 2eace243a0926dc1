"""Tags in unusual notation: converted if their meaning is clear, refused if it is not."""

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Record
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.tasks.labels.uncounted import counted

OUTSIDE = "O"
PREFIXES = "BIESLUM"
NO_TYPES = frozenset(PREFIXES)
WRITTEN = re.compile(rf"[{PREFIXES}]-.+")
PREFIXED = re.compile(rf"([{PREFIXES}{PREFIXES.lower()}])\s?[-_.:/|\u2010-\u2015\u2212 ]\s?(.+)")
SUFFIXED = re.compile(rf"(.+?)\s?[-_.:/|\u2010-\u2015\u2212 ]\s?([{PREFIXES}{PREFIXES.lower()}])")
FOR_OUTSIDE = ("_", "-", "*")
"""Tags of words outside of all entities in some files that never use O."""
SHOWN = 8


def as_written(records: Sequence[Record], split: str, plain_types: bool) -> tuple[Sequence[Record], list[str]]:
    """Return records with tags in the notation of the schemes (O, B-PER), and notes on converted tags.

    ``plain_types``: tags are names of types (IO), such as b-cell. Raises :class:`DataError` for tags without a meaning
    in their context, with their counts and the place of the first.
    """
    counts = Counter(tag for record in records for tag in counted(record["tags"]))
    meanings = {} if plain_types else _meanings(counts)
    notes = []
    if meanings:
        changed = Counter({tag: counts[tag] for tag in meanings})
        shown = ", ".join(f"{tag!r} ({count}) as {meanings[tag]}" for tag, count in changed.most_common(SHOWN))
        way_out = (
            "" if all(name == OUTSIDE for name in meanings.values()) else ". --scheme io reads tags as types instead"
        )
        notes.append(
            f"{split}: {changed.total()} tags are not written as B-TYPE or O and were read so: {shown}{way_out}"
        )
        records = stored({**record, "tags": [meanings.get(tag, tag) for tag in record["tags"]]} for record in records)
    _check(records, split)
    return records, notes


def is_tag(tag: str) -> bool:
    """Return whether a tag is in the notation of a scheme, or nearly so: O, B-PER, b-per, B_PER, PER-B."""
    return not tag or tag.upper() == OUTSIDE or is_prefixed(tag)


def is_prefixed(tag: str) -> bool:
    """Return whether a tag has a type with a prefix or suffix for the position in an entity."""
    return bool(PREFIXED.fullmatch(tag) or SUFFIXED.fullmatch(tag))


def type_of(tag: str) -> str:
    """Return the type in a tag; for O and an empty tag an empty text."""
    if not tag or tag.upper() == OUTSIDE:
        return ""
    prefixed, suffixed = PREFIXED.fullmatch(tag), SUFFIXED.fullmatch(tag)
    return prefixed[2] if prefixed else suffixed[1] if suffixed else tag


def _meanings(counts: Mapping[str, int]) -> dict[str, str]:
    """Return tag -> tag in the notation of the schemes, for tags in another notation with a clear meaning."""
    stripped = {tag: tag.strip() for tag in counts}
    meanings = {tag: OUTSIDE for tag, bare in stripped.items() if bare.upper() == OUTSIDE}
    names = {tag: bare for tag, bare in stripped.items() if bare and tag not in meanings and bare not in FOR_OUTSIDE}
    written = {tag: bare for tag, bare in names.items() if WRITTEN.fullmatch(bare)}
    odd = {tag: bare for tag, bare in names.items() if tag not in written}
    prefixed = {tag: match for tag, bare in odd.items() if (match := PREFIXED.fullmatch(bare))}
    suffixed = {tag: match for tag, bare in odd.items() if (match := SUFFIXED.fullmatch(bare))}
    if written or (len(prefixed) == len(odd) and _begins(match[1] for match in prefixed.values())):
        meanings |= {tag: f"{match[1].upper()}-{match[2]}" for tag, match in prefixed.items()} | written
    elif len(suffixed) == len(odd) and _begins(match[2] for match in suffixed.values()):
        meanings |= {tag: f"{match[2].upper()}-{match[1]}" for tag, match in suffixed.items()}
    has_outside = OUTSIDE in meanings.values() or OUTSIDE in counts
    if not has_outside and any(WRITTEN.fullmatch(meanings.get(tag, tag)) for tag in names):
        meanings |= {tag: OUTSIDE for tag, bare in stripped.items() if bare in FOR_OUTSIDE}
    return {tag: meaning for tag, meaning in meanings.items() if tag != meaning}


def _begins(letters: Iterable[str]) -> bool:
    """Return whether letters are prefixes of a scheme: they include B, or the I of IOB1."""
    return bool({letter.upper() for letter in letters} & {"B", "I"})


def _check(records: Sequence[Record], split: str) -> None:
    """Raise :class:`DataError` for types among prefixed tags, for single letters and numbers, and if no word has O."""
    counts = Counter(tag for record in records for tag in counted(record["tags"]) if tag not in ("", OUTSIDE))
    written = [tag for tag in counts if WRITTEN.fullmatch(tag)]
    if written:
        odd = Counter({tag: count for tag, count in counts.items() if tag not in written})
        if odd:
            shown = ", ".join(f"{tag!r} ({count})" for tag, count in odd.most_common(SHOWN))
            raise DataError(
                f"{_place(records, odd, split)}: {odd.total()} tags of {split} are not tags of a scheme, others are "
                f"written {written[0]}: {shown}. Write O, or B-TYPE, I-TYPE and so on; --columns tags=COLUMN names "
                f"another column."
            )
        return
    bare = [tag for tag in counts if tag in NO_TYPES or tag.isdigit()]
    if bare:
        raise DataError(
            f"{_place(records, bare, split)}: the tag {bare[0]!r} names no type: write B-PER or PER, no number or "
            f"letter alone; --columns tags=COLUMN names another column"
        )
    if counts and not any(tag in ("", OUTSIDE) for record in records for tag in record["tags"]):
        shown = ", ".join(f"{tag!r} ({count})" for tag, count in counts.most_common(SHOWN))
        raise DataError(
            f"{_place(records, counts, split)}: these are not tags of entities: no word of {split} has the tag O, and "
            f"none is written B-TYPE or I-TYPE. There are {shown}. --columns tags=COLUMN names another column."
        )


def _place(records: Sequence[Record], tags: Container[str], split: str) -> str:
    """Return the place of the first sentence with one of these tags."""
    return str(
        next((record.get("where", split) for record in records if any(t in tags for t in record["tags"])), split)
    )
