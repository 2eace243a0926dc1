"""The speed of the processor: measured once, kept by processor and torch, and measured again where the file is lost."""

import json
from pathlib import Path

import pytest
import torch

from adaptdock.engine.core import processor_speed
from adaptdock.engine.core.processor_speed import FILE, is_faster, over_float32, processor, sentence, slower_int8

SPEEDS = {"bfloat16": [0.7, 0.5], "int8": [1.4, 1.2]}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The measurements that were asked for; the times are those of SPEEDS."""
    asked: list[str] = []

    def measure(precision: str) -> list[float]:
        asked.append(precision)
        return SPEEDS[precision]

    monkeypatch.setattr(processor_speed, "_measured", measure)
    monkeypatch.setenv("ADAPTDOCK_CACHE", str(tmp_path))
    return asked


def test_a_precision_is_measured_once_and_kept_with_the_processor_and_the_version_of_torch(
    measured: list[str], tmp_path: Path
) -> None:
    assert [over_float32("bfloat16"), over_float32("bfloat16"), over_float32("int8")] == [(0.7, 0.5)] * 2 + [(1.4, 1.2)]
    assert measured == ["bfloat16", "int8"]
    ((key, speeds),) = json.loads((tmp_path / FILE).read_text()).items()
    assert processor() in key
    assert f"torch {torch.__version__}" in key
    assert speeds == SPEEDS


def test_another_processor_is_measured_and_the_first_one_is_still_known(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    over_float32("bfloat16")
    with monkeypatch.context() as patched:
        patched.setattr(processor_speed, "processor", lambda: "another processor")
        over_float32("bfloat16")
    over_float32("bfloat16")
    assert measured == ["bfloat16", "bfloat16"]
    assert len(json.loads((tmp_path / FILE).read_text())) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 3}', '{"x": {"bfloat16": [1]}}', "\x00"])
def test_a_damaged_file_is_measured_again_and_replaced(measured: list[str], tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert over_float32("bfloat16") == (0.7, 0.5)
    assert over_float32("bfloat16") == (0.7, 0.5)
    assert measured == ["bfloat16"]


def test_a_folder_that_cannot_be_written_costs_a_measurement_and_nothing_else(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ADAPTDOCK_CACHE", str(tmp_path / "file"))
    assert over_float32("bfloat16") == over_float32("bfloat16") == (0.7, 0.5)
    assert measured == ["bfloat16", "bfloat16"]


@pytest.mark.parametrize(
    ("times", "faster"), [([0.7, 0.5], True), ([1.1, 0.5], False), ([0.5, 1.1], False), ([0.97, 0.97], False)]
)
def test_a_precision_is_faster_only_if_small_and_large_passes_are(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, times: list[float], faster: bool
) -> None:
    monkeypatch.setitem(SPEEDS, "bfloat16", times)
    assert is_faster("bfloat16") == faster


def test_int8_that_is_slower_than_bfloat16_is_told_with_the_measurement(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = slower_int8()
    assert told is not None
    for part in (sentence("int8"), "int8 takes 1.40", "1.20 in one of 512", "bfloat16 takes 0.50", "--dtype bfloat16"):
        assert part in told
    assert processor() in told


@pytest.mark.parametrize("faster", [[0.4, 0.3], [0.8, 0.5]])
def test_int8_that_is_not_slower_is_not_told(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, faster: list[float]
) -> None:
    monkeypatch.setitem(SPEEDS, "int8", faster)
    assert slower_int8() is None


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_the_real_measurement_returns_two_positive_ratios(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: processor_speed.Precision
) -> None:
    monkeypatch.setenv("ADAPTDOCK_CACHE", str(tmp_path))
    monkeypatch.setattr(processor_speed, "PASSES", 2)
    assert all(0 < ratio < 1000 for ratio in over_float32(precision))
