"""``adapt verify --run``, ``inspect`` and ``predict``: an adapter is asked whether it still answers as it did."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.golden_probes import recorded
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.plugins.contracts import Backbone

TEXTS = ["ada lives in rome", "bob met eve in paris"]


@pytest.fixture
def probed(adapter: Path, backbone: Backbone, tmp_path: Path) -> Path:
    made = recorded(Dock(backbone), read_file(adapter), TEXTS, "sample")
    write_file(tmp_path / "probed.safetensors", made)
    return tmp_path / "probed.safetensors"


@pytest.fixture
def broken(probed: Path, tmp_path: Path) -> Path:
    """The same adapter with the weights of its head permuted: a valid file with other answers."""
    made = read_file(probed)
    head = {"head.weight": made.tensors["head.weight"].flip(0), "head.bias": made.tensors["head.bias"].flip(0)}
    write_file(tmp_path / "broken.safetensors", AdapterFile(made.card, {**made.tensors, **head}))
    return tmp_path / "broken.safetensors"


def test_a_sound_adapter_gives_the_same_answers(adapt: Any, probed: Path, model_folder: Path) -> None:
    ran = adapt("verify", "--run", probed, "--backbone", model_folder)
    assert ran.status == 0
    assert "ada lives in rome" in ran.out
    assert "same answers" in ran.err
    assert "response to fixed numbers at" in ran.out
    assert "0 of 5 responses changed" in ran.err
    (document,) = json.loads(adapt("verify", "--run", probed, "--backbone", model_folder, "--json").out)
    assert document["difference"] < document["tolerance"]
    assert torch.allclose(
        torch.tensor(document["probes"][1]["saved"]), torch.tensor(document["probes"][1]["now"]), atol=1e-3
    )
    assert adapt("predict", probed, "ada", "--backbone", model_folder).status == 0


def test_a_broken_adapter_is_refused_by_predict_and_told_by_verify(
    adapt: Any, broken: Path, model_folder: Path
) -> None:
    ran = adapt("verify", "--run", broken, "--backbone", model_folder)
    assert ran.status == 1
    assert "other answers" in ran.err
    assert "1 of 5 responses changed" in ran.err
    lines = ran.out.splitlines()
    (shown,) = lines[next(number for number, line in enumerate(lines) if "fixed numbers" in line) + 1 :]
    assert shown.startswith("head ")
    predict = ["predict", broken, "ada", "--backbone", model_folder]
    adapt(*predict).failed(1, "is refused", "when it was saved", "--no-probes")
    assert adapt(*predict, "--no-probes").status == 0
    checked = adapt("serve", "--check", "--adapters", broken.parent, "--backbone", model_folder, "--port", "0")
    checked.failed(2, "1 adapters cannot be served", "its response to fixed numbers at head")


def test_inspect_shows_the_probes_or_that_there_are_none(adapt: Any, probed: Path, adapter: Path) -> None:
    ran = adapt("inspect", probed)
    assert "2, of the task's sample, answered in float32" in ran.out
    assert "bob met eve in paris" in ran.out
    card = json.loads(adapt("inspect", probed, "--json").out)["card"]
    assert [probe["input"] for probe in card["probes"]["probes"]] == TEXTS
    assert "no probes" in adapt("inspect", adapter).out
    ran = adapt("verify", "--run", adapter)
    assert ran.status == 0
    assert "no probes" in ran.err


def test_what_only_goes_with_run_says_so(adapt: Any, probed: Path, model_folder: Path) -> None:
    adapt("verify", probed).failed(2, "add --run")
    adapt("verify", "--backbone", model_folder).failed(2, "--backbone needs --run")


def test_answers_that_cannot_be_compared_are_told_in_valid_json(
    adapt: Any, probed: Path, model_folder: Path, tmp_path: Path
) -> None:
    made = read_file(probed)
    assert made.card.probes is not None
    probes = [probe.model_copy(update={"size": 7}) for probe in made.card.probes.probes]
    card = made.card.model_copy(update={"probes": made.card.probes.model_copy(update={"probes": probes})})
    write_file(tmp_path / "odd.safetensors", AdapterFile(card, made.tensors))
    ran = adapt("verify", "--run", tmp_path / "odd.safetensors", "--backbone", model_folder, "--json")
    assert ran.status == 1
    assert json.loads(ran.out, parse_constant=pytest.fail)[0]["difference"] is None
    assert "cannot be compared" in adapt("verify", "--run", "odd.safetensors", "--backbone", model_folder).err
    adapt("predict", "odd.safetensors", "ada", "--backbone", model_folder).failed(1, "instead of 7")
