"""Folders of other libraries that are damaged or contradict themselves: one paragraph that names what."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import CONFIGS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import IA3Config, LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from adaptdock.engine.inference.dock import Dock, load_backbone
from adaptdock.engine.inference.docking_trial import compare, try_out
from adaptdock.errors import AdaptError, FileError, UsageError
from adaptdock.hub.interchange.conversion import import_adapter
from adaptdock.hub.interchange.incoming import Imported
from adaptdock.plugins.contracts import Backbone, LoadOptions

FIXTURES = Path(__file__).parent.parent / "fixtures" / "adapterhub"
PEFT, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Tensors = dict[str, Tensor]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LoRA tensor.s. have invalid shape.*"),
]
METHODS: dict[str, Callable[[], PeftConfig]] = {
    "lora": lambda: LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"]),
    "pooled": lambda: LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "pooler.dense"], lora_bias=True),
    "dora": lambda: LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"], use_dora=True, bias="lora_only"),
    "ia3": lambda: IA3Config(
        task_type="SEQ_CLS", target_modules=["key", "output.dense"], feedforward_modules=["output.dense"]
    ),
    "prefix": lambda: PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=5),
    "prompt": lambda: PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=5),
}
SPECIAL = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model and an adapter of each method of peft."""
    root = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(0)
    config = AutoConfig.for_model("bert", **{**SPECIAL, **CONFIGS["bert"], "num_labels": 3})
    AutoModelForSequenceClassification.from_config(config).save_pretrained(root / "base")
    for name, method in METHODS.items():
        model = AutoModelForSequenceClassification.from_pretrained(root / "base")
        get_peft_model(model, method()).save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def bert(root: Path) -> Backbone:
    return load_backbone(str(root / "base"), LoadOptions(device="cpu"))


@pytest.fixture(scope="module")
def bases() -> dict[str, Backbone]:
    return {
        path.name.removeprefix("base_"): load_backbone(str(path), LoadOptions(device="cpu"))
        for path in FIXTURES.glob("base_*")
    }


def copied(source: Path, folder: Path, change: dict[str, Any], edit: Callable[[Tensors], object] | None = None) -> Path:
    """Copy an adapter of peft with other options and other tensors."""
    shutil.copytree(source, folder)
    values = {**json.loads((folder / CONFIG).read_text()), **change}
    (folder / CONFIG).write_text(json.dumps({key: value for key, value in values.items() if value is not ABSENT}))
    if edit is not None:
        tensors = load_file(folder / PEFT)
        edit(tensors)
        save_file(tensors, folder / PEFT)
    return folder


ABSENT = object()
FRONT = "base_model.model."
QUERY = FRONT + "bert.encoder.layer.1.attention.self.query"
VALUE = FRONT + "bert.encoder.layer.1.attention.self.value"
POOLER, CLASSIFIER = FRONT + "bert.pooler.dense", FRONT + "classifier"

UPDATE = tuple(f"{POOLER}.lora_{part}" for part in ("A.weight", "B.weight", "B.bias"))


def without(*names: str) -> Callable[[Tensors], object]:
    return lambda tensors: [tensors.pop(name) for name in names]


def named(name: str, tensor: Tensor) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensor})


CONTRADICTIONS: list[tuple[str, dict[str, Any], Callable[[Tensors], object] | None, str]] = [
    ("lora", {"r": 8}, None, r"r is 8, the tensor 'bert.*lora_A.weight' has the rank 4"),
    ("lora", {"rank_pattern": {"layer.1.*query": 2}}, None, r"rank_pattern is 2, .*layer\.1.* has the rank 4"),
    ("lora", {}, named(f"{QUERY}.lora_B.bias", torch.ones(32)), r"lora_bias is false, .*query\.lora_B\.bias' is there"),
    ("lora", {"lora_bias": True}, None, r"lora_bias is true, .*lora_B\.bias' is missing"),
    ("pooled", {"lora_bias": False}, None, r"lora_bias is false, .*lora_B\.bias' is there"),
    ("pooled", {}, without(f"{POOLER}.lora_B.bias"), r"lora_bias is true, .*pooler\.dense\.lora_B\.bias' is missing"),
    (
        "pooled",
        {},
        without(*(f"{POOLER}.lora_{part}" for part in ("A.weight", "B.weight", "B.bias"))),
        "pooler.*missing",
    ),
    ("dora", {"use_dora": False}, None, r"use_dora is false, .*lora_magnitude_vector.* is there"),
    ("dora", {}, without(f"{QUERY}.lora_magnitude_vector"), r"use_dora is true, .*magnitude_vector' is missing"),
    ("dora", {}, without(f"{QUERY}.base_layer.bias"), r"bias is 'lora_only', .*query\.base_layer\.bias' is missing"),
    ("lora", {}, without(f"{VALUE}.lora_A.weight", f"{VALUE}.lora_B.weight"), r"target_modules .*1.*value' is missing"),
    ("lora", {"target_modules": ["query"]}, None, r"target_modules is \['query'\], .*value' lies elsewhere"),
    ("lora", {"target_modules": ["query", "value", "key"]}, None, r"target_modules .*\.key' is missing"),
    ("lora", {"target_modules": "all-linear"}, None, r"target_modules is 'all-linear', .* is missing"),
    ("lora", {"layers_to_transform": [0]}, None, r"target_modules .*layer\.1.* lies elsewhere"),
    ("lora", {"exclude_modules": ["value"]}, None, r"target_modules .*value' lies elsewhere"),
    (
        "lora",
        {},
        without(f"{CLASSIFIER}.bias"),
        r"has the weight of its classifier, and classifier\.bias is",
    ),
    ("lora", {}, without(f"{CLASSIFIER}.bias", f"{CLASSIFIER}.weight"), r"modules_to_save .*classifier.* is missing"),
    ("lora", {"modules_to_save": ["pooler"]}, None, r"modules_to_save is \['pooler'\], .*pooler.* is missing"),
    ("lora", {}, named(f"{QUERY}.lora_C.weight", torch.ones(3)), r"the tensor '.*lora_C\.weight'"),
    ("lora", {}, named(f"{QUERY}.lora_A.bias", torch.ones(4)), r"the tensor '.*lora_A\.bias'"),
    ("lora", {}, named(f"{CLASSIFIER}.weight", torch.ones(3, 16)), r"classifier\.weight has the shape \(3, 16\)"),
    ("lora", {}, named(f"{CLASSIFIER}.bias", torch.ones(4)), r"classifier\.bias has the shape \(4,\), .* \(3, 32\)"),
    ("pooled", {}, named(f"{POOLER}.base_layer.bias", torch.ones(31)), r"pooler\.dense\.bias has the shape \(31,\)"),
    ("ia3", {"feedforward_modules": []}, None, r"feedforward_modules is \[\], .*factors on what the map reads"),
    ("ia3", {"feedforward_modules": ["key", "output.dense"]}, None, r"feedforward_modules .*factors on what it gives"),
    ("prefix", {"num_virtual_tokens": 4}, None, r"num_virtual_tokens is 4, .*'prompt_embeddings' has 5 rows"),
    ("prefix", {"num_layers": 3}, None, r"num_layers is 3 in the configuration, and 2 on this backbone"),
    ("prefix", {"num_attention_heads": 2}, None, r"num_attention_heads is 2 in the configuration, and 4 on this"),
    ("prompt", {"num_virtual_tokens": 4}, None, r"num_virtual_tokens is 4, .*'prompt_embeddings' has 5 rows"),
    ("prompt", {"num_virtual_tokens": 10}, None, r"num_virtual_tokens is 10, .*'prompt_embeddings' has 5 rows"),
    ("prompt", {"token_dim": 16}, None, r"token_dim is 16 in the configuration, and embeddings are 32 wide"),
]


@pytest.mark.parametrize(("method", "change", "edit", "words"), CONTRADICTIONS)
def test_a_configuration_of_peft_that_its_tensors_contradict_is_refused_with_both_sides(
    method: str,
    change: dict[str, Any],
    edit: Callable[[Tensors], object] | None,
    words: str,
    root: Path,
    bert: Backbone,
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match=words):
        import_adapter(copied(root / method, tmp_path / "a", change, edit), bert, "x")


@pytest.mark.parametrize(
    ("method", "change", "words"),
    [
        ("lora", {"lora_alpha": None}, "'lora_alpha': it is null"),
        ("lora", {"lora_alpha": "16"}, "'lora_alpha': it is '16'"),
        ("lora", {"lora_alpha": 10**400}, "'lora_alpha': it is 1000"),
        ("lora", {"r": 0}, "'r': it is 0"),
        ("lora", {"r": True}, "'r': it is True"),
        ("lora", {"use_dora": "yes"}, "'use_dora': it is 'yes'"),
        ("lora", {"alpha_pattern": {"(": 3}}, "'alpha_pattern': .*not a regular expression"),
        ("lora", {"alpha_pattern": {"query": None}}, "'alpha_pattern'"),
        ("lora", {"rank_pattern": ["query"]}, "'rank_pattern'"),
        ("lora", {"target_modules": "*"}, "'target_modules': .*not a regular expression"),
        ("lora", {"target_modules": [3]}, "'target_modules'"),
        ("lora", {"modules_to_save": "classifier"}, "'modules_to_save'"),
        ("lora", {"bias": "some"}, "'bias'"),
        ("lora", {"auto_mapping": []}, "'auto_mapping'"),
        ("prompt", {"num_virtual_tokens": ABSENT}, "'num_virtual_tokens': it is missing"),
        ("prefix", {"num_virtual_tokens": -5}, "'num_virtual_tokens': it is -5"),
        ("lora", {"base_model_name_or_path": "\ud800"}, "surrogate"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_option(
    method: str, change: dict[str, Any], words: str, root: Path, bert: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match=words):
        import_adapter(copied(root / method, tmp_path / "a", change), bert, "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "JSON"),
        (b"[]", "it holds no object"),
        (b'{"peft_type": "LORA", "lora_alpha": NaN}', "NaN"),
        (b'{"peft_type": "LORA", "r": 4, "r": 8}', "'r' appears twice"),
        (b'{"peft_type": "\xff"}', "UTF-8"),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_a_configuration_that_is_no_json_object_is_refused(
    text: bytes, words: str, root: Path, bert: Backbone, tmp_path: Path
) -> None:
    folder = copied(root / "lora", tmp_path / "a", {})
    (folder / CONFIG).write_bytes(text)
    with pytest.raises(FileError, match=words):
        import_adapter(folder, bert, "x")


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.ones(4, 32, dtype=torch.int64), "holds int64"),
        (torch.full((4, 32), torch.nan), "not finite"),
        (torch.ones(0, 32), "is empty"),
    ],
)
def test_a_tensor_that_holds_no_weights_is_refused_by_name(
    tensor: Tensor, words: str, root: Path, bert: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match=rf"{QUERY}\.lora_A\.weight.*{words}"):
        import_adapter(copied(root / "lora", tmp_path / "a", {}, named(f"{QUERY}.lora_A.weight", tensor)), bert, "x")


def test_unknown_options_and_a_base_model_of_another_name_get_a_note(
    root: Path, bert: Backbone, tmp_path: Path
) -> None:
    change = {"base_model_name_or_path": "acme/bert-large", "r2d2": 3, "target_modules": None}
    notes = import_adapter(copied(root / "lora", tmp_path / "a", change), bert, "x").notes
    assert [note for note in notes if "'acme/bert-large'" in note and "weights are not" in note]
    assert [note for note in notes if "'r2d2'" in note]
    assert [note for note in notes if "names no target_modules" in note]
    assert not [note for note in import_adapter(root / "lora", bert, "x").notes if "base model" in note]


def test_a_saved_layer_norm_that_no_option_names_acts_as_in_peft(root: Path, bert: Backbone, tmp_path: Path) -> None:
    norm = f"{FRONT}bert.encoder.layer.0.output.LayerNorm"
    both = {f"{norm}.weight": torch.full((32,), 2.0), f"{norm}.bias": torch.ones(32)}
    folder = copied(root / "lora", tmp_path / "a", {}, lambda tensors: tensors.update(both))
    result = import_adapter(folder, bert, "x")
    assert [method.name for method in result.file.card.methods] == ["norms"]  # the LoRA is untrained
    assert result.reference is not None
    assert compare(Dock(bert), result.file, result.reference) < 1e-5


def test_embeddings_saved_beside_a_resized_vocabulary_are_taken_where_they_are_the_backbones(tmp_path: Path) -> None:
    config = AutoConfig.for_model("llama", **{**SPECIAL, **CONFIGS["llama"], "tie_word_embeddings": False})
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "base")
    model.resize_token_embeddings(104, mean_resizing=False)
    model.save_pretrained(tmp_path / "resized")
    model.config._name_or_path = model.name_or_path = str(tmp_path / "base")
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(tmp_path / "a")
    assert any("lm_head" in name for name in load_file(tmp_path / "a" / PEFT))
    small, resized = (load_backbone(str(tmp_path / name), LoadOptions(device="cpu")) for name in ("base", "resized"))
    assert import_adapter(tmp_path / "a", resized, "x").file.card.task.name == "generation"
    with pytest.raises(UsageError, match=r"it has 104 tokens, the backbone 100: the vocabulary was resized"):
        import_adapter(tmp_path / "a", small, "x")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["adapter_fusion_config.json"], "the AdapterFusion in"),
        (["one/adapter_config.json"], r"has no adapter_config\.json; of the folders in it, one has one"),
        ([], r"has no adapter_config\.json$"),
        (["adapter_config.json"], "is neither's"),
    ],
)
def test_a_folder_without_an_adapter_is_refused_for_what_it_lacks(
    files: list[str], words: str, bert: Backbone, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match=words):
        import_adapter(tmp_path, bert, "x")


# --------------------------------------------------------------------------------------- AdapterHub


def hub_copy(
    name: str,
    folder: Path,
    change: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
    edit: Callable[[Tensors], object] | None = None,
    file: str = "pytorch_adapter.bin",
) -> Path:
    """Copy an adapter of AdapterHub with other options of its method or head, and other tensors."""
    shutil.copytree(FIXTURES / name, folder)
    for config, changes in ((CONFIG, change), ("head_config.json", head)):
        values = json.loads((folder / config).read_text())
        merged = {**values["config"], **(changes or {})}
        values["config"] = {key: value for key, value in merged.items() if value is not ABSENT}
        (folder / config).write_text(json.dumps(values))
    if edit is not None:
        tensors = torch.load(folder / file, weights_only=True)
        edit(tensors)
        torch.save(tensors, folder / file)
    return folder


HEAD, BIN = "pytorch_model_head.bin", "pytorch_adapter.bin"
UNDER = "bert.encoder.layer.1.output.adapters.a"
BLOCK = tuple(f"{UNDER}.adapter_{part}" for part in ("down.0.weight", "down.0.bias", "up.weight", "up.bias"))
HUB: list[tuple[str, dict[str, Any], str]] = [
    ("seqbn", {"head": {"num_labels": 4}}, r"num_labels is 4, .*'heads\.a\.4\.weight' has 3 classes"),
    ("seqbn", {"head": {"label2id": {"a": 0, "b": 1}}}, r"label2id is .* has 3 classes"),
    ("seqbn", {"head": {"layers": 3}}, r"layers is 3, .* of 2 layers"),
    ("seqbn", {"edit": without("heads.a.4.bias"), "file": HEAD}, r"the tensor 'heads\.a\.4\.bias' is missing"),
    ("seqbn", {"edit": without("heads.a.1.weight"), "file": HEAD}, r"the tensor 'heads\.a\.1\.weight' is missing"),
    ("seqbn", {"head": {"bias": False}}, r"the tensor 'heads\.a\.4\.bias' of the head"),
    ("seqbn", {"change": {"reduction_factor": 8}}, r"reduction_factor is 8.*has the shape \(4, 16\)"),
    ("seqbn", {"change": {"reduction_factor": {"0": 4}}}, r"reduction_factor has no value for layer 1"),
    ("seqbn", {"change": {"leave_out": [1]}}, r"leave_out is \[1\], .* is in layer 1"),
    ("seqbn", {"change": {"mh_adapter": True}}, r"mh_adapter is True, .* is missing"),
    ("seqbn", {"change": {"output_adapter": False}}, r"output_adapter is False, .*acts at layers"),
    (
        "seqbn",
        {"edit": lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(UNDER)]},
        "layer 1",
    ),
    ("seqbn", {"edit": named(f"{UNDER}.gate.weight", torch.ones(3))}, r"gate\.weight"),
    ("seqbn", {"edit": named("bert.encoder.layer.1.output.adapters.b.adapter_up.bias", torch.ones(16))}, "'b'"),
    ("seqbn", {"change": {"scaling": "learned"}}, r"\.scaling' is missing"),
    ("learned", {"change": {"scaling": 2.0}}, r"scaling is 2\.0, .*holds a learned one"),
    ("lora", {"change": {"r": 8}}, r"r is 8, .* has the rank 4"),
    ("lora", {"change": {"attn_matrices": ["q"]}}, r"attn_matrices is \['q'\], .*(key|value)"),
    ("lora", {"change": {"output_lora": False}}, r"output_lora is False, .*acts at"),
    ("lora", {"change": {"use_dora": True}}, r"m\.weight' is missing"),
    ("dora", {"change": {"use_dora": False}}, r"use_dora is false, .*m\.weight' is there"),
    ("lora", {"change": {"alpha": ABSENT}}, r"'config\.alpha': it is missing"),
    ("lora", {"change": {"r": 0}}, r"'config\.r': it is 0"),
    ("ia3", {"change": {"r": 2}}, r"r 1 and without DoRA; here r is 2"),
    ("seqbn", {"change": {"non_linearity": 3}}, r"'config\.non_linearity': it is 3"),
    ("seqbn", {"change": {"leave_out": ["1"]}}, r"'config\.leave_out'"),
    ("seqbn", {"change": {"architecture": ["lora"]}}, "architecture"),
    ("mam", {"change": {"configs": []}}, r"'config\.configs'"),
    ("prefix", {"change": {"prefix_length": 4}}, r"prefix_length is 4, .* has the shape \(5, 16\)"),
    ("prefix", {"change": {"leave_out": []}}, r"on this backbone, .* has the shape"),
    ("prefix", {"change": {"flat": True}}, r"'control_trans' of the prefix is missing"),
    ("seqbn", {"head": {"head_type": ABSENT}}, r"'config\.head_type': it is missing"),
    ("gpt2_double", {"head": {"vocab_size": 60}}, r"vocab_size is 60, .* has 50 words"),
]


@pytest.mark.parametrize(("name", "changes", "words"), HUB)
def test_a_folder_of_adapterhub_that_contradicts_itself_is_refused_with_both_sides(
    name: str, changes: dict[str, Any], words: str, bases: dict[str, Backbone], tmp_path: Path
) -> None:
    backbone = bases[(FIXTURES / name / "base.txt").read_text()]
    with pytest.raises(AdaptError, match=words):
        import_adapter(hub_copy(name, tmp_path / "a", **changes), backbone, "x")


def test_options_of_adapterhub_that_are_not_known_get_a_note(bases: dict[str, Backbone], tmp_path: Path) -> None:
    folder = hub_copy("seqbn", tmp_path / "a", {"r2d2": 1}, {"c3po": 2})
    notes = " ".join(import_adapter(folder, bases["bert"], "x").notes)
    assert "'r2d2'" in notes
    assert "'c3po'" in notes
    assert not import_adapter(FIXTURES / "seqbn", bases["bert"], "x").notes


def test_a_head_whose_description_is_missing_is_refused(bases: dict[str, Backbone], tmp_path: Path) -> None:
    folder = hub_copy("seqbn", tmp_path / "a")
    (folder / "head_config.json").unlink()
    with pytest.raises(UsageError, match=r"the head in pytorch_model_head\.bin .* no head_config\.json"):
        import_adapter(folder, bases["bert"], "x")


def test_lora_of_adapterhub_before_1_1_has_the_scale_with_which_the_library_trained_it(
    bases: dict[str, Backbone], tmp_path: Path
) -> None:
    folder = hub_copy("lora", tmp_path / "old", {"alpha": 32})
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**values, "version": "adapters.1.0.1"}))
    old = import_adapter(folder, bases["bert"], "x")
    assert old.file.card.methods[0].options["alpha"] == values["config"]["r"]
    assert [note for note in old.notes if "adapters.1.0.1" in note]
    new = import_adapter(hub_copy("lora", tmp_path / "new", {"alpha": 32}), bases["bert"], "x")
    assert new.file.card.methods[0].options["alpha"] == 32


def test_a_bottleneck_behind_the_attention_of_albert_reads_its_input_in_the_library_and_is_refused(
    tmp_path: Path,
) -> None:
    config = AutoConfig.for_model("albert", **{**SPECIAL, **CONFIGS["albert"], "hidden_size": 16})
    AutoModel.from_config(config).save_pretrained(tmp_path / "base")
    backbone = load_backbone(str(tmp_path / "base"), LoadOptions(device="cpu"))
    place = "encoder.albert_layer_groups.0.albert_layers.0.attention.attention_adapters.adapters.a"
    folder = hub_copy("seqbn", tmp_path / "a", {"mh_adapter": True, "output_adapter": False})
    about = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**about, "model_type": "albert"}))
    stored = weights_of(folder)
    torch.save({f"{place}.{name.partition('.a.')[2]}": tensor for name, tensor in stored.items()}, folder / BIN)
    with pytest.raises(UsageError, match=r"a bottleneck with mh_adapter in albert .* the input of the attention"):
        import_adapter(folder, backbone, "x")


def weights_of(folder: Path) -> Tensors:
    """Take the tensors of an adapter of AdapterHub, of one layer."""
    path = next(path for path in (folder / "adapter.safetensors", folder / BIN) if path.is_file())
    tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    path.unlink()
    return {name: tensor for name, tensor in tensors.items() if ".layer.0." in name}


# ------------------------------------------------------------------------------------- whatever else

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.sampled_from([10**30, 10**400, 1e308, 0.5, -1.0]),
    st.sampled_from(["", "(", "query", "all-linear", "learned", "SEQ_CLS", "TOKEN_CLS", "lora", "x" * 999, "\ud800"]),
    st.lists(st.one_of(st.none(), st.integers(0, 3), st.sampled_from(["query", "["])), max_size=2),
    st.dictionaries(
        st.sampled_from(["query", "(", "default", "0"]), st.one_of(st.none(), st.integers(-1, 9)), max_size=2
    ),
)
TENSORS: list[Callable[[Tensor], Tensor | None]] = [
    lambda tensor: None,
    lambda tensor: tensor[:1].clone(),
    lambda tensor: tensor.flatten().clone(),
    lambda tensor: tensor.unsqueeze(0).clone(),
    lambda tensor: torch.zeros(()),
    lambda tensor: tensor.to(torch.int8),
    lambda tensor: tensor * 1e38 * 10,
    lambda tensor: torch.cat([tensor, tensor]),
]
SOURCES = [*METHODS, "seqbn", "map", "channel", "lora", "dora", "ia3", "prefix", "mam", "gpt2_double", "gpt2_lora_k"]


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_a_folder_holds_the_import_succeeds_or_says_why_not_in_one_paragraph(
    data: st.DataObject, root: Path, bert: Backbone, bases: dict[str, Backbone]
) -> None:
    name = data.draw(st.sampled_from(SOURCES), "source")
    of_peft = name in METHODS and data.draw(st.booleans(), "peft")
    source = root / name if of_peft or not (FIXTURES / name).is_dir() else FIXTURES / name
    backbone = bert if source.parent == root else bases[(source / "base.txt").read_text()]
    folder = root / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    config = data.draw(st.sampled_from(sorted(path.name for path in folder.glob("*_config.json"))), "file")
    values = json.loads((folder / config).read_text())
    options = values["config"] if "config" in values and data.draw(st.integers(0, 4)) else values
    key = data.draw(st.sampled_from([*sorted(options), "surplus"]), "option")
    if data.draw(st.integers(0, 5)):
        options[key] = data.draw(JUNK, "value")
    else:
        options.pop(key, None)
    (folder / config).write_text(json.dumps(values))
    if data.draw(st.booleans(), "tensors"):
        change_tensor(data, folder)
    result = outcome(folder, backbone)
    assert isinstance(result, Imported) or ("\n" not in str(result) and len(str(result)) < 2000)


def change_tensor(data: st.DataObject, folder: Path) -> None:
    path = data.draw(st.sampled_from(sorted([*folder.glob("adapter*.safetensors"), *folder.glob("*.bin")])), "weights")
    plain = path.suffix == ".safetensors"
    tensors = load_file(path) if plain else torch.load(path, weights_only=True)
    name = data.draw(st.sampled_from(sorted(tensors)), "tensor")
    changed = data.draw(st.sampled_from(TENSORS), "change")(tensors.pop(name))
    if changed is not None:
        tensors[data.draw(st.sampled_from([name, f"{name}.surplus", name.replace("layer.1", "layer.7")]))] = changed
    if plain:
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


def outcome(folder: Path, backbone: Backbone) -> Imported | AdaptError:
    """Return what the import makes of a folder; any error but one for people is a failure of the test."""
    try:
        imported = import_adapter(folder, backbone, "x")
        imported.file.card.model_dump_json()
        try_out(Dock(backbone), imported.file)
    except AdaptError as error:
        return error
    return imported
