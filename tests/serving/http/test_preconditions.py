"""Conditions of a change: which headers are read, and which states they fit."""

import pytest

from adaptdock.errors import UsageError
from adaptdock.serving.errors import ChangedError
from adaptdock.serving.http.preconditions import Preconditions, etag_of

STATE = {"versions": {"1": "aa"}, "pinned": False}
TAG = etag_of(STATE)


@pytest.mark.parametrize(
    ("match", "none_match", "state", "passes"),
    [
        ([TAG], [], STATE, True),
        ([f'"other" , {TAG}'], [], STATE, True),
        (['"other"', TAG], [], STATE, True),
        (['"other"'], [], STATE, False),
        ([f"W/{TAG}"], [], STATE, False),
        (["*"], [], STATE, True),
        (["*"], [], None, False),
        ([TAG], [], None, False),
        ([], ["*"], None, True),
        ([], ["*"], STATE, False),
        ([], [TAG], STATE, False),
        ([], [f"W/{TAG}"], STATE, False),
        ([], ['"other"'], STATE, True),
        ([], [TAG], {**STATE, "pinned": True}, True),
        ([TAG], ["*"], STATE, False),
    ],
)
def test_a_change_is_made_in_the_states_of_rfc_9110(match, none_match, state, passes):
    condition = Preconditions.of(match, none_match)
    if passes:
        condition.check("name", state)
    else:
        with pytest.raises(ChangedError, match="nothing was changed: 'name'"):
            condition.check("name", state)


@pytest.mark.parametrize("header", ["", "abc", '"a" "b"', '"a",', "*, *", '"a\n"', "W/*"])
def test_what_is_no_list_of_etags_is_refused(header):
    with pytest.raises(UsageError, match="If-Match is"):
        Preconditions.of([header], [])


def test_an_etag_depends_on_the_state_and_not_on_the_order_of_its_parts():
    assert etag_of({"b": 1, "a": 2}) == etag_of({"a": 2, "b": 1}) != etag_of({"a": 2, "b": 2})
    assert not Preconditions.of([], [])
