"""Hidden states of training texts below the lowest adapted layer, computed once and cached on disk.

Below the first adapted layer the frozen backbone computes the same states in every epoch. Without an adapter (the
feature-based way) all layers do.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adaptdock.engine.core.assembly import Assembly, lowest_layer, mixes_layers
from adaptdock.engine.core.batches import by_length, collate, length
from adaptdock.errors import FileError, UsageError
from adaptdock.hub.artefact import directories
from adaptdock.plugins.contracts import Backbone, Batch, Feature

ROWS, TOKENS = 64, 8192


class Cache:
    """The states that enter the lowest adapted layer, of every feature: (T, W) each, in the backbone's precision.

    For a head that reads a mix of all layers, the states of the layers are concatenated.

    A file belongs to one backbone, layer, precision and sequence of texts; any run with the same four reuses it.
    Raises :class:`UsageError` if no layer can be cached, and :class:`FileError` if the file cannot be written.
    """

    def __init__(self, backbone: Backbone, assembly: Assembly, features: Sequence[Feature]) -> None:
        self.layer = lowest_layer(assembly)
        if self.layer == 0:
            raise UsageError(
                "--cache: the adapter acts in the first layer already, so no layer below can be cached. Choose "
                "higher layers with --layers, or train the head alone with --method features."
            )
        if any(part.method.shift for part in assembly.parts):
            raise UsageError("--cache: the adapter shifts positions, which the lowest layers read: leave out --move")
        self._mixed = mixes_layers(assembly)
        if self._mixed and self.layer is not None:
            raise UsageError(
                f"--cache: the head reads a mix of all layers, and an adapter acts in layer {self.layer}: states "
                f"that it changes cannot be cached"
            )
        self._backbone = backbone
        self._width = backbone.width
        if self._mixed:
            self._width *= 1 + next(port.layer for port in backbone.ports if port.kind == "layers")
        self._start: dict[int, tuple[int, int]] = {}
        total = 0
        for feature in features:
            self._start[id(feature)] = (total, total + length(feature))
            total += length(feature)
        self._features = features  # keeps the features alive, so that no other object gets one of their ids
        self.file = directories.cache() / "states" / f"{self._key()}.bin"
        if not self.file.exists():
            self._fill(total)
        self._states = self._opened(self.file, total)

    @property
    def nbytes(self) -> int:
        """The size of the file."""
        return self.file.stat().st_size

    def states(self, features: Sequence[Feature]) -> Tensor:
        """Return the states of features, padded (R, T, W), on the backbone's device."""
        rows = [self._states[slice(*self._start[id(feature)])] for feature in features]
        return pad_sequence(rows, batch_first=True).to(self._backbone.device)

    def _key(self) -> str:
        backbone = self._backbone
        content = {
            "backbone": [backbone.fingerprint, str(backbone.dtype), backbone.quantized],
            "layer": "all" if self._mixed else self.layer,
            "texts": [feature.inputs for feature in self._features],
            **self._contents(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def _contents(self) -> dict[str, list[str]]:
        """Return the hashes of images or sounds, which the inputs of their features do not show."""
        processor, contents = self._backbone.processor, [feature.content for feature in self._features]
        if processor is None:
            return {}
        return {"contents": [processor.digest(content) for content in contents if content is not None]}

    def _opened(self, file: Path, positions: int) -> Tensor:
        width, dtype = self._width, self._backbone.dtype
        return torch.from_file(str(file), shared=True, size=positions * width, dtype=dtype).view(positions, width)

    def _computed(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if self._mixed:
            return torch.cat(self._backbone.layers(Batch(inputs)), dim=-1)
        return self._backbone.entering(inputs, self.layer)

    @torch.inference_mode()
    def _fill(self, positions: int) -> None:
        """Compute all states into a temporary file, and rename it when it is complete."""
        unfinished = self.file.with_name(f"{self.file.name}.{uuid4()}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            states = self._opened(unfinished, positions)
            for batch in by_length([length(feature) for feature in self._features], ROWS, TOKENS):
                features = [self._features[number] for number in batch]
                computed = self._computed(collate(self._backbone, features))
                for feature, row in zip(features, computed, strict=True):
                    states[slice(*self._start[id(feature)])] = row[: length(feature)].to(states.device)
            unfinished.replace(self.file)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a full disk
            raise FileError(self.file, f"states could not be cached: {str(error).splitlines()[0]}") from error
        finally:
            unfinished.unlink(missing_ok=True)
