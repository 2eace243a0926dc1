"""Errors as answers: whose fault it is, and what the status says of it."""

import pytest

from adaptdock.errors import AdaptError, BackboneError, DataError, PluginError, UnknownNameError
from adaptdock.serving.errors import BusyError
from adaptdock.serving.http.middleware import explained


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnknownNameError("adapter", "peple", ["people"]), 404),
        (DataError("no text"), 422),
        (BackboneError("the backbone cannot write"), 422),
        (BusyError("much waits", 7), 429),
        (PluginError("a plugin is broken"), 500),
    ],
)
def test_what_a_client_can_mend_is_told_as_his(error: AdaptError, status: int) -> None:
    explained_status, problem, headers = explained(error)
    assert explained_status == status
    assert problem.message == str(error)
    assert headers == ({"retry-after": "7"} if status == 429 else {})
