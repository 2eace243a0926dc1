"""SIGHUP reads the configuration again; what needs a restart is named in the log, and nothing wrong is taken over."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from served import TEXT, Client

from adaptdock.errors import UsageError
from adaptdock.serving.configuration import RELOADABLE, ServingOptions
from adaptdock.serving.http.access_tokens import Tokens
from adaptdock.serving.http.reloading import HangUp

ASKED = {"adapter": "red", "inputs": [TEXT, TEXT]}


@pytest.fixture
def hang_up(client: Client, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., dict[str, Any]]]:
    """Send SIGHUP to this process with other options in its configuration, and return the fields of the log line."""
    caplog.set_level(logging.INFO, "adaptdock.serving")
    before, wanted = signal.getsignal(signal.SIGHUP), [client.service.options]

    def read() -> ServingOptions:
        if isinstance(wanted[0], UsageError):
            raise wanted[0]
        return wanted[0]

    handler = HangUp(Tokens(), wanted[0], read)
    handler.service = client.service
    handler.install()

    def send(error: UsageError | None = None, **options: Any) -> dict[str, Any]:
        wanted[0] = error or client.service.options.model_copy(update=options)  # type: ignore[call-overload]
        os.kill(os.getpid(), signal.SIGHUP)
        return dict(caplog.records[-1].__dict__["fields"], event=caplog.records[-1].message)

    yield send
    signal.signal(signal.SIGHUP, before)


def test_limits_change_while_requests_are_answered(client: Client, hang_up: Callable[..., dict[str, Any]]) -> None:
    assert hang_up(max_inputs=1, queue=7) == {
        "event": "configuration read",
        "changed": {"max_inputs": 1, "queue": 7},
        "needs_restart": [],
    }
    client.refused(413, "at most 1", json=ASKED)
    batcher = client.service.batcher
    assert {part.options.queue for part in (batcher, batcher.admission, batcher._encoders, batcher._decoder)} == {7}
    assert hang_up(max_body=10, max_upload=20, keep_versions=1)["changed"].keys() == {
        "max_body",
        "max_upload",
        "keep_versions",
    }
    client.refused(413, "10 bytes", json=ASKED)
    assert (client.service.catalog.largest, client.service.catalog.keep) == (20, 1)


def test_what_needs_a_restart_is_named_and_does_not_change(
    client: Client, hang_up: Callable[..., dict[str, Any]]
) -> None:
    fields = hang_up(port=9, backbone="other", timeout=5.0)
    assert (fields["changed"], fields["needs_restart"]) == ({"timeout": 5.0}, ["backbone", "port"])
    assert client.service.options.backbone != "other"


def test_a_configuration_that_cannot_be_used_changes_nothing(
    client: Client, hang_up: Callable[..., dict[str, Any]]
) -> None:
    before = client.service.options
    fields = hang_up(UsageError("queue is a number"))
    assert (fields["event"], fields["reason"]) == ("configuration refused", "queue is a number")
    assert client.service.options == before
    assert client.label("red") == "RED"


def test_each_reloadable_option_is_an_option() -> None:
    assert set(RELOADABLE) < set(ServingOptions.model_fields)
