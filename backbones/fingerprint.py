"""The content fingerprint of a checkpoint: the same in every precision, cheap for any size.

The hash covers every tensor's name, type and shape, and blocks of its bytes at even distances.
Other weights of the same shape give another fingerprint; so does any retrained layer. A change between two
blocks is not noticed: the fingerprint tells backbones apart, it does not prove integrity.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from adaptdock.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 512
BLOCKS_PER_TENSOR = 8
BLOCKS_PER_FILE = 512
HEADER_LIMIT = 200_000_000
SCHEME = "blocks1"


def fingerprint(files: list[Path]) -> str:
    """Return ``blocks1:<sha256>`` of a checkpoint's weight files, in any order or sharding."""
    safetensors = [file for file in files if file.suffix == ".safetensors"]
    return _hashed(sorted(_tensors(safetensors)) if safetensors else _opaque(files))


def fingerprint_of_tensors(tensors: "Mapping[str, Tensor]") -> str:
    """Return the :func:`fingerprint` of safetensors files with these tensors, without writing them."""
    return _hashed(sorted(_in_memory(tensors)))


def _hashed(parts: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for description, block in parts:
        digest.update(description.encode())
        digest.update(block)
    return f"{SCHEME}:{digest.hexdigest()}"


def _in_memory(tensors: "Mapping[str, Tensor]") -> Iterator[tuple[str, bytes]]:
    import torch
    from safetensors.torch import _TYPES

    codes = {dtype: code for code, dtype in _TYPES.items()}
    for name, tensor in tensors.items():
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)

        def read(start: int, count: int, flat: "Tensor" = flat) -> bytes:  # bound now: the loop variable changes
            return flat[start : start + count].cpu().numpy().tobytes()

        sample = _blocks(read, len(flat), BLOCKS_PER_TENSOR)
        yield f"{name}|{codes[tensor.dtype]}|{list(tensor.shape)}", sample


def _tensors(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    for file in files:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > min(HEADER_LIMIT, file.stat().st_size):  # a damaged file may claim terabytes
                raise BackboneError(
                    f"{file}: its header claims {size} bytes; this is not a safetensors file, or damaged"
                )
            try:
                header = json.loads(stream.read(size))
            except ValueError:
                raise BackboneError(f"{file}: its header cannot be read; the file is damaged") from None
            for name, entry in header.items():
                if name != "__metadata__":
                    start, end = entry["data_offsets"]
                    sample = _blocks(_reader(stream, 8 + size + start), end - start, BLOCKS_PER_TENSOR)
                    yield f"{name}|{entry['dtype']}|{entry['shape']}", sample


def _opaque(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    for file in sorted(files):
        with file.open("rb") as stream:
            size = file.stat().st_size
            yield f"{file.suffix}|{size}", _blocks(_reader(stream, 0), size, BLOCKS_PER_FILE)


def _reader(stream: BinaryIO, begin: int) -> Callable[[int, int], bytes]:
    """Return a function that reads ``count`` bytes from an offset, counted from ``begin``."""

    def read(start: int, count: int) -> bytes:
        stream.seek(begin + start)
        return stream.read(count)

    return read


def _blocks(read: Callable[[int, int], bytes], size: int, count: int) -> bytes:
    digest = hashlib.sha256()
    step = max(BLOCK, (size - BLOCK) // max(1, count - 1))
    for offset in range(0, size, step):
        digest.update(read(offset, min(BLOCK, size - offset)))
    digest.update(read(max(0, size - BLOCK), min(BLOCK, size)))  # the steps may end before the last block
    return digest.digest()
