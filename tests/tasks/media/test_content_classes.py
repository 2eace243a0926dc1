"""Classification of images and sounds: trained, saved, predicted from files and from Python objects."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from adaptdock import Dock, train
from adaptdock.engine.conformance.models import Shape, tiny_model
from adaptdock.errors import DataError
from adaptdock.plugins.toolkit.sources import is_embedded
from adaptdock.tasks.audio_classification import AudioClassification
from adaptdock.tasks.image_classification import ImageClassification

COLOURS = {"dark": 30, "light": 220}
RATE = 8000


def images(folder: Path) -> Path:
    """Noise around two shades of grey, in a folder for each class."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 6)):
        for label, shade in COLOURS.items():
            for number in range(count):
                file = folder / split / label / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = random.normal(shade, 10, (12, 16, 3)).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(file)
    return folder


def sounds(folder: Path) -> Path:
    """Noise and tones, in a folder for each class."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 6)):
        for label in ("noise", "tone"):
            for number in range(count):
                file = folder / split / label / f"{number}.wav"
                file.parent.mkdir(parents=True, exist_ok=True)
                phase = np.arange(RATE // 2) * 2 * np.pi * random.uniform(300, 500) / RATE
                wave = random.normal(0, 0.3, RATE // 2) if label == "noise" else 0.5 * np.sin(phase)
                wavfile.write(file, RATE, (wave.clip(-1, 1) * 32767).astype(np.int16))
    return folder


CASES: dict[str, tuple[Shape, Any, str, str]] = {
    "image-classification": ("image encoder", images, "light/0.png", "light"),
    "audio-classification": ("sound encoder", sounds, "tone/0.wav", "tone"),
}


@pytest.mark.parametrize(
    ("task", "method"),
    [
        ("image-classification", "lora"),
        ("audio-classification", "features"),
        pytest.param("image-classification", "bottleneck", marks=pytest.mark.slow),
        pytest.param("audio-classification", "lora", marks=pytest.mark.slow),
    ],
)
def test_an_adapter_learns_from_files_by_class_and_answers_for_a_file(task: str, method: str, tmp_path: Path) -> None:
    shape, write, example, label = CASES[task]
    data = write(tmp_path / "data")
    run = train(task, method, str(tiny_model(shape)), str(data), tmp_path / "run", epochs=2)
    assert run.adapter.card.metrics["validation"]["accuracy"] == 100
    file = data / "validation" / example
    with Dock.open(str(tiny_model(shape)), device="cpu") as dock:
        (answer,) = dock.predict(dock.load(run.file), [str(file)])
        assert answer["label"] == label
        assert dock.assembly(dock.names[0]).task.render(answer).endswith(f"] {file}")


def test_an_image_of_pillow_its_bytes_and_its_file_have_the_same_answer(tmp_path: Path) -> None:
    data = images(tmp_path / "data")
    rows = [{"image": Image.open(file), "label": file.parent.name} for file in sorted((data / "train").glob("*/*.png"))]
    backbone = str(tiny_model("image encoder"))
    splits = {"train": rows, "validation": rows}
    run = train("image-classification", "features", backbone, splits, tmp_path / "run", epochs=1)
    file = data / "validation" / "dark" / "0.png"
    with Dock.open(backbone, device="cpu") as dock:
        name = dock.load(run.file)
        answers = dock.predict(name, [str(file), Image.open(file), file.read_bytes(), {"image": file}])
    assert {answer["label"] for answer in answers} == {"dark"}
    assert len({str(answer["scores"]) for answer in answers}) == 1
    assert answers[1]["image"] == f"(image/png, {len(_png(file))} bytes)"


def _png(file: Path) -> bytes:
    from base64 import b64decode

    source = ImageClassification.source(Image.open(file), "here")
    assert is_embedded(source)
    return b64decode(source.partition(",")[2])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("absent.png", "No such file"),
        (b"no image", "it is not an image"),
        ("data:image/png;base64,!!!", "not valid base64"),
        ("data:image/png,abc", "begins with 'data:TYPE;base64,'"),
        (7, "expected the path of a file"),
        ("", "expected the path of a file"),
    ],
)
def test_what_is_not_an_image_is_refused_with_its_place(value: object, reason: str) -> None:
    with pytest.raises(DataError, match=f"table:3.*{reason}"):
        ImageClassification(ImageClassification.Options()).clean(
            [{"where": "table:3", "image": value, "label": "a"}], "train"
        )


@pytest.mark.parametrize("task", [ImageClassification, AudioClassification])
def test_a_named_pipe_is_refused_as_it_may_never_have_content(task: type[Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="FIFO"):
        task.source(str(tmp_path / "pipe"), "line 3")


def test_a_damaged_image_is_refused_before_training(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:500])
    with pytest.raises(DataError, match=r"cut\.png.*damaged"):
        ImageClassification.source(str(tmp_path / "cut.png"), "here")


@pytest.mark.parametrize("value", [b"no sound", {"array": ["x"], "sampling_rate": 8000}, {"array": [0.1]}])
def test_what_is_not_a_sound_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="here: "):
        AudioClassification.source(value, "here")


def test_a_sound_in_memory_is_a_source_like_its_file() -> None:
    source = AudioClassification.source({"array": [0.0, 0.5, -0.5], "sampling_rate": 8000}, "here")
    assert is_embedded(source)
