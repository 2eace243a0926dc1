"""The process around the application."""

import pytest
import torch

from adaptdock.serving.options import ServingOptions
from adaptdock.serving.process import at_work

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("cores", "device", "asked", "workers", "threads"),
    [
        (8, CPU, None, 2, 4),
        (2, CPU, None, 2, 1),
        (1, CPU, None, 1, 1),
        (8, torch.device("cuda"), None, 1, 8),
        (8, CPU, 3, 3, 2),
        (2, CPU, 4, 4, 1),
    ],
)
def test_cores_are_shared_among_batches(
    cores: int, device: torch.device, asked: int | None, workers: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    assert at_work(ServingOptions(adapters="here", workers=asked), device).workers == workers
    assert given == [threads]
