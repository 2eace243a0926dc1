"""The adapter file, format 1: one safetensors file whose header carries the card.

Header metadata: ``format``, ``format_version``, ``card`` (JSON), ``probes`` and ``responses`` (JSON) if the card has
any, and ``sha256`` of all the rest. Golden probes are not in the card's JSON, so that older releases can read the card;
nor are responses in the probes' JSON.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import ValidationError

from adaptdock.errors import FileError, TakenError
from adaptdock.hub.artefact.atomic import numbered, write_atomically
from adaptdock.hub.artefact.card import Card, Probes
from adaptdock.plugins.arguments import file_path
from adaptdock.plugins.regular import open_regular, size_of

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "adaptdock"
FORMAT_VERSION = "1"
HEADER_LIMIT = 16 * 2**20
"""Limit in bytes, far above any adapter's header."""


@dataclass(frozen=True)
class Header:
    """The header of a file: the card, each tensor's type and shape, and the bytes of tensor data."""

    card: Card
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    size: int

    @property
    def parameters(self) -> int:
        """Number of weights over all tensors."""
        total = 0
        for _, shape in self.tensors.values():
            count = 1
            for extent in shape:
                count *= extent
            total += count
        return total


@dataclass(frozen=True)
class AdapterFile:
    """A complete adapter in memory: its card and its tensors by name.

    ``sha256`` is the checksum of its file; empty for an adapter that was not read from a file.
    """

    card: Card
    tensors: "dict[str, Tensor]"
    sha256: str = field(default="", init=False)  # not copied by replace(): another card or tensors, another content


def read_card(path: str | Path) -> Card:
    """Return the card of an adapter file, without torch and without reading the weights.

    Raises :class:`FileError` for a file that is missing, damaged or of another kind, and :class:`UsageError` for an
    argument that is not a path.

    >>> from adaptdock import read_card
    >>> card = read_card("ner.safetensors")
    >>> card.name, card.task.name, [method.name for method in card.methods], card.task.options["labels"]
    ('ner', 'ner', ['lora'], ['LOC', 'PER'])
    """
    return read_header(file_path(path, "an adapter file")).card


def read_header(path: str | Path) -> Header:
    """Read the header of an adapter file, without torch and without loading tensors.

    Raises :class:`FileError` for a missing or truncated file, a pickle, another format or another version.
    """
    path = Path(path)
    with _opened(path) as stream:
        return checked_header(stream, path)


def checked_header(stream: BinaryIO, where: object) -> Header:
    """Read the header of an open adapter file, and compare the file's size with the header.

    The stream is at its start before and after. Raises :class:`FileError`, naming ``where``.
    """
    head, data_size = _parsed_head(stream, size_of(stream), where)
    stream.seek(0)
    return _header(where, head, data_size)


def read_header_of(blob: bytes, where: object) -> Header:
    """Read the header of an adapter file in memory; raise :class:`FileError`, naming ``where``."""
    head, data_size = _parsed_head(io.BytesIO(blob), len(blob), where)
    return _header(where, head, data_size)


def read_file(path: str | Path, admit: Callable[[bytes], None] = lambda content: None) -> AdapterFile:
    """Read and verify an adapter file; raise :class:`FileError` for damaged content.

    ``admit`` gets the raw content before it is parsed, and raises an error to refuse it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    with _opened(path) as stream:
        checked_header(stream, path)  # fails early, before a large foreign file is read to its end
        blob = stream.read()
    admit(blob)
    head, data_size = _parsed_head(io.BytesIO(blob), len(blob), path)
    header = _header(path, head, data_size)
    metadata = head["__metadata__"]
    if _checksum(head, blob[len(blob) - data_size :]) != metadata.get("sha256"):
        raise FileError(path, "its content does not match its checksum: the file is damaged. Fetch or train it again.")
    try:
        adapter = AdapterFile(header.card, load(blob))
    except SafetensorError as error:
        raise FileError(path, f"its tensors cannot be read ({error}): the file is damaged") from error
    object.__setattr__(adapter, "sha256", metadata["sha256"])
    return adapter


def write_file(path: str | Path, adapter: AdapterFile, replace: bool = True) -> int:
    """Write an adapter file atomically and return its size in bytes.

    After an error the old file is untouched and no temporary file remains. Raises :class:`FileError`. Without
    ``replace`` an existing file raises :class:`TakenError`, and the new file is beside it.
    """
    from safetensors.torch import save

    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.tensors.items()}
    plain = save(tensors)
    data = plain[8 + int.from_bytes(plain[:8], "little") :]
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, **_card_metadata(adapter.card)}
    _read_card(metadata, path)  # before anything is written that could not be read again
    head = {**json.loads(plain[8 : len(plain) - len(data)]), "__metadata__": metadata}
    blob = _encoded({**head, "__metadata__": {**metadata, "sha256": _checksum(head, data)}}, data)
    try:
        place = _written(path, blob, replace)
    except OSError as error:
        raise FileError(path, f"the adapter could not be saved: {error.strerror or error}") from error
    if place != path:
        raise TakenError(path, place)
    return len(blob)


def _encoded(head: Mapping[str, Any], data: bytes) -> bytes:
    """Return the content of a file, the same in all processes: safetensors itself has no fixed order of metadata."""
    text = json.dumps(head, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensor data begins at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data


def _read_card(metadata: Mapping[str, str], path: object) -> Card:
    """Return the card; raise :class:`FileError` for an invalid card."""
    try:
        card = Card.model_validate_json(metadata["card"])
        if "probes" in metadata:
            probes = {**json.loads(metadata["probes"]), "responses": json.loads(metadata.get("responses", "{}"))}
            card = card.model_copy(update={"probes": Probes.model_validate(probes)})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FileError(path, f"its card is not valid: {where}: {first['msg'].removeprefix('Value error, ')}") from None
    return card


def _card_metadata(card: Card) -> dict[str, str]:
    metadata = {"card": card.model_dump_json(exclude={"probes"})}
    if card.probes is None:
        return metadata
    metadata["probes"] = card.probes.to_json()
    if card.probes.responses:
        metadata["responses"] = json.dumps(card.probes.responses, separators=(",", ":"))
    return metadata


def _written(path: Path, blob: bytes, replace: bool) -> Path:
    """Write a file and return its path: without ``replace``, the next free name."""
    for place in numbered(path):
        try:
            write_atomically(place, blob, replace)
        except FileExistsError:
            continue
        return place
    raise AssertionError("there is always a next number")


def _checksum(head: Mapping[str, Any], data: bytes) -> str:
    """Return the SHA-256 of everything but the hash itself: card, table of tensors, tensor data."""
    metadata = {key: value for key, value in head["__metadata__"].items() if key != "sha256"}
    table = json.dumps({**head, "__metadata__": metadata}, sort_keys=True)
    return hashlib.sha256(table.encode() + b"\0" + data).hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open_regular(path) as stream:
            yield stream
    except FileNotFoundError:
        raise FileError(path, "there is no such file") from None
    except OSError as error:
        raise FileError(path, f"it cannot be read: {error.strerror or error}") from error


def _parsed_head(stream: BinaryIO, size: int, where: object) -> tuple[dict[str, Any], int]:
    """Return the parsed header and the number of bytes of tensor data."""
    start = stream.read(9)
    _refuse_pickle(where, start)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > size - 8:
        raise FileError(where, "it is truncated, or not an adapter file")
    if length > HEADER_LIMIT:
        raise FileError(where, f"its header claims {length:,} bytes; an adapter's has at most {HEADER_LIMIT:,}")
    stream.seek(8)
    try:
        head = json.loads(stream.read(length))
    except (ValueError, RecursionError):
        raise FileError(where, "its header is not JSON: it is damaged, or not an adapter file") from None
    if not isinstance(head, dict):
        raise FileError(where, "its header is not a table: it is not an adapter file")
    return head, size - 8 - length


def _refuse_pickle(where: object, start: bytes) -> None:
    # the length of a safetensors header may begin with the same bytes, but its ninth byte opens the JSON
    if start[8:] != b"{" and start.startswith((b"PK", b"\x80")):
        raise FileError(where, "this is a pickle (a torch.save file), whatever it is called; pickles are never loaded")


def _header(path: object, head: Mapping[str, Any], data_size: int) -> Header:
    metadata = head.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise FileError(path, "it is a safetensors file, but not an adapter of this project: its header has no card")
    version = metadata.get("format_version")
    if version != FORMAT_VERSION:
        raise FileError(
            path, f"it has format version {version!r}; this release reads {FORMAT_VERSION!r}. Upgrade adaptdock."
        )
    tensors = {}
    end = 0
    try:
        for name, entry in head.items():
            if name != "__metadata__":
                tensors[name] = (str(entry["dtype"]), tuple(int(extent) for extent in entry["shape"]))
                end = max(end, int(entry["data_offsets"][1]))
        card = _read_card(metadata, path)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RecursionError):
        raise FileError(path, "its header is not that of an adapter file") from None
    if end != data_size:
        raise FileError(path, f"it is truncated or damaged: {end:,} bytes of tensors expected, {data_size:,} found")
    return Header(card, tensors, data_size)
