"""Backbones of images and sounds: ports, states, and adapters that act as they do on texts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile
from transformers import ViTModel, WhisperModel

from adaptdock import Dock
from adaptdock.engine.conformance import checks
from adaptdock.engine.conformance.bench import Bench
from adaptdock.engine.conformance.models import Shape, tiny_backbone, tiny_model
from adaptdock.engine.core.assembly import method_entries
from adaptdock.engine.core.batches import collate, reading
from adaptdock.engine.core.loading import load_backbone
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Backbone, Batch, Feature, LoadOptions

SHAPES: dict[Shape, str] = {"image encoder": "image-classification", "sound encoder": "audio-classification"}
METHODS = {"features": {}, "lora": {"roles": ["all"]}, "bottleneck": {}, "prefix": {"length": 3}, "ia3": {}}


@pytest.fixture(params=SHAPES)
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench.of(tiny_backbone(request.param), SHAPES[request.param])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_general_family_keeps_to_its_contract_with_a_model_of_images_or_sounds(shape: Shape) -> None:
    for check in checks("backbone", "huggingface", str(tiny_model(shape))):
        check()


def test_the_states_of_an_image_are_those_of_transformers(tmp_path: Path) -> None:
    backbone = tiny_backbone("image encoder")
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    model, reader = ViTModel.from_pretrained(tiny_model("image encoder")), backbone.processor.reader  # type: ignore[union-attr]
    with torch.no_grad():
        expected = model.eval()(**reader(images=[Image.fromarray(pixels)], return_tensors="pt")).last_hidden_state
        states = backbone.forward(Batch(_inputs(backbone, tmp_path / "noise.png")))
    assert torch.equal(states, expected)


def test_the_states_of_a_sound_are_those_of_whispers_encoder(tmp_path: Path) -> None:
    backbone = tiny_backbone("sound encoder")
    wave = np.random.default_rng(1).uniform(-0.5, 0.5, 4000).astype(np.float32)
    wavfile.write(tmp_path / "noise.wav", 16_000, wave)
    model, reader = WhisperModel.from_pretrained(tiny_model("sound encoder")), backbone.processor.reader  # type: ignore[union-attr]
    with torch.no_grad():
        features = reader([wave], sampling_rate=16_000, return_tensors="pt")
        expected = model.eval().get_encoder()(**features).last_hidden_state
        states = backbone.forward(Batch(_inputs(backbone, tmp_path / "noise.wav")))
    assert torch.allclose(states, expected, atol=1e-6)


def test_adapters_of_several_methods_share_a_batch_and_each_row_is_what_it_is_alone(bench: Bench) -> None:
    features = bench.features([])
    with bench.dock() as dock:
        names: list[str | None] = [None]
        for seed, (method, options) in enumerate(METHODS.items()):
            adapter = bench.adapter(method_entries(method, options), method, seed)
            names.append(dock.dock(adapter))
        rows = [features[number % len(features)] for number in range(len(names))]
        together = bench.hidden(dock, names, rows)
        bare = bench.hidden(dock, [None] * len(rows), rows)
        for name, row, state in zip(names, rows, together, strict=True):
            (alone,) = bench.hidden(dock, [name], [row])
            assert (state - alone).abs().max() <= 1e-5, name
    changed = [
        name for name, state, plain in zip(names, together, bare, strict=True) if (state - plain).abs().max() > 1e-5
    ]
    assert changed == ["lora", "bottleneck", "prefix", "ia3"]


def test_a_head_does_not_read_the_silence_after_a_short_sound(tmp_path: Path) -> None:
    backbone = tiny_backbone("sound encoder")
    for name, seconds in (("short", 0.25), ("whole", 1.0)):
        wavfile.write(tmp_path / f"{name}.wav", 16_000, np.full(int(16_000 * seconds), 0.1, dtype=np.float32))
    read = reading(backbone, 1, 0).processor
    assert read is not None
    assert [sum(mask) for mask in read.windows(str(tmp_path / "short.wav"))] == [12]
    assert [sum(mask) for mask in read.windows(str(tmp_path / "whole.wav"))] == [50]


def test_a_long_sound_has_a_window_for_each_second(tmp_path: Path) -> None:
    processor = tiny_backbone("sound encoder").processor
    assert processor is not None
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000).astype(np.float32)
    wavfile.write(tmp_path / "long.wav", 16_000, wave)
    wavfile.write(tmp_path / "second.wav", 16_000, wave[16_000:32_000])
    long = str(tmp_path / "long.wav")
    assert [sum(mask) for mask in processor.windows(long)] == [50, 50, 25]
    together = processor.tensors([(long, 1), (str(tmp_path / "second.wav"), 0)])["input_features"]
    assert torch.equal(together[0], together[1])


def test_a_model_in_memory_is_docked_with_its_image_processor() -> None:
    folder, backbone = tiny_model("image encoder"), tiny_backbone("image encoder")
    model = ViTModel.from_pretrained(folder)
    with Dock.open(model, tokenizer=backbone.processor.reader) as dock:  # type: ignore[union-attr]
        assert dock.backbone.fingerprint == backbone.fingerprint
        assert dock.backbone.modality == "images"


def test_a_folder_without_an_image_processor_is_refused(tmp_path: Path) -> None:
    ViTModel.from_pretrained(tiny_model("image encoder")).save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match=r"no preprocessor_config\.json"):
        load_backbone(str(tmp_path), LoadOptions(device="cpu"))


def test_a_task_of_texts_is_refused_on_a_model_of_images_and_the_other_way_round() -> None:
    with pytest.raises(BackboneError, match=r"reads images, and this task reads text.*image-classification"):
        Bench.of(tiny_backbone("image encoder"), "topic").assembly([])
    with pytest.raises(BackboneError, match="reads text, and this task reads images"):
        Bench.of(tiny_backbone("encoder"), "image-classification").assembly([])


def test_a_merged_copy_is_a_model_of_transformers_with_its_image_processor(bench: Bench, tmp_path: Path) -> None:
    backbone = bench.backbone
    port = backbone.ports.select("linear", ("ffn_up",))[0]
    backbone.save(tmp_path, {port: (backbone.weight(port) * 0, backbone.bias(port))})
    copy = load_backbone(str(tmp_path), LoadOptions(device="cpu"))
    assert (copy.modality, copy.max_length) == (backbone.modality, backbone.max_length)
    assert not copy.weight(copy.ports.select("linear", ("ffn_up",))[0]).any()
    assert backbone.weight(port).any()


def test_prompts_and_generation_are_refused_with_the_reason(bench: Bench) -> None:
    with bench.dock() as dock:
        with pytest.raises(BackboneError, match="and no tokens"):
            bench.assembly(method_entries("prompt", {}))
        with pytest.raises(BackboneError, match="and no texts"):
            dock.generate(None, ["a text"])


def _inputs(backbone: Backbone, path: Path) -> dict[str, torch.Tensor]:
    assert backbone.processor is not None
    (mask,) = backbone.processor.windows(str(path))
    return collate(backbone, [Feature({"attention_mask": mask}, content=(str(path), 0))])
