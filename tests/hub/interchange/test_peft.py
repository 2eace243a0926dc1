"""Adapters of the real peft are imported to the logit, and exported so that it loads them again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from builders import build_adapter
from logits import difference, ours
from peft import PeftModel, PrefixTuningConfig
from peft_adapters import CASES, LIMIT, Case, adapter_folder, base_model, batch, load, lora, theirs

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import FileError, UsageError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.interchange.conversion import export_adapter, import_adapter
from adaptdock.hub.interchange.incoming import Imported
from adaptdock.plugins.contracts import Backbone, LoadOptions

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),  # BOFT without CUDA, VeRA without its matrices
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Found missing adapter keys.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*has no bias. This means that merging:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LoRA tensor.s. have invalid shape.*"),  # peft's of its own bias of B
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(scope="module")
def backbones() -> dict[Path, Backbone]:
    return {}


def imported(folder: Path, base: Path, backbones: dict[Path, Backbone]) -> tuple[Backbone, Imported]:
    if base not in backbones:
        backbones[base] = load_backbone(str(base), LoadOptions(device="cpu"))
    return backbones[base], import_adapter(folder, backbones[base], "theirs")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_adapter_of_peft_has_its_logits_here_and_again_in_peft(
    case: Case, tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, case.architecture, case.task, **case.changes)
    folder = adapter_folder(case, base, tmp_path / "peft")
    reference = PeftModel.from_pretrained(load(base, case.task), folder)
    inputs = batch(reference.get_base_model(), case.padded)
    wanted, bare = theirs(reference, inputs), theirs(load(base, case.task), inputs)
    backbone, result = imported(folder, base, backbones)
    assert [method.name for method in result.file.card.methods] == [case.method]
    if case.task == "FEATURE_EXTRACTION":  # the head's mean of the states
        weights = inputs["attention_mask"].unsqueeze(-1)
        wanted, bare = ((states * weights).sum(1) / weights.sum(1) for states in (wanted, bare))
    assert difference(ours(backbone, result.file, inputs), wanted, inputs) < LIMIT
    assert (wanted[:, -bare.shape[1] :] - bare).abs().max() > 0.01  # the adapter does something

    export_adapter(result.file, backbone, tmp_path / "again", "peft")
    again = PeftModel.from_pretrained(load(base, case.task), tmp_path / "again")
    if case.task != "FEATURE_EXTRACTION":
        assert difference(list(theirs(again, inputs)), wanted, inputs) < LIMIT
    twice = import_adapter(tmp_path / "again", backbone, "theirs")
    assert difference(ours(backbone, twice.file, inputs), wanted, inputs) < LIMIT


def test_names_of_classes_come_from_the_configuration_of_the_base(
    tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, "bert", "SEQ_CLS")
    folder = adapter_folder(CASES[0], base, tmp_path / "peft")
    _, result = imported(folder, base, backbones)
    assert result.file.card.task.options["labels"] == ["bad", "so-so", "good"]
    labelled = import_adapter(folder, backbones[base], "x", ("a", "b", "c"))
    assert labelled.file.card.task.options["labels"] == ["a", "b", "c"]
    with pytest.raises(UsageError, match="3 classes"):
        import_adapter(folder, backbones[base], "x", ("a", "b"))


def test_a_bin_of_plain_tensors_is_read_and_one_with_code_is_not(
    tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, "bert", "SEQ_CLS")
    folder = adapter_folder(CASES[0], base, tmp_path / "peft")
    _, result = imported(folder, base, backbones)
    from safetensors.torch import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    _, again = imported(folder, base, backbones)
    assert all(again.file.tensors[name].equal(tensor) for name, tensor in result.file.tensors.items())
    torch.save({"x": Evil()}, folder / "adapter_model.bin")
    with pytest.raises(FileError, match="not loaded"):
        imported(folder, base, backbones)


class Evil:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was run",))


def changed(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"peft_type": ["LORA"]}, "PEFT type"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [5], "lora_bias": True}, "alora_invocation_tokens and lora_bias"),
        ({"trainable_token_indices": [5]}, "it has no tensor .*trainable_token"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"task_type": "QUESTION_ANS"}, "qa_outputs"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_by_its_name(
    change: dict[str, Any], words: str, tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, "bert", "SEQ_CLS")
    folder = adapter_folder(CASES[0], base, tmp_path / "peft")
    changed(folder, **change)
    with pytest.raises(UsageError, match=words):
        imported(folder, base, backbones)


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]) -> None:
    wider = base_model(bases, "bert", "TOKEN_CLS")
    wide = base_model(bases / "wide", "bert", "SEQ_CLS", hidden_size=64)
    with pytest.raises(UsageError, match="another backbone"):
        imported(adapter_folder(CASES[0], wide, tmp_path / "wide"), wider, backbones)
    gpt2 = base_model(bases, "gpt2", "CAUSAL_LM")
    with pytest.raises(UsageError, match="no port there"):
        imported(adapter_folder(CASES[0], wide, tmp_path / "wide"), gpt2, backbones)


def test_t5_prefixes_and_embeddings_are_refused(tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]) -> None:
    base = base_model(bases, "t5", "SEQ_2_SEQ_LM")
    prefix = Case("t5", "SEQ_2_SEQ_LM", PrefixTuningConfig, {"num_virtual_tokens": 5}, "prefix")
    with pytest.raises(UsageError, match="prefix tuning of an encoder-decoder"):
        imported(adapter_folder(prefix, base, tmp_path / "prefix"), base, backbones)
    gpt2 = base_model(bases, "gpt2", "CAUSAL_LM")
    embedded = lora("gpt2", "CAUSAL_LM", target_modules=["c_attn"], modules_to_save=["wpe"])
    with pytest.raises(UsageError, match="wpe"):
        imported(adapter_folder(embedded, gpt2, tmp_path / "wpe"), gpt2, backbones)


def test_a_head_that_reads_the_mean_is_refused_with_the_way_out_and_the_rest_is_written(
    tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, "bert", "SEQ_CLS")
    backbone = backbones.setdefault(base, load_backbone(str(base), LoadOptions(device="cpu")))
    adapter = build_adapter(backbone, "lora", {"rank": 3}, labels=("a", "b"), task="classification")
    with pytest.raises(UsageError, match=r"it reads the mean state .* --without-head"):
        export_adapter(adapter, backbone, tmp_path / "out", "peft")
    assert not (tmp_path / "out").exists()
    export_adapter(adapter, backbone, tmp_path / "out", "peft", headless=True)
    model = PeftModel.from_pretrained(load(base, "FEATURE_EXTRACTION"), tmp_path / "out")
    inputs = batch(model.get_base_model())
    dock = Dock(backbone)
    name = dock.dock(adapter)
    with dock.boarding([name] * 3) as rows:
        states = dock.hidden(rows, inputs)
    unpadded = inputs["attention_mask"].bool()
    torch.testing.assert_close(theirs(model, inputs)[unpadded], states[unpadded], atol=LIMIT, rtol=0)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("prefix", {"length": 3}, "a gated prefix"),
        ("prefix", {"length": 3, "gate": False}, "a prefix that leaves positions alone"),
        ("bottleneck", {}, "the method bottleneck"),
        ("mam", {}, "an adapter of prefix and bottleneck"),
        ("norms", {}, "the method norms"),
    ],
)
def test_methods_that_peft_lacks_are_refused_by_name(
    method: str, options: dict[str, Any], words: str, tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, "bert", "TOKEN_CLS")
    backbone = backbones.setdefault(base, load_backbone(str(base), LoadOptions(device="cpu")))
    with pytest.raises(UsageError, match=words):
        export_adapter(build_adapter(backbone, method, options), backbone, tmp_path / "out", "peft")


def test_a_pooler_that_the_checkpoint_lacks_is_not_made_up(tmp_path: Path, bases: Path) -> None:
    base = base_model(bases, "bert", "SEQ_CLS")
    folder = adapter_folder(CASES[0], base, tmp_path / "peft")
    transformers.BertModel.from_pretrained(base, add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    backbone = load_backbone(str(tmp_path / "bare"), LoadOptions(device="cpu"))
    with pytest.raises(UsageError, match=r"pooler\.dense are neither in the adapter nor in the checkpoint"):
        import_adapter(folder, backbone, "x")


def test_a_pooler_under_lora_goes_through_a_quantized_backbone_and_back_to_peft(tmp_path: Path, bases: Path) -> None:
    base = base_model(bases, "bert", "SEQ_CLS")
    case = lora("bert", "SEQ_CLS", lora_bias=True, target_modules=["query", "pooler.dense"])
    folder = adapter_folder(case, base, tmp_path / "peft")
    reference = PeftModel.from_pretrained(load(base, "SEQ_CLS"), folder)
    inputs = batch(reference.get_base_model())
    backbone = load_backbone(str(base), LoadOptions(device="cpu", quantize="int8"))
    export_adapter(import_adapter(folder, backbone, "x").file, backbone, tmp_path / "again", "peft")
    again = PeftModel.from_pretrained(load(base, "SEQ_CLS"), tmp_path / "again")
    assert difference(list(theirs(again, inputs)), theirs(reference, inputs), inputs) < LIMIT


@pytest.mark.parametrize("method", ["full", "adalora", "bitfit", "lora+bitfit"])
def test_methods_that_can_be_merged_go_to_peft_as_lora(
    method: str, tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, "bert", "TOKEN_CLS")
    backbone = backbones.setdefault(base, load_backbone(str(base), LoadOptions(device="cpu")))
    first, _, second = method.partition("+")
    adapter = build_adapter(backbone, first, labels=("a", "b", "c"), task="pos")
    if second:
        other = build_adapter(backbone, second, labels=("a", "b", "c"), task="pos")
        card = adapter.card.model_copy(update={"methods": [*adapter.card.methods, *other.card.methods]})
        adapter = AdapterFile(card, {**other.tensors, **adapter.tensors})
    notes = export_adapter(adapter, backbone, tmp_path / "out", "peft")
    assert notes == [f"peft gets the merged change of {' and '.join(method.split('+'))} as lora"]
    model = PeftModel.from_pretrained(load(base, "TOKEN_CLS"), tmp_path / "out")
    inputs = batch(model.get_base_model())
    assert difference(ours(backbone, adapter, inputs), theirs(model, inputs), inputs) < LIMIT
