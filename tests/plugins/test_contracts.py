"""The contracts' own logic: options."""

import pytest
from pydantic import ValidationError

from adaptdock.plugins.contracts import Options


def test_a_list_may_be_given_as_one_string() -> None:
    class Some(Options):
        roles: tuple[str, ...] = ()

    assert Some(roles="query, value").roles == ("query", "value")


def test_a_number_that_is_not_finite_is_no_option() -> None:
    class Some(Options):
        scale: float = 1.0

    with pytest.raises(ValidationError, match="finite"):
        Some(scale=float("inf"))
