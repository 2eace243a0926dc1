"""Rows of ``adapt label`` that nobody has confirmed: they are drafts, and no training data."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from adaptdock.engine.data.spans.findings import shortened
from adaptdock.engine.data.tables import Row, Say
from adaptdock.errors import DataError
from adaptdock.plugins.annotations import AnnotatedText

CONFIRMED = "confirmed"
"""The field of a row that is false until a person has accepted the row."""
Item = TypeVar("Item")


def confirmed_rows(rows: Iterable[Row], say: Say) -> Iterator[Row]:
    """Yield the rows that are not drafts; ``say`` hears how many are left out.

    Raises :class:`DataError` where all are drafts.
    """
    return _confirmed(rows, lambda row: row[1], lambda row: row[0].get(CONFIRMED) is False, say)


def confirmed_texts(texts: Iterable[AnnotatedText], say: Say) -> list[AnnotatedText]:
    """Return the annotated texts that are not drafts, as :func:`confirmed_rows` does."""
    return list(_confirmed(texts, lambda text: text.place, lambda text: text.fields.get(CONFIRMED) is False, say))


def _confirmed(
    items: Iterable[Item], place: Callable[[Item], str], is_draft: Callable[[Item], bool], say: Say
) -> Iterator[Item]:
    drafts: list[str] = []
    count = 0
    for item in items:
        if is_draft(item):
            drafts.append(place(item))
        else:
            count += 1
            yield item
    if drafts and not count:
        raise DataError(
            f"{drafts[0]}: none of the {len(drafts)} rows is confirmed. They are drafts of adapt label: confirm them "
            f"in the page of adapt serve (--label-file), or set {CONFIRMED} to true in each row that is right"
        )
    if drafts:
        say(f"{len(drafts)} rows are drafts that nobody has confirmed, and are left out: {shortened(drafts)}")
