"""The progress of a run in a file or pipe: an early estimate of a long run, then ten lines."""

import io

import pytest

from adaptdock.cli.training import progress as module
from adaptdock.cli.training.progress import Watch
from adaptdock.engine.training.loop.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the process has run, as its only element."""
    seconds = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: seconds[0])
    return seconds


def lines(clock: list[float], steps: int, seconds_per_step: float, capsys: pytest.CaptureFixture[str]) -> list[str]:
    watch = Watch(io.StringIO(), None)
    for step in range(1, steps + 1):
        clock[0] += seconds_per_step
        watch(Progress(step, steps, step / steps, loss=1.0))
    return capsys.readouterr().err.splitlines()


def test_a_long_run_is_estimated_after_a_few_steps(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    first, second, *others = lines(clock, 400, 2.0, capsys)
    assert first == "400 steps, about 13 min 12 s, without validations"
    assert second.endswith("step 40/400 loss 1.0000 (12 min 0 s left)")
    assert len(others) == 9


def test_a_short_run_is_not_announced(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert [line for line in lines(clock, 100, 0.1, capsys) if "about" in line] == []
