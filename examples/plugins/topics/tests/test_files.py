"""The adapter files can be used: what ``adapt plugin check topics`` shows, as tests."""

import pytest

from adaptdock.engine.conformance import Check, checks


@pytest.mark.parametrize("check", checks("files", "topics"), ids=str)
def test_the_files_can_be_used(check: Check) -> None:
    check()
