"""The process around the application."""

import pytest
import torch

from adaptdock.serving.options import ServingOptions
from adaptdock.serving.process import computing_threads


@pytest.mark.parametrize(("usual", "computing"), [(8, 7), (2, 1), (1, 1)])
def test_a_thread_is_left_to_answer_unless_their_number_is_given(
    usual: int, computing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: usual)
    assert computing_threads(ServingOptions(adapters="here")) == computing
    assert computing_threads(ServingOptions(adapters="here", threads=5)) == 5
