"""Writes the samples of the tasks for images and sounds: handwritten digits, and synthetic tones.

The digits are those of scikit-learn (Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits",
CC BY 4.0): 8 by 8 pixels. The tones are computed: a sine with noise that rises, falls, or keeps its pitch.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import wavfile
from sklearn.datasets import load_digits

from adaptdock.plugins.toolkit.sources import embedded

SAMPLES = Path(__file__).parents[1] / "tasks" / "samples"
DIGITS = {"train": 30, "validation": 8, "test": 10}
"""Images of each class."""
TONES = {"train": 20, "validation": 8, "test": 10}
RATE, SECONDS = 4000, 0.25
SEED = 0
Row = tuple[str, str]


def digits() -> Iterator[tuple[str, list[Row]]]:
    """Yield the rows of each split."""
    data = load_digits()
    by_class: dict[int, list[str]] = defaultdict(list)
    for pixels, label in zip(data.images, data.target, strict=True):
        stream = io.BytesIO()
        Image.fromarray((pixels * 15).astype(np.uint8)).save(stream, "PNG", optimize=True)
        by_class[int(label)].append(embedded(stream.getvalue(), "image/png"))
    start = 0
    for split, count in DIGITS.items():
        yield split, [(by_class[label][start + n], str(label)) for n in range(count) for label in sorted(by_class)]
        start += count


def tones() -> Iterator[tuple[str, list[Row]]]:
    """Yield the rows of each split."""
    random = np.random.default_rng(SEED)
    for split, count in TONES.items():
        yield (
            split,
            [
                (_wav(_tone(change, random)), label)
                for _ in range(count)
                for label, change in (("falling", -1), ("rising", 1), ("steady", 0))
            ],
        )


def _tone(change: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Return a sine of 300 to 900 Hz whose pitch changes by at least half, with noise of a tenth of its loudness."""
    low, factor = random.uniform(300, 600), random.uniform(1.5, 2)
    first, last = {-1: (low * factor, low), 0: (low, low), 1: (low, low * factor)}[change]
    pitch = np.linspace(first, last, int(RATE * SECONDS))
    wave = random.uniform(0.4, 0.8) * np.sin(2 * np.pi * np.cumsum(pitch) / RATE + random.uniform(0, 6.28))
    return wave + 0.05 * random.standard_normal(len(wave))


def _wav(wave: NDArray[np.float64]) -> str:
    stream = io.BytesIO()
    wavfile.write(stream, RATE, np.clip(128 + 127 * wave, 0, 255).astype(np.uint8))
    return embedded(stream.getvalue(), "audio/wav")


def write(folder: Path, field: str, splits: Iterable[tuple[str, list[Row]]]) -> None:
    """Write a table for each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits:
        with (folder / f"{split}.csv").open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([(field, "label"), *rows])


if __name__ == "__main__":
    write(SAMPLES / "image-classification", "image", digits())
    write(SAMPLES / "audio-classification", "audio", tones())
