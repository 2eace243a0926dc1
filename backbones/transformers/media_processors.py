"""The processors of images and of sounds, around the image processors and feature extractors of transformers."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Content, Processor
from adaptdock.plugins.toolkit.images import open_image
from adaptdock.plugins.toolkit.sounds import Wave, open_sound
from adaptdock.plugins.toolkit.sources import source_bytes

SEED = 0
"""Seed of the random inputs of a trial."""


class MediaProcessor(Processor):
    """A processor whose inputs all have one shape."""

    positions = 1
    """The positions of the hidden states of each window, measured by the backbone."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader

    @classmethod
    @abstractmethod
    def of(cls, reader: Any) -> Self:
        """Return a processor; raise :class:`BackboneError` for inputs of several shapes."""

    @abstractmethod
    def trial(self, rows: int) -> dict[str, Tensor]:
        """Return the inputs of random contents, the same in every call."""

    def digest(self, content: Content) -> str:
        """Return the SHA-256 of the bytes, with the number of the window."""
        source, window = content
        return f"{hashlib.sha256(source_bytes(source)).hexdigest()}.{window}"


class ImageProcessor(MediaProcessor):
    """Images in RGB, resized and normalised by an image processor."""

    modality = "images"
    SIZES: ClassVar = ((48, 32), (32, 48))
    """Height and width of the images of a trial: different forms, which must come out alike."""

    @classmethod
    def of(cls, reader: Any) -> Self:
        """Return a processor, unless images keep their form."""
        processor = cls(reader)
        shapes = {tuple(processor._pixels([image])["pixel_values"].shape) for image in _noise(2)}
        if len(shapes) > 1:
            raise BackboneError(
                f"{type(reader).__name__} keeps the form of images ({' and '.join(map(str, sorted(shapes)))}), and "
                f"images of a batch must have one shape: set its do_resize or do_center_crop"
            )
        return processor

    def windows(self, source: str) -> list[list[int]]:
        """Return one window: the whole image, read at every position."""
        return [[1] * self.positions]

    def tensors(self, contents: Sequence[Content]) -> Mapping[str, Tensor]:
        """Return ``pixel_values`` (R, channels, height, width)."""
        return self._pixels([open_image(source) for source, _ in contents])

    def trial(self, rows: int) -> dict[str, Tensor]:
        """Return the pixels of random images."""
        return self._pixels(_noise(rows))

    def _pixels(self, images: Sequence[Any]) -> dict[str, Tensor]:
        return {"pixel_values": self.reader(images=list(images), return_tensors="pt")["pixel_values"]}


def _noise(images: int) -> list[Any]:
    from PIL import Image

    random = np.random.default_rng(SEED)
    sizes = [ImageProcessor.SIZES[number % len(ImageProcessor.SIZES)] for number in range(images)]
    return [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


class SoundProcessor(MediaProcessor):
    """Sounds with one channel, as features of a fixed number of seconds; a longer sound has several windows."""

    modality = "sounds"

    @classmethod
    def of(cls, reader: Any) -> Self:
        """Return a processor, unless inputs are as long as their sounds."""
        if not isinstance(getattr(reader, "n_samples", None), int):
            raise BackboneError(
                f"{type(reader).__name__} makes inputs as long as the sound, or does not say how long a window is. "
                f"Models with windows of fixed length can be used, such as Whisper"
            )
        return cls(reader)

    @property
    def rate(self) -> int:
        """Samples a second."""
        return int(self.reader.sampling_rate)

    @property
    def window(self) -> int:
        """Samples of a window."""
        return int(self.reader.n_samples)

    def windows(self, source: str) -> list[list[int]]:
        """Return the mask of each window, which leaves out the silence that fills the last one.

        Positions divide the samples of a window evenly.
        """
        samples, masks = len(open_sound(source, self.rate)), []
        for start in range(0, samples, self.window):
            share = min(self.window, samples - start) / self.window
            read = max(1, min(self.positions, round(share * self.positions)))
            masks.append([1] * read + [0] * (self.positions - read))
        return masks

    def tensors(self, contents: Sequence[Content]) -> Mapping[str, Tensor]:
        """Return the main input of the model, ``input_features`` (R, mels, frames)."""
        waves = [open_sound(source, self.rate) for source, _ in contents]
        return self._extracted(
            [wave[self.window * number :][: self.window] for wave, (_, number) in zip(waves, contents, strict=True)]
        )

    def trial(self, rows: int) -> dict[str, Tensor]:
        """Return the features of random noise of a whole window."""
        random = np.random.default_rng(SEED)
        return self._extracted([random.uniform(-1, 1, self.window).astype(np.float32) for _ in range(rows)])

    def _extracted(self, waves: Sequence[Wave]) -> dict[str, Tensor]:
        name = str(self.reader.model_input_names[0])
        extracted = self.reader(list(waves), sampling_rate=self.rate, return_tensors="np")[name]
        return {name: torch.from_numpy(np.asarray(extracted, dtype=np.float32))}
