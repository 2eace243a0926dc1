"""The task keeps to its contract: what ``adapt plugin check relation`` shows, as tests."""

import pytest

from adaptdock.engine.conformance import Check, checks


@pytest.mark.parametrize("check", checks("task", "relation"), ids=str)
def test_the_task_keeps_to_its_contract(check: Check) -> None:
    check()
