"""Models that a program has loaded itself: the fingerprint of the checkpoint with the same weights."""

from pathlib import Path

import pytest
import torch
from builders import build_adapter
from models import tiny_bert, tiny_tokenizer
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BertModel
from writers import writing_backbone

from adaptdock import Dock
from adaptdock.errors import MismatchError, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


def opened(model: object) -> Dock:
    return Dock.open(model, tokenizer=tiny_tokenizer())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_with_the_weights_of_its_checkpoint_is_that_backbone(folder: Path, dtype: str) -> None:
    named = Dock.open(folder, device="cpu").backbone
    model = AutoModel.from_pretrained(folder, dtype=dtype)
    backbone = opened(model).backbone
    assert (backbone.id, backbone.fingerprint) == (named.id, named.fingerprint)
    assert (backbone.vocabulary, backbone.files) == (named.vocabulary, named.files)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_adapter_of_a_changed_model_loads_where_that_model_was_saved_and_nowhere_else(
    folder: Path, tmp_path: Path
) -> None:
    model = AutoModel.from_pretrained(folder)
    model.encoder.layer[0].output.dense.weight.data *= 1.5
    dock = opened(model)
    assert dock.backbone.id == "BertModel in memory"
    adapter = build_adapter(dock.backbone, "lora")
    dock.dock(adapter)
    model.save_pretrained(tmp_path / "saved")
    tiny_tokenizer().save_pretrained(tmp_path / "saved")
    saved = Dock.open(tmp_path / "saved", device="cpu")
    assert saved.predict(saved.dock(adapter), ["ada runs"]) == dock.predict("lora", ["ada runs"])
    with pytest.raises(MismatchError, match="their weights differ"):
        Dock.open(folder, device="cpu").dock(adapter)


def test_a_model_with_fewer_layers_than_its_checkpoint_is_another_backbone(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    model.encoder.layer = model.encoder.layer[:1]
    assert opened(model).backbone.fingerprint != Dock.open(folder, device="cpu").backbone.fingerprint


def test_a_model_that_was_never_saved_has_the_fingerprint_of_the_files_it_becomes(folder: Path, tmp_path: Path) -> None:
    model = BertModel(AutoModel.from_pretrained(folder).config).to(torch.float16)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert opened(model).backbone.fingerprint == Dock.open(tmp_path, device="cpu").backbone.fingerprint


def test_a_language_model_with_its_map_or_without_is_its_checkpoint_and_writes_the_same(tmp_path: Path) -> None:
    backbone = writing_backbone("llama")
    assert backbone.generator is not None
    backbone.generator.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    named = Dock.open(tmp_path, device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    whole = Dock.open(AutoModelForCausalLM.from_pretrained(tmp_path), tokenizer=tokenizer)
    body = Dock.open(AutoModel.from_pretrained(tmp_path), tokenizer=tokenizer)
    assert whole.backbone.fingerprint == body.backbone.fingerprint == named.backbone.fingerprint
    assert whole.generate(None, ["the cat"], max_new_tokens=4) == named.generate(None, ["the cat"], max_new_tokens=4)


def test_a_tokenizer_without_padding_is_left_as_it_is(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    backbone = Dock.open(AutoModel.from_pretrained(folder), tokenizer=tokenizer).backbone
    assert tokenizer.pad_token is None
    assert backbone.tokenizer.pad_token == "[UNK]"


def test_a_loaded_model_needs_its_tokenizer_and_takes_no_options(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    for tokenizer in (None, "a name", 5):
        with pytest.raises(UsageError, match=r"a loaded model needs its tokenizer \(tokenizer=\)"):
            Dock.open(model, tokenizer=tokenizer)
    with pytest.raises(UsageError, match="the model is loaded already, so dtype cannot be chosen any more"):
        Dock.open(model, tokenizer=tiny_tokenizer(), dtype="bfloat16")
    with pytest.raises(UsageError, match="an alias, a path, a hub id, or a loaded model of transformers; found Linear"):
        Dock.open(torch.nn.Linear(2, 2))
