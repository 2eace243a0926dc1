"""The adapter file: what is written is read back, and nothing else is ever taken for one."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from adaptdock.errors import FileError
from adaptdock.hub.artefact.file import HEADER_LIMIT, AdapterFile, read_card, read_file, read_header, write_file


@pytest.fixture
def adapter(adapters: dict[str, AdapterFile]) -> AdapterFile:
    return adapters["lora"]


@pytest.fixture
def path(adapter: AdapterFile, tmp_path: Path) -> Path:
    write_file(tmp_path / "a.safetensors", adapter)
    return tmp_path / "a.safetensors"


def test_card_and_tensors_come_back_as_they_were(adapter: AdapterFile, path: Path) -> None:
    loaded = read_file(path)
    assert loaded.card == adapter.card == read_card(path)
    assert loaded.tensors.keys() == adapter.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in adapter.tensors.items())
    assert read_header(path).parameters == sum(tensor.numel() for tensor in adapter.tensors.values())


def test_every_flipped_bit_of_the_content_is_noticed(path: Path) -> None:
    blob = bytearray(path.read_bytes())
    header = int.from_bytes(blob[:8], "little")
    for position in {8 + header, len(blob) - 1, (8 + header + len(blob)) // 2}:
        damaged = bytearray(blob)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="checksum"):
            read_file(path)


def test_a_changed_card_is_noticed(path: Path) -> None:
    blob = path.read_bytes()
    path.write_bytes(blob.replace(b"LOC", b"LUC"))
    with pytest.raises(FileError, match="checksum"):
        read_file(path)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused(path: Path, keep: float) -> None:
    blob = path.read_bytes()
    path.write_bytes(blob[: int(keep if keep >= 1 or keep == 0 else keep * len(blob))])
    with pytest.raises(FileError, match=r"truncated|damaged"):
        read_file(path)


def test_a_pickle_under_a_safetensors_name_is_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (open, (str(tmp_path / "sprung"), "w"))

    buffer = io.BytesIO()
    torch.save({"a": torch.ones(1)}, buffer)
    for blob in (pickle.dumps(Trap()), buffer.getvalue()):
        (tmp_path / "a.safetensors").write_bytes(blob)
        with pytest.raises(FileError, match="pickle"):
            read_file(tmp_path / "a.safetensors")
    assert not (tmp_path / "sprung").exists()


def test_a_header_that_claims_or_has_a_gigabyte_is_refused_unread(tmp_path: Path) -> None:
    claimed, real = tmp_path / "claimed.safetensors", tmp_path / "real.safetensors"
    claimed.write_bytes((2**30).to_bytes(8, "little") + b"{}")
    with real.open("wb") as stream:
        stream.write((2**30).to_bytes(8, "little"))
        os.truncate(stream.fileno(), 2**30 + 8)
    with pytest.raises(FileError, match="truncated"):
        read_card(claimed)
    with pytest.raises(FileError, match=f"at most {HEADER_LIMIT:,}"):
        read_card(real)


def test_other_files_are_refused_with_the_reason(tmp_path: Path, path: Path) -> None:
    foreign = tmp_path / "other.safetensors"
    save_file({"a": torch.ones(1)}, foreign)
    with pytest.raises(FileError, match="no card"):
        read_file(foreign)
    with pytest.raises(FileError, match="no such file"):
        read_file(tmp_path / "absent.safetensors")
    for blob in (b"", b"just a text that is long enough", (20).to_bytes(8, "little") + b"[" * 20):
        foreign.write_bytes(blob)
        with pytest.raises(FileError):
            read_file(foreign)
    foreign.write_bytes(_with_metadata(path, format_version="2"))
    with pytest.raises(FileError, match=r"format version '2'.*Upgrade"):
        read_file(foreign)
    for probes in ("[" * 100_000, '{"probes": Infinity}', "null"):
        foreign.write_bytes(_with_metadata(path, probes=probes))
        with pytest.raises(FileError, match=r"not that of an adapter file|card is not valid"):
            read_file(foreign)
    foreign.write_bytes(_with_metadata(path, card='{"name": "x"}'))
    with pytest.raises(FileError, match=r"card is not valid: task"):
        read_file(foreign)


def _with_metadata(path: Path, **changes: str) -> bytes:
    blob = path.read_bytes()
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    header["__metadata__"] |= changes
    new = json.dumps(header).encode()
    return len(new).to_bytes(8, "little") + new + blob[8 + size :]


def test_a_failed_write_leaves_the_old_file_and_nothing_half_written(
    path: Path, adapter: AdapterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    for step in ("fsync", "replace", "fdopen"):

        def fail(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(FileError, match="No space left"):
                write_file(path, adapter)
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_card_is_read_without_torch(path: Path) -> None:
    code = (
        "import sys; from adaptdock import read_card; card = read_card(sys.argv[1]); "
        "assert card.methods[0].name == 'lora'; "
        "assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_a_changed_table_of_tensors_is_noticed(path: Path) -> None:
    blob = path.read_bytes()
    size = int.from_bytes(blob[:8], "little")
    names = [name.encode() for name in read_header(path).tensors][:2]
    table = blob[8 : 8 + size]  # without its length, whose bytes may be any
    swapped = table.replace(names[0], b"@").replace(names[1], names[0]).replace(b"@", names[1])
    assert swapped != table
    path.write_bytes(blob[:8] + swapped + blob[8 + size :])
    with pytest.raises(FileError, match="checksum"):
        read_file(path)
    path.write_bytes(blob[: 8 + size].replace(b'"F32"', b'"I32"', 1) + blob[8 + size :])
    with pytest.raises(FileError, match="checksum"):
        read_file(path)


def test_the_same_adapter_gives_the_same_bytes_however_often_it_is_written(path: Path, tmp_path: Path) -> None:
    adapter, written = read_file(path), set()
    for number in range(6):  # safetensors orders the metadata at random
        write_file(tmp_path / f"{number}.safetensors", adapter)
        written.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(written) == 1
    (content,) = written
    assert (8 + int.from_bytes(content[:8], "little")) % 8 == 0
    with safe_open(tmp_path / "0.safetensors", "pt") as opened:  # safetensors' own reader
        assert set(opened.keys()) == adapter.tensors.keys()
        assert opened.metadata().keys() == {"format", "format_version", "card", "sha256"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("description", "x" * 20_001),
        ("licence", "x" * 1001),
        ("version", "1" * 101),
        ("languages", ["en"] * 1001),
        ("languages", ["x" * 101]),
        ("name", ""),
    ],
)
def test_a_card_that_would_flood_a_page_is_neither_written_nor_read(
    adapter: AdapterFile, path: Path, tmp_path: Path, field: str, value: Any
) -> None:
    card = adapter.card.model_copy(update={field: value})
    with pytest.raises(FileError, match=f"its card is not valid: {field}"):
        write_file(tmp_path / "new.safetensors", AdapterFile(card, adapter.tensors))
    assert list(tmp_path.iterdir()) == [path]
    blob = path.read_bytes()
    size = int.from_bytes(blob[:8], "little")
    head = json.loads(blob[8 : 8 + size])
    head["__metadata__"]["card"] = json.dumps({**json.loads(head["__metadata__"]["card"]), field: value})
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + blob[8 + size :])
    with pytest.raises(FileError, match=f"its card is not valid: {field}"):
        read_file(path)
