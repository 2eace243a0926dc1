"""Stored sequences: what goes in comes out, from a list or from a file, with 8 bytes of memory for each item."""

import tempfile
import tracemalloc
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptdock.errors import AdaptError
from adaptdock.plugins.toolkit import stored as module
from adaptdock.plugins.toolkit.stored import Form, StoredSequence, Storing, in_sequence, joined, picked, stored

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
RECORDS = [{"text": f"text {number}", "label": str(number % 3)} for number in range(5000)]


def in_file(items: list[Any], form: Form[Any] | None = None) -> StoredSequence[Any]:
    sequence: StoredSequence[Any] = StoredSequence(form)
    sequence.extend(items)
    return sequence


@given(st.lists(VALUES, max_size=20), st.data())
def test_items_of_a_file_are_those_that_were_put_in(items: list[Any], data: st.DataObject) -> None:
    sequence = in_file(items)
    assert sequence == items
    assert list(sequence) == items
    assert len(sequence) == len(items)
    places = data.draw(st.slices(len(items)))
    assert sequence[places] == items[places]
    numbers = data.draw(st.lists(st.sampled_from(range(len(items))), max_size=10)) if items else []
    assert picked(sequence, numbers) == [items[number] for number in numbers]
    assert picked(picked(sequence, numbers), range(len(numbers))[::-1]) == [items[number] for number in numbers[::-1]]
    assert [sequence[number] for number in numbers] == [items[number] for number in numbers]


def test_few_items_are_a_list_and_many_are_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(stored(iter(RECORDS))) is list
    monkeypatch.setattr(module, "IN_MEMORY", 1000)
    assert type(stored(RECORDS[:10])) is list
    many = stored(iter(RECORDS))
    assert isinstance(many, StoredSequence)
    assert many == RECORDS
    assert in_sequence(many) is many
    assert joined(many, []) is many
    assert joined(RECORDS[:1], many[1:]) == RECORDS


def test_items_may_be_added_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", 1000)
    storing: Storing[dict[str, str]] = Storing()
    for start in (0, 1, 3, 1000, 1000, 4999):
        storing.extend(RECORDS[len(storing.items) : start])
    storing.extend(RECORDS[len(storing.items) :])
    assert storing.items == RECORDS


def test_an_item_that_cannot_be_written_stays_in_memory() -> None:
    items = [{"day": date(2026, 1, 2)}, {"day": "today"}, {"day": date(2026, 1, 3)}]
    assert list(in_file(items)) == items
    assert in_file(items)[::-1] == items[::-1]


def test_a_form_says_how_items_are_written() -> None:
    days = [date(2026, 1, day) for day in range(1, 30)]
    form: Form[date] = Form(lambda day: day.toordinal(), date.fromordinal)
    assert list(in_file(days, form)) == days


def test_no_room_for_the_file_is_an_error_that_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(AdaptError, match=r"missing cannot hold it: No such file.*TMPDIR names another folder"):
        stored(RECORDS)


def test_memory_stays_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", 2**17)
    peaks = []
    for count in (20_000, 60_000):
        tracemalloc.start()
        sequence = stored({"text": f"a text with a number {number}"} for number in range(count))
        assert sum(len(item["text"]) for item in sequence) > 20 * count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 40_000 * 20  # as objects they take 300 bytes each
