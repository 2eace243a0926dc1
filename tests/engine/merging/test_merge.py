"""A merged model, loaded by transformers alone, does what the backbone with the adapter docked does."""

import json
from pathlib import Path

import pytest
import torch
from architectures import CONFIGS, tiny_backbone, tiny_model
from builders import build_adapter
from models import tiny_tokenizer
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.merging.merge import merge
from adaptdock.errors import BackboneError, MismatchError, UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone, Batch

IDS = torch.tensor([[2, 11, 23, 35, 47, 59, 3], [2, 8, 9, 10, 3, 0, 0]])
MASK = (IDS != 0).long()
KEPT = MASK.bool()
INPUTS = {"input_ids": IDS, "attention_mask": MASK}


def docked(backbone: Backbone, adapter: AdapterFile, reads: str = "encoder") -> torch.Tensor:
    dock = Dock(backbone)
    name = dock.dock(adapter)
    with dock.boarding([name] * 2) as rows:
        hidden = dock.hidden(rows, INPUTS, reads)
    dock.close()
    return hidden[KEPT]


@torch.no_grad()
def loaded(folder: Path) -> torch.Tensor:
    model = AutoModel.from_pretrained(folder).eval()
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    return reader(**INPUTS)[0][KEPT]


def language_backbone(architecture: str, auto: type = AutoModelForCausalLM) -> HuggingFaceBackbone:
    config = AutoConfig.for_model(architecture, **{"vocab_size": 100, "pad_token_id": 0, **CONFIGS[architecture]})
    torch.manual_seed(0)
    return HuggingFaceBackbone(f"tiny-{architecture}", auto.from_config(config), tiny_tokenizer(), "mark")


@pytest.mark.parametrize(
    ("method", "options"),
    [("lora", {"rank": 3}), ("lora", {"rank": 3, "rslora": True}), ("dora", {"rank": 3}), ("ia3", {})],
)
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "albert", "t5"])
def test_the_merged_model_gives_the_hidden_states_of_the_docked_adapter(architecture, method, options, tmp_path):
    backbone = tiny_backbone(architecture)
    adapter = build_adapter(backbone, method, {**options, "roles": "all"})
    state = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    with torch.no_grad():
        before = backbone.forward(Batch(INPUTS))
    wanted = docked(backbone, adapter)
    ports = merge(backbone, adapter, tmp_path / "merged")
    assert set(ports) == {port.name for port in backbone.ports.within("encoder").select("linear", ("all",))}
    torch.testing.assert_close(loaded(tmp_path / "merged"), wanted, atol=1e-5, rtol=0)
    assert (before[KEPT] - wanted).abs().max() > 0.05
    with torch.no_grad():
        assert torch.equal(backbone.forward(Batch(INPUTS)), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.model.state_dict().items())


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_an_adapter_stored_in_16_bit_merges_into_what_it_does_when_docked(method, tmp_path):
    backbone = tiny_backbone("bert")
    adapter = build_adapter(backbone, method, {"rank": 3, "alpha": 7})
    adapter = AdapterFile(adapter.card, {name: tensor.half() for name, tensor in adapter.tensors.items()})
    merge(backbone, adapter, tmp_path / "merged")
    torch.testing.assert_close(loaded(tmp_path / "merged"), docked(backbone, adapter), atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_language_model_keeps_its_map_to_the_vocabulary(architecture, tmp_path):
    backbone = language_backbone(architecture)
    adapter = build_adapter(backbone, "lora", {"rank": 3})
    merge(backbone, adapter, tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    dock = Dock(backbone)
    name = dock.dock(adapter)
    with torch.no_grad(), dock.boarding([name] * 2) as rows:
        wanted = backbone.vocabulary_logits(dock.hidden(rows, INPUTS))
        found = model(**INPUTS).logits
    torch.testing.assert_close(found[KEPT], wanted[KEPT], atol=1e-5, rtol=0)
    assert torch.equal(model.get_output_embeddings().weight, backbone.generator.get_output_embeddings().weight)
    torch.testing.assert_close(loaded(tmp_path / "merged"), docked(backbone, adapter), atol=1e-5, rtol=0)


def test_an_encoder_decoder_that_writes_keeps_both_halves(tmp_path):
    backbone = language_backbone("t5", AutoModelForSeq2SeqLM)
    merge(backbone, build_adapter(backbone, "lora", {"rank": 3}), tmp_path / "merged")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged").state_dict()
    changed = {name for name, tensor in backbone.generator.state_dict().items() if not torch.equal(again[name], tensor)}
    assert changed == {
        f"encoder.block.{layer}.layer.0.SelfAttention.{half}.weight" for layer in (0, 1) for half in "qv"
    }


def test_head_card_and_tokenizer_lie_in_the_folder(tmp_path):
    backbone = tiny_backbone("bert")
    adapter = build_adapter(backbone, "lora", {"rank": 2}, labels=("LOC", "PER"))
    merge(backbone, adapter, tmp_path / "merged")
    head = load_file(tmp_path / "merged" / "head.safetensors")
    assert head.keys() == {"head.weight", "head.bias"}
    assert all(torch.equal(tensor, adapter.tensors[name]) for name, tensor in head.items())
    assert Card.model_validate_json((tmp_path / "merged" / "card.json").read_text()) == adapter.card
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer("ada met bob")["input_ids"] == backbone.tokenizer("ada met bob")["input_ids"]
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["model_type"] == "bert"


@pytest.mark.parametrize("method", ["bottleneck", "prefix", "prompt"])
def test_what_is_no_linear_map_is_refused_by_name(method, tmp_path):
    backbone = tiny_backbone("bert")
    with pytest.raises(UsageError, match=f"{method}.* cannot be merged into a backbone"):
        merge(backbone, build_adapter(backbone, method), tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_a_quantised_backbone_is_refused_with_the_way_out(tmp_path):
    backbone = tiny_backbone("bert")
    adapter = build_adapter(backbone, "lora")
    backbone.quantized = "nf4"
    with pytest.raises(UsageError, match=r"nf4 weights of a quantised backbone.*Load the backbone without"):
        merge(backbone, adapter, tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_an_adapter_of_another_backbone_is_refused(tmp_path):
    adapter = build_adapter(tiny_backbone("bert"), "lora")
    other = tiny_backbone("bert")
    other.fingerprint = "blocks1:other"
    with pytest.raises(MismatchError, match="their weights differ"):
        merge(other, adapter, tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_two_methods_at_one_map_are_refused(tmp_path):
    backbone = tiny_backbone("bert")
    one = build_adapter(backbone, "lora", {"rank": 2})
    other = build_adapter(backbone, "ia3", {"roles": "query", "feed_forward": False})
    methods = [*one.card.methods, *other.card.methods]
    twice = AdapterFile(one.card.model_copy(update={"methods": methods}), {**other.tensors, **one.tensors})
    with pytest.raises(UsageError, match=r"two methods of this adapter act at layers.0.query"):
        merge(backbone, twice, tmp_path / "merged")


def test_a_folder_that_exists_is_left_alone_and_only_a_merged_model_is_replaced(tmp_path):
    backbone = tiny_backbone("bert")
    adapter, folder = build_adapter(backbone, "lora"), tmp_path / "merged"
    merge(backbone, adapter, folder)
    with pytest.raises(UsageError, match="exists already"):
        merge(backbone, adapter, folder)
    other = build_adapter(backbone, "lora", seed=1)
    merge(backbone, other, folder, overwrite=True)
    torch.testing.assert_close(loaded(folder), docked(backbone, other), atol=1e-5, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    (folder / "card.json").unlink()
    with pytest.raises(UsageError, match="is no merged model"):
        merge(backbone, adapter, folder, overwrite=True)


def test_the_folder_of_the_backbone_is_never_written_to(tmp_path):
    backbone = tiny_backbone("bert")
    folder = tmp_path / "models" / "bert"
    folder.mkdir(parents=True)
    backbone.id = str(folder)
    for place in (folder, folder.parent):
        with pytest.raises(UsageError, match="which stays as it is"):
            merge(backbone, build_adapter(backbone, "lora"), place, overwrite=True)


def test_a_backbone_that_cannot_be_saved_leaves_nothing_behind(tmp_path, monkeypatch):
    backbone = tiny_backbone("bert")
    monkeypatch.setattr(backbone.tokenizer, "save_pretrained", raise_value_error)
    with pytest.raises(BackboneError, match="cannot be saved: no room for tokens"):
        merge(backbone, build_adapter(backbone, "lora"), tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def raise_value_error(*_: object) -> None:
    raise ValueError("no room for tokens")


def test_a_merged_model_is_a_backbone_again(tmp_path):
    from adaptdock.engine.core.loading import load_backbone
    from adaptdock.plugins.contracts import LoadOptions

    backbone = tiny_backbone("bert")
    adapter = build_adapter(backbone, "lora")
    merge(backbone, adapter, tmp_path / "merged")
    again = load_backbone(str(tmp_path / "merged"), LoadOptions(device="cpu"))
    assert again.fingerprint != backbone.fingerprint
    with torch.no_grad():
        torch.testing.assert_close(again.forward(Batch(INPUTS))[KEPT], docked(backbone, adapter), atol=1e-5, rtol=0)
    assert tiny_model("bert").config.model_type == again.architecture
