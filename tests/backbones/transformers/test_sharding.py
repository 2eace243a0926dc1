"""A backbone divided among processes gives what the whole one gives, with every method."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from adaptdock.backbones.transformers.sharding import divide, whole
from adaptdock.errors import BackboneError
from adaptdock.plugins import registry

CHECKS = Path(__file__).parent / "shard_checks.py"


def test_a_model_without_blocks_of_transformers_is_refused_with_the_flag() -> None:
    with pytest.raises(BackboneError, match="--shard-backbone divides the blocks of a model, and Sequential has none"):
        divide(nn.Sequential(nn.Linear(2, 2)), "cpu")  # type: ignore[arg-type]


def test_a_weight_that_is_not_divided_is_returned_as_it_is() -> None:
    weight = torch.ones(2)
    assert whole(weight) is weight


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["bert", "llama", "gpt2", "t5"])
def test_every_method_trains_and_answers_on_a_divided_backbone_as_on_the_whole_one(
    tmp_path: Path, architecture: str
) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, CHECKS, tmp_path / "results", architecture]
    ran = subprocess.run(
        list(map(str, command)), env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    for rank in range(2):
        results = json.loads((tmp_path / f"results.{rank}").read_text())
        blocks, everything = results.pop(f"{architecture}: shares")
        assert blocks == pytest.approx(0.5, abs=0.01)
        assert blocks < everything < 1
        assert {f"{architecture}: training {name}" for name in registry.names("method")} < results.keys()
        differing = {name: value for name, value in results.items() if isinstance(value, str) or value > 1e-5}
        assert differing == {}
