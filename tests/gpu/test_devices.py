"""The project on two simulated GPUs: what a GPU refuses or waits for is found without one (see simulated.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gpu import build

from adaptdock.plugins import registry

CHECKS = Path(__file__).with_name("checks.py")
CHEAP = ("second:bert", "two:llama", "offloaded:bert")
ARCHITECTURES = ("bert", "llama", "gpt2", "t5")
LAYOUTS = ("first", "second", "two", "offloaded")
READ_WEIGHTS = ("dora", "boft", "bottleneck in the stream")
"""What reads frozen weights: it can't, where they wait in host memory."""
LIMIT = 1e-4

pytestmark = pytest.mark.skipif(bool(build.missing()), reason=build.missing() or "g++ is there")
Results = list[dict[str, Any]]


def run_checks(folder: Path, *cases: str) -> Results:
    file = folder / "results.json"
    done = subprocess.run(
        [sys.executable, str(CHECKS), str(file), *cases],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_checks(tmp_path_factory.mktemp("gpu"), *CHEAP)


def of(results: Results, case: str) -> Results:
    layout, _, architecture = case.partition(":")
    return [found for found in results if found["check"].startswith(f"{architecture} {layout}: ")]


def check_values(results: Results) -> None:
    """Check that nothing was raised, and that all numbers are the CPU's."""
    assert results
    assert [found for found in results if found["error"]] == []
    assert [found for found in results if found["difference"] > LIMIT] == []


def check_refusals(results: Results) -> None:
    """Check that all computes but what reads weights in host memory, and that this is refused in words."""
    refused = [found for found in results if found["check"].endswith(READ_WEIGHTS) and found["error"]]
    assert all("waits on a disk or in host memory" in found["error"] for found in refused), refused
    check_values([found for found in results if found not in refused])


def check_every_method(results: Results) -> None:
    """Check that each registered method has computed and been trained."""
    checks = {found["check"].partition(": ")[2] for found in results}
    for method in registry.names("method"):
        assert {f"logits {method}", f"training {method}"} <= checks


@pytest.mark.parametrize("case", CHEAP)
def test_every_registered_method_is_checked(results, case):
    check_every_method(of(results, case))


def test_a_backbone_on_the_second_gpu_computes_and_trains_what_one_on_the_cpu_does(results):
    check_values(of(results, "second:bert"))


def test_a_decoder_on_two_gpus_loads_computes_trains_and_writes_what_one_on_the_cpu_does(results):
    found = of(results, "two:llama")
    check_values(found)
    checks = {entry["check"] for entry in found}
    assert {"llama two: load", "llama two: steps greedy", "llama two: generate beams"} <= checks


def test_a_backbone_partly_in_host_memory_computes_and_trains_what_one_on_the_cpu_does(results):
    found = of(results, "offloaded:bert")
    check_refusals(found)
    refused = {entry["check"].partition(": ")[2] for entry in found if entry["error"]}
    assert refused == {f"{kind} {name}" for kind in ("logits", "training") for name in READ_WEIGHTS}


def test_a_pass_and_a_training_step_wait_for_the_gpu_no_more_often_than_is_known(results):
    waits = {found["check"]: found["waits"] for found in of(results, "second:bert")}
    assert 0 < waits["bert second: waits of a pass"] <= 9  # 5, and one for each of 4 rows
    assert 0 < waits["bert second: waits of a training step"] <= 4


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layout_on_every_architecture(tmp_path, architecture):
    results = run_checks(tmp_path, *(f"{layout}:{architecture}" for layout in LAYOUTS))
    for layout in LAYOUTS:
        found = of(results, f"{layout}:{architecture}")
        check_every_method(found)
        if layout == "offloaded":
            check_refusals(found)
        else:
            check_values(found)


def test_a_gpu_that_only_emulates_bfloat16_is_given_float32(results):
    found = [entry for entry in results if entry["check"].startswith("precision ")]
    assert [entry["check"] for entry in found] == ["precision (7, 5)", "precision (8, 0)"]
    check_values(found)
