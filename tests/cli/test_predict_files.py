"""Images on the command line: trained from a folder, answered by path, refused with a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adaptdock.engine.conformance.models import tiny_model


def test_images_of_a_table_are_learnt_and_paths_are_answered(adapt: Callable[..., Any], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(16):
        shade = 40 if number % 2 else 200
        pixels = random.normal(shade, 10, (9, 9, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,{'dark' if number % 2 else 'light'}\n" for number in range(16)]
    for split, part in (("train", rows[:10]), ("validation", rows[10:])):
        (tmp_path / f"{split}.csv").write_text("image,label\n" + "".join(part))
    backbone = tiny_model("image encoder")
    flags = ("--method", "features", "--epochs", 1, "--train", "train.csv", "--validation", "validation.csv")
    trained = adapt("train", "--task", "image-classification", "--backbone", backbone, *flags, "-o", "shade")
    assert trained.status == 0, trained.err
    answered = adapt("predict", "shade", "0.png", "1.png", "--json")
    assert [json.loads(line)["label"] for line in answered.out.splitlines()] == ["light", "dark"]
    refused = adapt("predict", "shade", "0.png", "absent.png")
    assert refused.status == 2
    assert "text 2: " in refused.err
    assert "absent.png" in refused.err
    texts = adapt("train", "--task", "topic", "--backbone", backbone)
    assert texts.status != 0
    assert "reads images, and this task reads text" in texts.err
