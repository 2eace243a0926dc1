"""The fingerprint tells weights apart, and nothing else."""

import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from models import tiny_bert
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from adaptdock.backbones.fingerprint import fingerprint
from adaptdock.backbones.huggingface import HuggingFace
from adaptdock.backbones.transformers.checkpoint import ALIASES, resolve
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import LoadOptions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"), width=64)


def of(folder: Path) -> str:
    return fingerprint(resolve(str(folder)).weight_files)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float32"},
        {"dtype": "bfloat16"},
        {"quantize": "int8"},
        {"quantize": "int8", "quantizer": "bitsandbytes"},
        {"quantize": "nf4"},
    ],
)
def test_it_is_the_same_however_the_weights_are_held(folder: Path, options: dict[str, str]) -> None:
    assert HuggingFace().load(str(folder), LoadOptions(device="cpu", **options)).fingerprint == of(folder)


def test_it_is_the_same_for_the_same_tensors_in_one_file_and_in_many(folder: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(resolve(str(tmp_path)).weight_files) > 2
    assert of(tmp_path) == of(folder)


def test_it_differs_for_other_weights_of_the_same_shape(folder: Path, tmp_path: Path) -> None:
    assert of(tiny_bert(tmp_path, seed=1, width=64)) != of(folder)


def test_it_differs_when_any_one_tensor_is_trained_further(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    seen = {of(folder)}
    for name in tensors:
        changed = {**tensors, name: tensors[name] + 1e-3 * torch.randn_like(tensors[name])}
        save_file(changed, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text("{}")
        seen.add(of(tmp_path))
    assert len(seen) == len(tensors) + 1


@pytest.mark.parametrize("change", ["name", "dtype", "shape"])
def test_it_differs_when_a_tensor_has_another_name_type_or_shape(change: str, tmp_path: Path) -> None:
    zeros = torch.zeros(8, 4)
    other = {"name": ("b", zeros), "dtype": ("a", zeros.int()), "shape": ("a", zeros.view(4, 8))}[change]
    save_file({"a": zeros}, tmp_path / "one.safetensors")
    save_file(dict([other]), tmp_path / "other.safetensors")
    assert fingerprint([tmp_path / "one.safetensors"]) != fingerprint([tmp_path / "other.safetensors"])


def test_it_takes_less_than_a_second_for_real_weights_and_reads_little_of_them() -> None:
    installed = [name for name, alias in ALIASES.items() if find_spec(alias.package)]
    assert "minilm" in installed
    for name in installed:
        files = resolve(name).weight_files
        fingerprint(files)
        start = time.perf_counter()
        fingerprint(files)
        assert time.perf_counter() - start < 0.5  # measured with the files in memory: 5 ms and 3 ms


def test_fourteen_gigabytes_take_less_than_a_second(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    size = 14 * 2**30 // 300
    entries = ",".join(
        f'"layer.{n}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{n * size},{(n + 1) * size}]}}'
        for n in range(300)
    )
    header = f"{{{entries}}}".encode()
    with file.open("wb") as stream:  # a sparse file: it takes no room
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + 300 * size)
    start = time.perf_counter()
    assert fingerprint([file]).startswith("blocks1:")
    assert time.perf_counter() - start < 1


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((10**12).to_bytes(8, "little") + b"{}")
    with pytest.raises(BackboneError, match="1000000000000 bytes; this is not a safetensors file"):
        fingerprint([tmp_path / "model.safetensors"])


def test_other_safetensors_files_in_the_folder_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    from adaptdock.backbones.transformers.checkpoint import resolve

    folder = tiny_bert(tmp_path)
    before = fingerprint(resolve(str(folder)).weight_files)
    (folder / "ner.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert fingerprint(resolve(str(folder)).weight_files) == before
