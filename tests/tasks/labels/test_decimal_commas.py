"""Numbers with a decimal comma, as spreadsheets of many countries write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptdock.errors import DataError
from adaptdock.tasks.regression import Regression


def clean(*labels: object) -> tuple[list[float], list[str]]:
    records = [{"where": f"a.csv:{number}", "text": "a b", "label": label} for number, label in enumerate(labels, 2)]
    cleaned = Regression(Regression.Options()).clean(records, "train")
    return [record["label"] for record in cleaned.records], cleaned.notes


@given(st.lists(st.integers(-(10**9), 10**9), max_size=8), st.sampled_from(["", ".", " ", "'", "\u00a0"]))
def test_numbers_come_back_from_the_way_in_which_a_spreadsheet_shows_them(cents: list[int], group: str) -> None:
    numbers = [1.5, *(value / 100 for value in cents)]
    shown = [f"{number:,.2f}".replace(",", "_").replace(".", ",").replace("_", group) for number in numbers]
    assert clean(*shown)[0] == numbers


def test_decimal_commas_are_said_and_numbers_and_whole_ones_stay() -> None:
    assert clean("3,5", "4", 2.5, "1.234,25") == (
        [3.5, 4.0, 2.5, 1234.25],
        ["train: 2 numbers have a decimal comma, such as '3,5', read as 3.5"],
    )
    assert clean("3.5", "4") == ([3.5, 4.0], [])


def test_a_comma_that_may_divide_thousands_is_refused_and_the_advice_works() -> None:
    with pytest.raises(DataError, match=r"a\.csv:2: '1,234' may have a decimal comma, .*: write 1\.234 or 1234"):
        clean("1,234", "5")
    assert clean("1.234", "5")[0] == [1.234, 5.0]
    assert clean("1,234", "0,5")[0] == [1.234, 0.5]


def test_points_beside_commas_are_refused_with_both_places() -> None:
    with pytest.raises(DataError, match=r"a\.csv:2: '3,5' has a decimal comma, and '1\.5' at a\.csv:3 a decimal point"):
        clean("3,5", "1.5")


def test_other_texts_are_no_numbers() -> None:
    for label in ("3,5,1", "nan", "", True):
        with pytest.raises(DataError, match=r"a\.csv:2: the target has to be a finite number"):
            clean(label)
