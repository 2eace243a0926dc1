"""States of training texts beneath the lowest adapter, computed once and kept on disk.

What the frozen backbone does below the first layer that an adapter acts in is the same in every epoch. Where
no adapter acts at all (the feature-based way) that is all of it.
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

    Where a head reads a mix of all layers their states stand side by side, as wide as they are together.

    A file belongs to one backbone, layer, precision and sequence of texts; another run with the same finds it.
    Raises :class:`UsageError` where nothing can be saved, and :class:`FileError` where nothing can be written.
    """

    def __init__(self, backbone: Backbone, assembly: Assembly, features: Sequence[Feature]) -> None:
        self.layer = lowest_layer(assembly)
        if self.layer == 0:
            raise UsageError(
                "--cache: the adapter acts in the first layer already, so nothing beneath it could be kept. Choose "
                "higher ones by --layers, or train the head alone by --method features."
            )
        if any(part.method.shift for part in assembly.parts):
            raise UsageError("--cache: the adapter moves positions, which the lowest layers read: leave out --move")
        self._mixed = mixes_layers(assembly)
        if self._mixed and self.layer is not None:
            raise UsageError(
                f"--cache: the head reads a mix of all layers, and an adapter acts in layer {self.layer}: what it "
                f"changes cannot be kept"
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
        self._features = features  # alive as long as their ids are used
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
        found = [self._states[slice(*self._start[id(feature)])] for feature in features]
        return pad_sequence(found, batch_first=True).to(self._backbone.device)

    def _key(self) -> str:
        mine = self._backbone
        told = {
            "backbone": [mine.fingerprint, str(mine.dtype), mine.quantized],
            "layer": "all" if self._mixed else self.layer,
            "texts": [feature.inputs for feature in self._features],
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]

    def _opened(self, file: Path, positions: int) -> Tensor:
        width, dtype = self._width, self._backbone.dtype
        return torch.from_file(str(file), shared=True, size=positions * width, dtype=dtype).view(positions, width)

    def _computed(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if self._mixed:
            return torch.cat(self._backbone.layers(Batch(inputs)), dim=-1)
        return self._backbone.entering(inputs, self.layer)

    @torch.inference_mode()
    def _fill(self, positions: int) -> None:
        """Compute all states into a new file, which takes its name when it is complete."""
        unfinished = self.file.with_name(f"{self.file.name}.{uuid4()}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            states = self._opened(unfinished, positions)
            for batch in by_length([length(feature) for feature in self._features], ROWS, TOKENS):
                chosen = [self._features[number] for number in batch]
                found = self._computed(collate(self._backbone, chosen))
                for feature, row in zip(chosen, found, strict=True):
                    states[slice(*self._start[id(feature)])] = row[: length(feature)].to(states.device)
            unfinished.replace(self.file)
        except (OSError, RuntimeError) as error:  # torch says RuntimeError where a disk is full
            raise FileError(self.file, f"states could not be kept: {str(error).splitlines()[0]}") from error
        finally:
            unfinished.unlink(missing_ok=True)
