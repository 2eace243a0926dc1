"""Adapters of AdapterHub give the logits that its library gave, and go back as they came."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from logits import difference, ours
from safetensors.torch import load_file

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.docking_trial import try_out
from adaptdock.errors import AdaptError, FileError, UsageError
from adaptdock.hub.interchange.conversion import export_adapter, import_adapter
from adaptdock.hub.interchange.incoming import read_json
from adaptdock.plugins.contracts import Backbone, LoadOptions

FIXTURES = Path(__file__).parent.parent / "fixtures" / "adapterhub"
LIMIT = 1e-5
REFUSED = {
    "inv_gpt2": "inv_adapter in gpt2",
    "prompt": "prompt_tuning",
}
CARRIED = sorted(path.parent.name for path in FIXTURES.glob("*/base.txt") if path.parent.name not in REFUSED)


GATED = ("gated_bn", "gated_gpt2", "gated_lora", "gated_par", "gated_prefix", "gated_prefix2", "gating", "unipelt")
UNPADDED = {"gating"}
"""Cases in which the library's own result depends on the padding of the batch."""


@pytest.fixture(scope="module")
def backbones() -> dict[str, Backbone]:
    return {
        folder.name.removeprefix("base_"): load_backbone(str(folder), LoadOptions(device="cpu"))
        for folder in FIXTURES.glob("base_*")
    }


def case(name: str, backbones: dict[str, Backbone]) -> tuple[Path, Backbone]:
    folder = FIXTURES / name
    return folder, backbones[(folder / "base.txt").read_text()]


def test_there_are_cases_of_every_method() -> None:
    kinds = {read_json(FIXTURES / name / "adapter_config.json")["config"].get("architecture") for name in CARRIED}
    assert kinds == {None, "prefix_tuning", "lora", "union", "reft"}


@pytest.mark.parametrize("name", CARRIED)
def test_an_adapter_of_adapterhub_has_its_logits_here_and_when_it_went_there_and_back(
    name: str, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    folder, backbone = case(name, backbones)
    inputs, wanted = recorded(folder)
    imported = import_adapter(folder, backbone, name, attention="eager")
    try_out(Dock(backbone), imported.file)
    got = ours(backbone, imported.file, inputs)
    assert difference(got, wanted, inputs) < LIMIT

    bare = {key: torch.zeros_like(tensor) if acts(key) else tensor for key, tensor in imported.file.tensors.items()}
    silent = type(imported.file)(imported.file.card, bare)
    assert difference(ours(backbone, silent, inputs), wanted, inputs) > 1e-3

    export_adapter(imported.file, backbone, tmp_path / "back", "adapterhub")
    again = import_adapter(tmp_path / "back", backbone, name, attention="eager")
    assert difference(ours(backbone, again.file, inputs), wanted, inputs) < LIMIT


@pytest.mark.parametrize("name", GATED)
def test_gates_give_a_text_in_a_padded_batch_what_the_library_gives_it_without_padding(
    name: str, backbones: dict[str, Backbone]
) -> None:
    folder, backbone = case(name, backbones)
    inputs, wanted = recorded(folder)
    adapter = import_adapter(folder, backbone, name).file
    alone = ours(backbone, adapter, inputs)
    padding = torch.zeros(len(wanted), 3, dtype=torch.long)
    padded = {key: torch.cat([tensor, padding], dim=1) for key, tensor in inputs.items()}
    together = ours(backbone, adapter, padded)
    for row, text in enumerate(inputs["attention_mask"].bool()):
        logits = together[row] if together[row].ndim == 1 else together[row][: len(text)]
        assert (logits - alone[row]).abs().max() < LIMIT
        assert (logits - wanted[row]).abs().max() < LIMIT


def recorded(folder: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the recorded inputs and logits of a case."""
    tensors = load_file(folder / "reference.safetensors")
    if folder.name in UNPADDED:
        whole = tensors["in.attention_mask"].all(1)
        tensors = {key: tensor[whole] for key, tensor in tensors.items()}
    return {key[3:]: tensor for key, tensor in tensors.items() if key.startswith("in.")}, tensors["out.logits"]


def acts(key: str) -> bool:
    return not key.startswith("head.")


def config_of(folder: Path, name: str) -> dict[str, Any]:
    config: dict[str, Any] = read_json(folder / name)["config"]
    return config


@pytest.mark.parametrize("name", ["seqbn", "par", "resid_false", "post_add", "leave", "lora", "ia3", "t5_leave"])
def test_what_is_exported_has_the_tensors_and_the_wiring_that_the_library_wrote(
    name: str, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    folder, backbone = case(name, backbones)
    export_adapter(import_adapter(folder, backbone, name).file, backbone, tmp_path / "back", "adapterhub")
    for config, file in (("adapter_config.json", "adapter"), ("head_config.json", "model_head")):
        theirs = {key.replace(".a.", ".adapter."): tensor for key, tensor in weights(folder, file).items()}
        back = weights(tmp_path / "back", file)
        assert back.keys() == theirs.keys()
        assert all(back[key].equal(tensor) for key, tensor in theirs.items())
        ours, wanted = config_of(tmp_path / "back", config), config_of(folder, config)
        wanted |= {"non_linearity": wanted["non_linearity"]} if "non_linearity" in wanted else {}
        assert {key: ours[key] for key in ours if key != "reduction_factor"} == {
            key: wanted.get(key) for key in ours if key != "reduction_factor"
        }


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    path = folder / f"{name}.safetensors"
    if path.is_file():
        return load_file(path)
    return torch.load(folder / f"pytorch_{name}.bin", weights_only=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "words"), REFUSED.items())
def test_what_cannot_be_carried_over_is_refused_by_its_name(
    name: str, words: str, backbones: dict[str, Backbone]
) -> None:
    with pytest.raises(UsageError, match=words):
        import_adapter(*case(name, backbones), name)


def test_names_of_classes_are_those_of_the_head(backbones: dict[str, Backbone]) -> None:
    task = import_adapter(*case("seqbn", backbones), "x").file.card.task
    assert (task.name, task.options["labels"]) == ("classification", ["neg", "neu", "pos"])
    tags = import_adapter(*case("par", backbones), "x").file.card.task
    assert (tags.name, tags.options["labels"]) == ("ner", ["PER", "LOC"])


def test_an_adapter_of_another_architecture_or_none_at_all_is_refused(
    backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="an adapter for bert"):
        import_adapter(FIXTURES / "seqbn", backbones["gpt2"], "x")
    with pytest.raises(FileError, match="no such folder"):
        import_adapter(tmp_path / "none", backbones["bert"], "x")
    with pytest.raises(UsageError, match="no adapter of peft or AdapterHub"):
        import_adapter(tmp_path, backbones["bert"], "x")


@pytest.mark.parametrize(
    ("config", "option", "value", "words"),
    [
        ("adapter_config.json", "inv_adapter", "glow", "inv_adapter glow"),
        ("adapter_config.json", "inv_adapter", "real_nvp", "'nice' or 'glow'"),
        ("adapter_config.json", "inv_adapter_reduction_factor", 4, "inv_adapter_reduction_factor 4"),
        ("adapter_config.json", "non_linearity", "cubic", "cubic"),
        ("head_config.json", "head_type", "causal_lm", "inv_adapter with the head causal_lm"),
    ],
)
def test_an_invertible_adapter_that_would_compute_something_else_is_refused(
    config: str, option: str, value: object, words: str, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    with pytest.raises(AdaptError, match=words):
        import_adapter(changed("inv", config, {option: value}, tmp_path), backbones["bert"], "x")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"phm_dim": 8}, "phm_dim"),
        ({"phm_dim": 3}, "phm_dim is 3"),
        ({"phm_rank": 2}, "phm_rank 2"),
        ({"phm_bias": False}, "phm_bias is False"),
        ({"shared_phm_rule": False}, "phm_rule"),
        ({"shared_W_phm": True}, "shared_W_phm"),
        ({"scaling": "channel"}, "scaling 'channel'"),
        ({"factorized_phm_W": False}, "W"),
        ({"phm_layer": False}, "adapter_down.0.weight"),
    ],
)
def test_a_compacter_whose_tensors_are_not_those_of_its_options_is_refused(
    options: dict[str, Any], words: str, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    with pytest.raises(AdaptError, match=words):
        import_adapter(changed("compacter", "adapter_config.json", options, tmp_path), backbones["bert"], "x")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("own_norms", {"ln_after": False}, "adapter_norm_after"),
        ("own_norms", {"ln_before": False}, "adapter_down.0.weight"),
        ("seqbn", {"ln_after": True}, "adapter_norm_after.weight"),
        ("seqbn", {"ln_before": True}, "adapter_norm_before.weight"),
        ("plus", {"residual_before_ln": True}, "original_ln_after"),
        ("plus", {"original_ln_before": False}, "original_ln_after"),
        ("gated_bn", {"use_gating": False}, "gate"),
        ("seqbn", {"use_gating": True}, "gate.weight"),
    ],
)
def test_a_bottleneck_whose_norms_are_not_those_of_its_options_is_refused(
    name: str, options: dict[str, Any], words: str, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    with pytest.raises(AdaptError, match=words):
        import_adapter(changed(name, "adapter_config.json", options, tmp_path), backbones["bert"], "x")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gated_prefix2", {"shared_gating": True}, "shared_gating is True"),
        ("prefix", {"use_gating": True}, "use_gating"),
        ("lora", {"use_gating": True}, "gate.weight"),
        ("gated_lora", {"use_gating": False}, "gate"),
        ("ia3", {"use_gating": True}, "with gates"),
        ("dora", {"use_gating": True}, "DoRA with gates"),
    ],
)
def test_gates_that_are_not_those_of_the_options_are_refused(
    name: str, options: dict[str, Any], words: str, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    with pytest.raises(AdaptError, match=words):
        import_adapter(changed(name, "adapter_config.json", options, tmp_path), case(name, backbones)[1], "x")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"suffix_positions": 1}, "3 positions at the beginning and 1 at the end"),
        ({"prefix_positions": 0}, "0 positions at the beginning"),
        ({"orthogonality": False}, "this kind of ReFT"),
        ({"subtract_projection": False}, "this kind of ReFT"),
        ({"non_linearity": "relu"}, "this kind of ReFT"),
        ({"layers": [1]}, "is in layer 0"),
        ({"layers": [0, 1, 2]}, "layers"),
        ({"r": 3}, "r is 3"),
        ({"tied_weights": True}, "units.1"),
    ],
)
def test_reft_that_would_compute_something_else_is_refused(
    options: dict[str, Any], words: str, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    with pytest.raises(AdaptError, match=words):
        import_adapter(changed("reft", "adapter_config.json", options, tmp_path), backbones["bert"], "x")


def test_gates_do_not_depend_on_the_padding_of_the_batch(backbones: dict[str, Backbone]) -> None:
    folder, backbone = case("unipelt", backbones)
    imported = import_adapter(folder, backbone, "x")
    assert sum("means over the positions of a text" in note for note in imported.notes) == 1
    alone = {"input_ids": torch.tensor([[7, 9, 11]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    padded = {key: torch.nn.functional.pad(tensor, (0, 4)).repeat(2, 1) for key, tensor in alone.items()}
    padded["input_ids"][1], padded["attention_mask"][1] = 8, 1
    (expected,) = ours(backbone, imported.file, alone)
    torch.testing.assert_close(ours(backbone, imported.file, padded)[0], expected, atol=LIMIT, rtol=0)


def changed(name: str, config: str, options: dict[str, Any], folder: Path) -> Path:
    """A copy of a case with other options."""
    copy = shutil.copytree(FIXTURES / name, folder / name)
    values = read_json(copy / config)
    values["config"] |= options
    (copy / config).write_text(json.dumps(values), "utf-8")
    return copy
