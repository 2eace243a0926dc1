"""The process around the application."""

import pytest
import torch

from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.http.process import sized_for_device

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("cores", "device", "asked", "workers", "threads", "tokens"),
    [
        (8, CPU, {}, 2, 4, 1536),
        (2, CPU, {}, 2, 1, 384),
        (1, CPU, {}, 1, 1, 384),
        (64, CPU, {}, 2, 32, 2048),
        (8, torch.device("cuda"), {}, 1, 8, 2048),
        (8, CPU, {"workers": 3}, 3, 2, 768),
        (2, CPU, {"workers": 4, "batch_tokens": 2048}, 4, 1, 2048),
    ],
)
def test_cores_are_shared_among_batches(
    cores: int,
    device: torch.device,
    asked: dict[str, int],
    workers: int,
    threads: int,
    tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thread_counts: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(torch, "set_num_threads", thread_counts.append)
    sized = sized_for_device(ServingOptions(adapters="here", **asked), device)
    assert (sized.workers, sized.batch_tokens) == (workers, tokens)
    assert thread_counts == [threads]
