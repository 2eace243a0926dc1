"""The content fingerprint of a checkpoint: the same however it is loaded, cheap however large it is.

Every tensor's name, type and shape is hashed, with blocks of its bytes taken at even distances.
Other weights of the same shape give another fingerprint; so does any retrained layer. A change that
falls between all the blocks does not show: this tells backbones apart, it does not prove integrity.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from adaptdock.errors import BackboneError

BLOCK = 512
BLOCKS_PER_TENSOR = 8
BLOCKS_PER_FILE = 512
HEADER_LIMIT = 200_000_000
SCHEME = "blocks1"


def fingerprint(files: list[Path]) -> str:
    """Return ``blocks1:<sha256>`` of a checkpoint's weight files, in any order or sharding."""
    digest = hashlib.sha256()
    safetensors = [file for file in files if file.suffix == ".safetensors"]
    for description, block in sorted(_tensors(safetensors)) if safetensors else _opaque(files):
        digest.update(description.encode())
        digest.update(block)
    return f"{SCHEME}:{digest.hexdigest()}"


def _tensors(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    for file in files:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > min(HEADER_LIMIT, file.stat().st_size):
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
                    sample = _blocks(stream, 8 + size + start, end - start, BLOCKS_PER_TENSOR)
                    yield f"{name}|{entry['dtype']}|{entry['shape']}", sample


def _opaque(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    for file in sorted(files):
        with file.open("rb") as stream:
            size = file.stat().st_size
            yield f"{file.suffix}|{size}", _blocks(stream, 0, size, BLOCKS_PER_FILE)


def _blocks(stream: BinaryIO, start: int, size: int, count: int) -> bytes:
    digest = hashlib.sha256()
    step = max(BLOCK, (size - BLOCK) // max(1, count - 1))
    for offset in range(0, size, step):
        stream.seek(start + offset)
        digest.update(stream.read(min(BLOCK, size - offset)))
    stream.seek(start + max(0, size - BLOCK))
    digest.update(stream.read(min(BLOCK, size)))
    return digest.digest()
