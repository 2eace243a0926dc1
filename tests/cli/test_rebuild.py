"""``adapt rebuild``, ``sign`` and ``verify`` on a file: the same bits again, from the recorded arguments and data."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.rebuild import Rebuilt
from adaptdock.engine.training.train import train
from adaptdock.hub.artefact.file import AdapterFile, read_card, read_file, write_file
from adaptdock.plugins.contracts import LoadOptions


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTDOCK_HOME", str(tmp_path / "home"))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(model_folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a training with options of its own."""
    backbone = load_backbone(str(model_folder), LoadOptions(device="cpu", dtype="float32"))
    folder = tmp_path_factory.mktemp("run")
    source = Source(data=str(data))
    return train(
        "ner", backbone=backbone, data=source, folder=folder, epochs=1, seed=3, method_options={"rank": 2}
    ).file


@pytest.fixture
def built(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(trained, tmp_path / "ner.safetensors"))


def test_the_same_bits_are_trained_again(adapt: Any, built: Path, data: Path, tmp_path: Path) -> None:
    training = read_card(built).training
    arguments = training["arguments"]
    assert (arguments["method_options"]["rank"], arguments["training"]["seed"]) == (2, 3)
    assert str(tmp_path) not in json.dumps(arguments)
    files = {file["name"]: file["sha256"] for file in arguments["files"]}
    assert files == {f"{split}.conll": sha256(data / f"{split}.conll") for split in ("train", "validation", "test")}
    ran = adapt("rebuild", built, "--data", data, "--json")
    assert (ran.status, json.loads(ran.out)["identical"]) == (0, True), ran
    shutil.copytree(data, tmp_path / data.name)
    assert f"all {len(read_file(built).tensors)} tensors are the same bits" in adapt("rebuild", built).err


def test_other_weights_and_other_metrics_are_told_by_the_exit_status(
    adapt: Any, built: Path, data: Path, tmp_path: Path
) -> None:
    adapter = read_file(built)
    changed = {**adapter.tensors, "head.bias": adapter.tensors["head.bias"] + 1}
    metrics = {**adapter.card.metrics, "test": {**adapter.card.metrics["test"], "f1": 200.0}}
    card = adapter.card.model_copy(update={"metrics": metrics})
    write_file(tmp_path / "metric.safetensors", AdapterFile(card, changed))
    ran = adapt("rebuild", "metric.safetensors", "--data", data, "--run-dir", "again")
    assert ran.status == 1
    assert "the weights differ, by 1 at most" in ran.err
    assert (tmp_path / "again" / "best.safetensors").is_file()
    adapt("rebuild", built, "--data", data, "--run-dir", "again").failed(2, "again is not empty")


def test_metrics_are_close_only_if_there_are_any_and_the_task_is_the_same() -> None:
    def rebuilt(metrics: dict[str, tuple[float, float]], options: dict[str, Any]) -> Rebuilt:
        return Rebuilt(None, 1.0, metrics, options)  # type: ignore[arg-type]

    metrics = {"test.f1": (50.0, 50.5), "test.recall": (40.0, 40.0)}
    assert rebuilt(metrics, {}).close(0.5)
    assert not rebuilt(metrics, {}).close(0.4)
    assert not rebuilt({}, {}).close(100)
    assert not rebuilt(metrics, {"threshold": (0.5, 0.6)}).close(100)
    assert Rebuilt(None, 0.0, {}, {}).identical  # type: ignore[arg-type]
    assert not Rebuilt(None, 0.0, {}, {"threshold": (0.5, 0.6)}).identical  # type: ignore[arg-type]


def test_other_data_are_refused_before_the_training(adapt: Any, built: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "changed")
    (tmp_path / "changed" / "test.conll").write_text("ada\tB-PER\n\nin\tO\noslo\tO\n\n")
    adapt("rebuild", built, "--data", "changed").failed(2, "the test data are not those", "sha256")
    adapt("rebuild", built, "--train", data / "train.conll").failed(2, "the test data are not those", "missing")


def test_a_card_of_an_older_release_is_rebuilt_from_its_options(
    adapt: Any, built: Path, data: Path, tmp_path: Path
) -> None:
    adapter = read_file(built)
    training = {
        name: value for name, value in adapter.card.training.items() if name not in ("arguments", "data_sha256")
    }
    old = AdapterFile(adapter.card.model_copy(update={"training": training}), adapter.tensors)
    write_file(tmp_path / "old.safetensors", old)
    assert "tensors are the same bits" in adapt("rebuild", "old.safetensors", "--data", data).err
    adapt("rebuild", "old.safetensors").failed(2, "an older release", "--train, --validation and --test")
    halved = {**training, "splits": {**training["splits"], "train": 8}}
    write_file(
        tmp_path / "other.safetensors", AdapterFile(old.card.model_copy(update={"training": halved}), {**old.tensors})
    )
    adapt("rebuild", "other.safetensors", "--data", data).failed(2, "the number of the records is 16, and was 8")


def test_what_cannot_be_rebuilt_says_why(adapt: Any, adapter: Path, built: Path, tmp_path: Path) -> None:
    adapt("rebuild", adapter).failed(2, "cannot be rebuilt", "does not record the arguments")
    adapt("rebuild", built, "--train", "nowhere.conll").failed(2, "nowhere.conll")
    adapt("rebuild", built).failed(2, "the data are not in this folder", "--data")
    parts = read_file(built)
    training = {**parts.card.training, "seeds": {}}
    write_file(
        tmp_path / "s.safetensors", AdapterFile(parts.card.model_copy(update={"training": training}), parts.tensors)
    )
    adapt("rebuild", "s.safetensors").failed(2, "with several seeds")
    for odd in ({"arguments": {"method": 3}}, {"arguments": []}, {"arguments": {}, "options": 3, "splits": 3}):
        card = parts.card.model_copy(update={"training": {**parts.card.training, **odd}})
        write_file(tmp_path / "odd.safetensors", AdapterFile(card, parts.tensors))
        ran = adapt("rebuild", "odd.safetensors", "--data", tmp_path)
        assert (ran.status, "This should not happen" in ran.err) == (2, False), ran


def test_a_signed_provenance_is_verified_beside_the_file(adapt: Any, built: Path) -> None:
    adapt("sign", built).failed(2, "say what to sign")
    adapt("sign", built, "--key", "mine").failed(2, "unknown key")
    adapt("verify", built).failed(2, "add --run", "adapt sign")
    adapt("key", "new", "mine")
    assert adapt("sign", built, "--key", "mine").status == 0
    ran = adapt("verify", built)
    assert ran.status == 0
    for words in (
        "this machine's key mine",
        "lora",
        "train.conll",
        "records: train",
        read_card(built).training["data_sha256"]["train"],
    ):
        assert words in ran.out
    (document,) = json.loads(adapt("verify", built, "--json").out)
    assert document["statement"]["predicateType"] == "https://slsa.dev/provenance/v1"
    adapter = read_file(built)
    write_file(built, AdapterFile(adapter.card.model_copy(update={"version": "2"}), adapter.tensors))
    ran = adapt("verify", built)
    assert ran.status == 1
    assert "it is the provenance of another file" in ran.out


def test_a_provenance_comes_with_the_installation_and_is_verified_by_name(
    adapt: Any, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key counts where it is trusted; the adapter itself was verified by its entry."""
    adapter = read_file(built)
    write_file(built, AdapterFile(adapter.card.model_copy(update={"metrics": {"test": {"f1": 50.0}}}), adapter.tensors))
    public = adapt("key", "new", "mine").out.strip()
    card = ["--publisher", "acme", "--test-set", "towns", "--licence", "CC0-1.0", "--language", "en"]
    arguments = [*card, "--description", "Places.", "--sign", "mine", "--name", "places"]
    ran = adapt("publish", built, "--registry", "registry", *arguments, "--json")
    assert ran.status == 0, ran
    signed = Path(json.loads(ran.out)["provenance"])
    monkeypatch.setenv("ADAPTDOCK_HOME", str(tmp_path / "another machine"))
    ran = adapt("install", "places", "--source", "registry")
    assert ran.status == 0, ran
    (document,) = json.loads(adapt("verify", "places", "--json").out)
    assert "its provenance does not count" in document["state"]
    assert "no key that is trusted here" in document["state"]
    assert "statement" not in document
    assert adapt("trust", "add", "acme", public).status == 0
    ran = adapt("verify", "places")
    assert ran.status == 0
    assert "with a provenance signed by acme" in ran.out
    assert read_card(built).training["data_sha256"]["train"] in ran.out
    (kept,) = (tmp_path / "another machine").rglob("*.intoto.jsonl")
    assert kept.read_bytes() == signed.read_bytes()
    kept.write_text("{}")
    ran = adapt("verify", "places")
    assert (ran.status, "its provenance does not count" in ran.out) == (0, True)
    signed.unlink()
    assert adapt("remove", "places").status == 0
    assert adapt("install", "places", "--source", "registry").status == 0
    assert "as installed" in adapt("verify", "places").out
    assert list((tmp_path / "another machine").rglob("*.intoto.jsonl")) == []
