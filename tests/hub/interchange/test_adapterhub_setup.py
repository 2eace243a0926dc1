"""Stacks and fusions of AdapterHub, in folders of several parts, have the logits that its library gave."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import build_adapter
from logits import difference, ours
from safetensors.torch import load_file

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import AdaptError
from adaptdock.hub.artefact.file import read_file, write_file
from adaptdock.hub.interchange.conversion import import_adapter
from adaptdock.hub.interchange.incoming import read_json
from adaptdock.plugins.contracts import Backbone, Feature, LoadOptions

FOLDERS = Path(__file__).parent.parent / "fixtures" / "adapterhub_setups"
LIMIT = 1e-5
CARRIED = {
    "fuse": ([], ["fusion"]),
    "fuse_static": ([], ["fusion"]),
    "fuse_double": ([], ["fusion"]),
    "stack": (["a"], ["bottleneck"]),
    "stack_lang": (["a"], ["lora"]),
    "stack_fuse": (["c"], ["fusion"]),
}
"""Case -> the names of the base adapters, and the methods on top."""


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(str(FOLDERS.parent / "adapterhub" / "base_bert"), LoadOptions(device="cpu"))


@pytest.mark.parametrize("name", CARRIED)
def test_a_setup_is_one_adapter_with_the_logits_of_the_library(name: str, backbone: Backbone, tmp_path: Path) -> None:
    reference = load_file(FOLDERS / name / "reference.safetensors")
    inputs = {key[3:]: tensor for key, tensor in reference.items() if key.startswith("in.")}
    imported = import_adapter(FOLDERS / name, backbone, name)
    card = imported.file.card
    assert ([base.name for base in card.on], [method.name for method in card.methods]) == CARRIED[name]
    assert difference(ours(backbone, imported.file, inputs), reference["out.logits"], inputs) < LIMIT
    write_file(tmp_path / "one.safetensors", imported.file)
    assert (
        difference(ours(backbone, read_file(tmp_path / "one.safetensors"), inputs), reference["out.logits"], inputs)
        < LIMIT
    )


def test_setups_share_a_batch_with_each_other_and_with_lora(backbone: Backbone) -> None:
    adapters = {name: import_adapter(FOLDERS / name, backbone, name).file for name in CARRIED}
    adapters["lora"] = build_adapter(backbone, "lora", labels=("a", "b", "c"), task="classification")
    inputs = load_file(FOLDERS / "fuse" / "reference.safetensors")
    rows = [number % 3 for number in range(len(adapters))]
    features = [
        Feature({name: inputs[f"in.{name}"][row].tolist() for name in ("input_ids", "attention_mask")}) for row in rows
    ]
    with Dock(backbone) as dock:
        names = [dock.dock(adapter, name) for name, adapter in adapters.items()]
        with dock.boarding(names) as boarded:
            together = dock.run(boarded, features)
        for name, feature, logits in zip(names, features, together, strict=True):
            with dock.boarding([name]) as boarded:
                (alone,) = dock.run(boarded, [feature])
            torch.testing.assert_close(logits, alone, atol=LIMIT, rtol=0)


@pytest.mark.parametrize(
    ("name", "words"), [("two_loras", "both have lora"), ("two_pars", "both have parallel bottlenecks")]
)
def test_a_stack_whose_parts_do_not_add_up_in_the_library_is_refused(name: str, words: str, backbone: Backbone) -> None:
    with pytest.raises(AdaptError, match=words):
        import_adapter(FOLDERS / name, backbone, "x")


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("adapter_setup.json", {"adapter_setup": {"type": "Parallel", "children": [1]}}, "the composition Parallel"),
        ("adapter_setup.json", {"adapter_setup": {"type": "Stack", "children": []}}, "has no children"),
        ("adapter_setup.json", {"adapter_setup": {"type": "single", "children": ["../a"]}}, "names the part '../a'"),
        ("adapter_setup.json", {"adapter_setup": {"type": "single", "children": ["z"]}}, "names the part 'z'"),
        ("adapter_setup.json", {"head_setup": "z"}, "names the part 'z'"),
        ("a,b/adapter_fusion_config.json", {"adapter_names": ["b", "a"]}, "it fuses"),
        ("a,b/adapter_fusion_config.json", {"config": {"temperature": True}}, "temperature"),
        ("a,b/adapter_fusion_config.json", {"config": {"residual_before": True}}, "residual_before"),
        ("a,b/adapter_fusion_config.json", {"config": {"value": False}}, "value.weight"),
        ("a/adapter_config.json", {"config": {"is_parallel": True}}, "cannot be computed together|residual stream"),
        ("b/adapter_config.json", {"config": {"ln_before": True}}, "adapter_norm_before"),
    ],
)
def test_a_setup_that_contradicts_itself_or_the_library_is_refused(
    file: str, change: dict[str, Any], words: str, backbone: Backbone, tmp_path: Path
) -> None:
    copy = shutil.copytree(FOLDERS / "fuse", tmp_path / "fuse")
    values = read_json(copy / file)
    if "config" in change:
        change = {"config": values["config"] | change["config"]}
    (copy / file).write_text(json.dumps(values | change), "utf-8")
    with pytest.raises(AdaptError, match=words):
        import_adapter(copy, backbone, "x")


def test_a_setup_has_no_single_method(backbone: Backbone) -> None:
    with pytest.raises(AdaptError, match="leave --method out"):
        import_adapter(FOLDERS / "stack", backbone, "x", method="lora")
