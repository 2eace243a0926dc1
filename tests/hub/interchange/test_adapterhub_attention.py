"""Prefixes of AdapterHub give the logits of its library in each attention, and go back as they came."""

from pathlib import Path

import pytest
import torch
from logits import difference, ours
from safetensors.torch import load_file
from torch import Tensor

from adaptdock.engine.core.loading import load_backbone
from adaptdock.errors import UsageError
from adaptdock.hub.interchange.conversion import export_adapter, import_adapter
from adaptdock.plugins.contracts import Backbone, LoadOptions
from adaptdock.plugins.toolkit.interchange.adapterhub import AttentionMode

FIXTURES = Path(__file__).parent.parent / "fixtures"
FOLDERS = FIXTURES / "adapterhub_attention"
LIMIT = 1e-5
MODES: tuple[AttentionMode, ...] = ("eager", "sdpa", "sdpa-padded")
NAMES = ("gpt2", "llama", "distilbert", "bart")


@pytest.fixture(scope="module")
def backbones() -> dict[str, Backbone]:
    folders = {name: FIXTURES / "adapterhub" / f"base_{name}" for name in NAMES} | {"bart": FOLDERS / "base_bart"}
    return {name: load_backbone(str(folder), LoadOptions(device="cpu")) for name, folder in folders.items()}


def recorded(name: str, mode: str) -> tuple[dict[str, Tensor], Tensor]:
    tensors = load_file(FOLDERS / f"{name}_prefix" / f"{mode}.safetensors")
    return {key[3:]: tensor for key, tensor in tensors.items() if key.startswith("in.")}, tensors["out.logits"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", MODES)
def test_a_prefix_acts_as_in_the_attention_of_the_library(
    name: str, mode: AttentionMode, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    backbone, (inputs, wanted) = backbones[name], recorded(name, mode)
    imported = import_adapter(FOLDERS / f"{name}_prefix", backbone, "x", attention=mode)
    assert difference(ours(backbone, imported.file, inputs), wanted, inputs) < LIMIT
    assert any(note.startswith(("the prefix", "the scores of the prefix")) for note in imported.notes)
    export_adapter(imported.file, backbone, tmp_path / "back", "adapterhub")
    again = import_adapter(tmp_path / "back", backbone, "x", attention=mode)
    assert difference(ours(backbone, again.file, inputs), wanted, inputs) < LIMIT


def test_the_attentions_of_the_library_differ(backbones: dict[str, Backbone]) -> None:
    for name, modes in (("gpt2", ("eager", "sdpa")), ("llama", ("eager", "sdpa-padded")), ("bart", ("eager", "sdpa"))):
        inputs, _ = recorded(name, "sdpa")
        logits = [
            torch.stack(
                ours(
                    backbones[name],
                    import_adapter(FOLDERS / f"{name}_prefix", backbones[name], "x", attention=mode).file,  # type: ignore[arg-type]
                    inputs,
                )
            )
            for mode in modes
        ]
        assert (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_text_in_a_padded_batch_has_the_logits_that_it_has_alone_under_sdpa(
    name: str, backbones: dict[str, Backbone]
) -> None:
    backbone, (inputs, _) = backbones[name], recorded(name, "eager")
    adapter = import_adapter(FOLDERS / f"{name}_prefix", backbone, "x").file
    together = ours(backbone, adapter, inputs)
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        single = {key: values[row : row + 1, mask] for key, values in inputs.items()}
        alone = ours(backbone, adapter, single)[0]
        batched = together[row][mask] if together[row].ndim == 2 else together[row]
        assert (batched - alone).abs().max() < LIMIT


def test_attention_is_refused_for_an_adapter_of_peft(backbones: dict[str, Backbone], tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(UsageError, match="leave --attention out"):
        import_adapter(tmp_path, backbones["gpt2"], "x", attention="eager")
