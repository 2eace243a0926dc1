"""``--precision`` of commands that predict: measured, told, and never slower than float32."""

import json
from typing import Any

import pytest

from adaptdock.cli.common.precision import prediction_options
from adaptdock.cli.serve import VARIABLE, _log_precision, decided
from adaptdock.engine.core import processor_speed
from adaptdock.errors import UsageError

SPEEDS = {"bfloat16": (0.7, 0.5), "int8": (1.4, 1.2)}


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor_speed, "over_float32", SPEEDS.__getitem__)


def chosen(**values: Any) -> tuple[str, list[str]]:
    """The dtype for these flags on a CPU, and the sentences that are told."""
    told: list[str] = []
    return prediction_options({"device": "cpu", **values}, told.append).dtype, told


def test_auto_takes_the_faster_precision_and_tells_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    dtype, (told,) = chosen(precision="auto")
    assert dtype == "bfloat16"
    assert told.startswith("precision bf16: on this processor")
    assert "0.70 of float32's time in a pass of 16 positions, and 0.50" in told
    monkeypatch.setitem(SPEEDS, "bfloat16", (1.0, 7.0))
    dtype, (told,) = chosen(precision="auto")
    assert dtype == "float32"
    assert told.startswith("precision fp32: ")
    assert "7.00" in told


def test_without_the_flag_and_with_a_named_precision_nothing_is_measured_or_told() -> None:
    assert chosen() == ("auto", [])
    assert chosen(precision="bf16") == ("bfloat16", [])
    assert chosen(precision="fp32", dtype="float32") == ("float32", [])
    assert chosen(precision="auto", dtype="float32") == ("float32", [])


def test_int8_slower_than_bfloat16_is_told_and_int8_stays() -> None:
    dtype, (told,) = chosen(quantize="int8", precision="auto")
    assert dtype == "auto"
    assert "int8 takes 1.40" in told
    assert "--dtype bfloat16 is faster here" in told


def test_a_wrong_precision_or_a_contradiction_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--precision 'fast': there is auto, fp32, bf16, fp16"):
        chosen(precision="fast")
    with pytest.raises(UsageError, match="contradict each other"):
        chosen(precision="bf16", dtype="float32")
    with pytest.raises(UsageError, match="needs a GPU"):
        chosen(precision="fp16")


def test_predict_tells_the_choice_on_standard_error_and_answers(adapt, adapter) -> None:
    ran = adapt("predict", adapter, "--precision", "auto", "--device", "cpu", "ada in rome")
    assert ran.status == 0, ran.err
    assert len(ran.out.splitlines()) == 1
    assert "precision bf16: on this processor" in ran.err
    adapt("predict", adapter, "--precision", "quick", "x").failed(2, "--precision", "quick", "bf16")


def test_serve_reads_the_precision_from_its_variable_and_its_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("precision: fp32\n")
    assert decided({}, file)["precision"] == "fp32"
    monkeypatch.setenv(f"{VARIABLE}PRECISION", "auto")
    assert decided({}, file)["precision"] == "auto"


def test_a_server_without_a_terminal_logs_the_measurement_as_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    _log_precision("precision bf16: measured")
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["reason"]) == ("precision", "precision bf16: measured")
