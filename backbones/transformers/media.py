"""Models of images or sounds: an encoder with float inputs, and the processor that makes them.

An image model of ``AutoModel`` (ViT, DeiT, DINOv2, ...) or the encoder of Whisper. Ports are found as in models of
texts: by module names, and by the shapes of one small batch. Every input of such a model has the same shape, so all
rows have the same positions; the processor says which of them a head reads.
"""

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoImageProcessor, PreTrainedModel

from adaptdock.backbones.transformers import saving
from adaptdock.backbones.transformers.checkpoint import Checkpoint
from adaptdock.backbones.transformers.frozen_model import FrozenModel
from adaptdock.backbones.transformers.media_processors import ImageProcessor, MediaProcessor, SoundProcessor
from adaptdock.backbones.transformers.port_table import open_ports, watched
from adaptdock.backbones.transformers.ports import widths
from adaptdock.backbones.transformers.probe import ROWS, Findings, watching
from adaptdock.backbones.transformers.silence import quiet
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Batch, LoadOptions, Port

PROCESSORS: Mapping[str, type[MediaProcessor]] = {
    "pixel_values": ImageProcessor,
    "input_features": SoundProcessor,
    "input_values": SoundProcessor,
}
"""The processor by the main input of a model."""
FILES = ("preprocessor_config.json", "processor_config.json")
"""Files of image processors and feature extractors."""


def reads_media(model: PreTrainedModel) -> bool:
    """Return whether a model reads images or sounds, by the name of its main input."""
    return model.main_input_name in PROCESSORS


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the encoder of a model with two halves (Whisper), or the model itself."""
    if not model.config.is_encoder_decoder:
        return model
    encoder: PreTrainedModel = model.get_encoder()
    of_both, alone = encoder.config, copy(encoder.config)
    alone.is_encoder_decoder = False  # this half alone is the backbone
    for module in encoder.modules():
        if getattr(module, "config", None) is of_both:
            module.config = alone
    return encoder


def media_reader(checkpoint: Checkpoint, options: LoadOptions, model: PreTrainedModel) -> Any:
    """Return the image processor or feature extractor of a checkpoint.

    Raises :class:`BackboneError` for a folder without one.
    """
    if not any((checkpoint.folder / name).is_file() for name in FILES):
        raise BackboneError(
            f"{checkpoint.folder} has no {FILES[0]}, so it is not known how a file becomes {model.main_input_name}: "
            f"save the image processor or feature extractor of the model there (processor.save_pretrained)"
        )
    code = {"trust_remote_code": options.trust_remote_code}
    if PROCESSORS[model.main_input_name] is ImageProcessor:
        # Pillow's backend everywhere: torchvision resizes to slightly different values.
        return AutoImageProcessor.from_pretrained(checkpoint.folder, backend="pil", **code)
    return AutoFeatureExtractor.from_pretrained(checkpoint.folder, **code)


class MediaBackbone(FrozenModel):
    """A frozen encoder of images or sounds; it can also be built around a model in memory."""

    causal = False
    tokenizer = None
    processor: MediaProcessor

    def __init__(
        self, name: str, model: PreTrainedModel, reader: Any, fingerprint: str, revision: str | None = None
    ) -> None:
        super().__init__(name, fingerprint, revision)
        self.architecture = str(model.config.model_type)
        self._whole, self._reader = model.eval().requires_grad_(False), reader
        self.model = encoder_of(model)
        self._input = str(model.main_input_name)
        with quiet():
            try:
                self.processor = PROCESSORS[self._input].of(reader)
                self._trial = self.processor.trial(ROWS)
                hidden = self._states(self._trial)
            except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, OSError) as error:
                raise BackboneError(
                    f"the architecture {self.architecture!r} cannot be used: two blank inputs did not come through "
                    f"{type(self.model).__name__} ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
                ) from error
        if hidden.ndim != 3:
            raise BackboneError(
                f"{type(self.model).__name__} gives states of shape {tuple(hidden.shape)}, and adapters act on a row "
                f"of states (rows, positions, width), as those of a transformer (ViT, DINOv2, Whisper)"
            )
        self.max_length, self.width = hidden.shape[1], hidden.shape[2]
        self._states_device = hidden.device
        self.processor.positions = self.max_length
        self.ports, self._attention = open_ports(self, self.model, self.width, self._findings(hidden))

    def _findings(self, hidden: Tensor) -> Findings:
        closed = f"{type(self.model).__name__} reads {self.processor.modality}, and no tokens"
        findings = Findings(
            width=self.width,
            device=hidden.device,
            length=self.max_length,
            embedding_closed=closed,
            vocabulary_closed=closed,
        )
        linear_maps = [module for module in self.model.modules() if widths(module) is not None]
        with quiet(), watching(findings, self.model, linear_maps, watched(self.model, False)):
            self._states(self._trial)
        return findings

    def trial_inputs(self) -> dict[str, Tensor]:
        """Return two random images or sounds."""
        mask = torch.ones(ROWS, self.max_length, dtype=torch.long, device=self.device)
        floats = {name: tensor.to(self.device, self.dtype) for name, tensor in self._trial.items()}
        return {"attention_mask": mask, **floats}

    def forward(self, batch: Batch) -> Tensor:
        """Return the last hidden states (R, T, W); every position is computed, also those without content."""
        with self.attention_kernel():
            return self._states(batch.inputs)

    def _states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        floats = inputs[self._input].to(self.device, self.dtype)
        return self.model(**{self._input: floats})[0]  # type: ignore[no-any-return]

    def save(self, folder: Path, maps: Mapping[Port, tuple[Tensor, Tensor]]) -> None:
        """Write a copy as transformers writes models, with its image processor or feature extractor."""
        changed = {self.model.get_submodule(port.module): (port.name, *tensors) for port, tensors in maps.items()}
        try:
            saving.write(self._whole, self._reader, folder, changed)
        except (ValueError, RuntimeError, ImportError, SafetensorError) as error:
            raise BackboneError(f"the backbone {self.id!r} cannot be saved: {error}") from error
