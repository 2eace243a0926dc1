"""The method keeps to its contract: what ``adapt plugin check road`` shows, as tests."""

import pytest

from adaptdock.engine.conformance import Check, checks


@pytest.mark.parametrize("check", checks("method", "road"), ids=str)
def test_the_method_keeps_to_its_contract(check: Check) -> None:
    check()
