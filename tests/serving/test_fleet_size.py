"""The number of replicas, as people write it."""

import pytest

from adaptdock.errors import UsageError
from adaptdock.serving.fleet_size import FleetSize


@pytest.mark.parametrize(
    ("text", "least", "most"), [("1", 1, 1), (3, 3, 3), ("2-8", 2, 8), (" 2-8 ", 2, 8), ("4-4", 4, 4)]
)
def test_a_number_or_a_range(text: object, least: int, most: int) -> None:
    size = FleetSize.parse(text)
    assert (size.least, size.most, size.grows) == (least, most, least < most)
    assert FleetSize.parse(str(size)) == size


@pytest.mark.parametrize("text", ["0", "-1", "8-2", "0-2", "2-", "two", "", "1.5", None, "2-8-9", "²"])
def test_anything_else_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(UsageError, match="a range such as 2-8"):
        FleetSize.parse(text)
