"""Groups: the components of records that have a key in common, as a graph library finds them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adaptdock.plugins.toolkit.groups import connected
from adaptdock.plugins.toolkit.hashes import hash_of, hashes_of, repeated

KEYS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12)


def components(pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Join sets until none has a key in common with another; 0 is no key."""
    groups = [([number], {(0, first), (1, second)} - {(0, 0), (1, 0)}) for number, (first, second) in enumerate(pairs)]
    for place in range(len(groups)):
        for before in range(place):
            if groups[before][1] & groups[place][1]:
                groups[place] = (groups[before][0] + groups[place][0], groups[before][1] | groups[place][1])
                groups[before] = ([], set())
    return sorted(sorted(members) for members, _ in groups if members)


@given(KEYS)
def test_groups_are_the_components_in_the_order_of_their_first_members(pairs: list[tuple[int, int]]) -> None:
    first, second = (hashes_of(column) for column in (zip(*pairs, strict=True) if pairs else ((), ())))
    groups = connected(first, second)
    assert list(groups) == components(pairs)
    assert list(connected(first)) == components([(key, 0) for key, _ in pairs])
    assert groups[:2] == components(pairs)[:2]


def test_a_hash_tells_texts_their_order_and_their_number_apart() -> None:
    texts = [("a", "b"), ("ab", ""), ("ab",), ("b", "a"), ("a\0b",), ("a", "b", "")]
    assert len({hash_of(text) for text in texts}) == len(texts)
    assert hash_of(("", "")) == hash_of(()) == 0
    assert 0 < hash_of(("\ud800",)) < 2**64


def test_repeated_hashes_come_in_the_order_of_their_first_places() -> None:
    assert repeated(np.array([0, 9, 4, 0, 4, 9, 7], dtype=np.uint64)).tolist() == [9, 4]
