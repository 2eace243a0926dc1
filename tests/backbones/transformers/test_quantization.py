"""Backbones in 4 and 8 bit: which library does it, what stays in float, and that every method works on them."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny_model
from builders import build_adapter
from models import tiny_bert
from one_step import train
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adaptdock.backbones.huggingface import HuggingFace, HuggingFaceBackbone
from adaptdock.backbones.transformers import quantization
from adaptdock.engine.core.batches import collate, collate_labels
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.members.trainable import TaskStart, Trainable
from adaptdock.errors import BackboneError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Batch, Feature, LoadOptions

TORCHAO = {"quantize": "int8"}
NF4 = {"quantize": "nf4"}
BITSANDBYTES = {"quantize": "int8", "quantizer": "bitsandbytes"}
QUANTISED = {"torchao-int8": TORCHAO, "nf4": NF4, "bitsandbytes-int8": BITSANDBYTES}
METHODS = {
    "lora": {"roles": "all", "rank": 4},
    "prefix": {"length": 4},
    "bottleneck": {"reduction_factor": 4},
}
TEXTS = ["ada met bob in oslo", "rain", "a quick brown fox jumps over 13 dogs", "a b c d e f"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("wide"), width=64)  # the blocks of nf4 are 64 wide


def load(name: Path | str, options: dict[str, Any]) -> HuggingFaceBackbone:
    return HuggingFace().load(str(name), LoadOptions(device="cpu", **options))


@pytest.fixture(params=QUANTISED)
def dock(request: pytest.FixtureRequest, folder: Path) -> Iterator[Dock]:
    opened = Dock(load(folder, QUANTISED[request.param]))
    yield opened
    opened.close()


def features(dock: Dock, labelled: bool = False) -> list[Feature]:
    encoded = [dict(dock.backbone.tokenizer(text, return_token_type_ids=False)) for text in TEXTS]
    return [
        Feature(inputs, [n % 5 for n in range(len(inputs["input_ids"]))] if labelled else None) for inputs in encoded
    ]


def hidden(dock: Dock, names: list[str | None], inputs: dict[str, Tensor]) -> Tensor:
    with dock.boarding(names) as rows:
        return dock.hidden(rows, inputs)


@pytest.mark.parametrize(
    ("quantize", "quantizer", "device", "chosen"),
    [
        ("int8", "auto", "cpu", "torchao"),
        ("int8", "auto", "cuda", "bitsandbytes"),
        ("nf4", "auto", "cpu", "bitsandbytes"),
        ("nf4", "auto", "cuda", "bitsandbytes"),
        ("int8", "bitsandbytes", "cpu", "bitsandbytes"),
        ("int8", "torchao", "cuda", "torchao"),
    ],
)
def test_the_library_is_the_one_that_is_fast_on_the_device_unless_named(
    quantize: str, quantizer: str, device: str, chosen: str
) -> None:
    assert quantization.choose(quantize, quantizer, device) == chosen


def test_nf4_by_torchao_is_refused() -> None:
    with pytest.raises(BackboneError, match="nf4 is a format of bitsandbytes"):
        quantization.choose("nf4", "torchao", "cpu")


@pytest.mark.parametrize(("quantize", "library"), [("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    quantize: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(quantization, "find_spec", lambda name: None if name == library else real(name))
    with pytest.raises(BackboneError, match=rf"needs {library}, .*: pip install {library}, .* --dtype bfloat16"):
        quantization.choose(quantize, "auto", "cpu")


def test_a_model_that_torchao_would_leave_as_it_is_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"h\.0\.attn\.c_attn is a Conv1D"):
        quantization.quantize_with_torchao(tiny_model("gpt2"))


def test_a_gguf_file_is_not_quantised_again(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    with pytest.raises(BackboneError, match="a GGUF file, which bitsandbytes cannot quantise again"):
        load(tmp_path / "tiny.gguf", NF4)


@pytest.mark.parametrize("kind", QUANTISED)
def test_the_linear_maps_are_quantised_and_embeddings_norms_and_heads_stay_in_float(kind: str, folder: Path) -> None:
    backbone = load(folder, QUANTISED[kind])
    for port in backbone.ports.select("linear", ("all",)):
        weight = backbone.model.get_submodule(port.module).weight
        assert type(weight).__name__ in ("Int8Tensor", "Params4bit", "Int8Params"), port
    for module in backbone.model.modules():
        if isinstance(module, nn.Embedding | nn.LayerNorm):
            assert module.weight.dtype == torch.float32
    dock = Dock(backbone)
    resident = dock.assembly(dock.dock(build_adapter(backbone, "lora")))
    assert {page.dtype for page in dock._residents["lora"].head.pages} == {torch.float32}
    assert resident.width == 64


def test_a_quantised_backbone_has_the_ports_and_nearly_the_output_of_the_float_one(dock: Dock, folder: Path) -> None:
    exact = load(folder, {})
    assert [vars(port) for port in dock.backbone.ports] == [vars(port) for port in exact.ports]
    inputs = collate(exact, features(dock))
    kept = inputs["attention_mask"].bool()
    with torch.no_grad():
        wanted = exact.forward(Batch(inputs))[kept]
    found = hidden(dock, [None] * len(TEXTS), inputs)[kept]
    assert 0 < (found - wanted).abs().max() < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_trains_on_a_quantised_backbone_and_leaves_it_as_it_was(dock: Dock, method: str) -> None:
    given = features(dock, labelled=True)
    inputs = collate(dock.backbone, given)
    before = hidden(dock, [None] * 4, inputs)
    start = build_adapter(dock.backbone, method, METHODS[method], trained=False)
    trained = AdapterFile(start.card, train(dock, start, given))
    name = dock.dock(trained)
    assert not torch.equal(hidden(dock, [name] * 4, inputs), before)
    dock.unload(name)
    assert torch.equal(hidden(dock, [None] * 4, inputs), before)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_on_a_quantised_backbone_are_nearly_those_on_the_float_one(
    dock: Dock, method: str, folder: Path
) -> None:
    found, wanted = gradients(dock, method), gradients(Dock(load(folder, {})), method)
    for name, gradient in wanted.items():
        alike = torch.nn.functional.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0)
        assert alike > 0.9, (name, alike)


def gradients(dock: Dock, method: str) -> dict[str, Tensor]:
    """Return the gradient of each weight of an adapter whose weights are noise."""
    start = build_adapter(dock.backbone, method, METHODS[method])
    assembly = dock._assembled(start)
    model = Trainable(dock.backbone, dock.ports, [[TaskStart(assembly)]])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    given = features(dock, labelled=True)
    dock.ports.acquire(assembly.sites)
    model(labels=[collate_labels(given, dock.backbone.device)], **collate(dock.backbone, given))["loss"].backward()
    dock.ports.release(assembly.sites)
    return {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize("source", ["tiny", "minilm"])
def test_in_torchaos_int8_a_row_does_not_depend_on_what_stands_beside_it(source: str, folder: Path) -> None:
    dock = Dock(load(folder if source == "tiny" else "minilm", TORCHAO))
    names = [None, *(dock.dock(build_adapter(dock.backbone, name, options)) for name, options in METHODS.items())]
    inputs = collate(dock.backbone, features(dock))
    mixed = hidden(dock, names, inputs)
    for row in range(len(names)):
        others = {**inputs, "input_ids": inputs["input_ids"].roll(1, dims=1)}
        others["input_ids"][row] = inputs["input_ids"][row]
        assert torch.equal(hidden(dock, names, others)[row], mixed[row])


@pytest.mark.parametrize("kind", ["torchao-int8", "nf4"])
def test_a_row_in_a_mixed_batch_equals_that_row_alone_on_a_quantised_backbone(kind: str, folder: Path) -> None:
    dock = Dock(load(folder, QUANTISED[kind]))
    names = [None, *(dock.dock(build_adapter(dock.backbone, name, options)) for name, options in METHODS.items())]
    inputs = collate(dock.backbone, features(dock))
    kept = inputs["attention_mask"].bool()
    mixed = hidden(dock, names, inputs)
    for row, name in enumerate(names):
        alone = hidden(dock, [name], {key: value[row : row + 1] for key, value in inputs.items()})[0]
        torch.testing.assert_close(mixed[row][kept[row]], alone[kept[row]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_minilm_in_torchaos_int8_trains_every_method(method: str) -> None:
    dock = Dock(load("minilm", TORCHAO))
    start = build_adapter(dock.backbone, method, METHODS[method], trained=False)
    train(dock, start, features(dock, labelled=True))


def test_the_weight_of_a_tensor_subclass_that_holds_plain_numbers_is_not_taken_for_a_quantised_one():
    module = Conv1D(3, 2)
    expected = module.weight.detach().T.clone()
    module.weight = nn.Parameter(Plain(module.weight.detach()), requires_grad=False)
    assert torch.equal(quantization.dense(module).as_subclass(Tensor), expected)


class Plain(Tensor):
    """A subclass that adds nothing, as DTensor adds nothing to a number."""
