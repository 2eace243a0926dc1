"""Adapter files that cannot be used, given to each command that reads one."""

import json
import os
import pickle
import shutil

import pytest
import torch
from models import tiny_bert

COMMANDS = [
    ["inspect", "{}"],
    ["predict", "{}", "a text"],
    ["eval", "{}"],
    ["merge", "{}", "--output", "merged"],
    ["combine", "{}", "--weights", "1", "--output", "combined.safetensors"],
]


@pytest.fixture
def bad(tmp_path):
    return tmp_path / "bad.safetensors"


@pytest.fixture(params=COMMANDS, ids=lambda command: command[0])
def use(request, adapt, bad):
    return lambda: adapt(*(part.format(bad) for part in request.param))


def test_a_missing_file_is_named(use, bad):
    use().failed(1, str(bad), "there is no such file")


def test_a_folder_is_no_adapter(use, bad):
    bad.mkdir()
    use().failed(1, str(bad), "cannot be read")


def test_a_fifo_is_no_adapter_and_is_not_waited_for(use, bad):
    os.mkfifo(bad)
    use().failed(1, str(bad), "cannot be read", "FIFO")


@pytest.mark.parametrize("size", [0, 5, 9, 700, -1])
def test_a_truncated_file_is_refused(use, bad, adapter, size):
    bad.write_bytes(adapter.read_bytes()[:size])
    use().failed(1, str(bad), "truncated")


def test_a_file_with_bytes_after_its_end_is_refused(use, bad, adapter):
    bad.write_bytes(adapter.read_bytes() + b"more")
    use().failed(1, str(bad), "damaged")


def test_a_pickle_under_another_name_is_refused(use, bad):
    torch.save({"weight": torch.zeros(3)}, bad)
    use().failed(1, "this is a pickle")
    bad.write_bytes(pickle.dumps({"weight": [0.0] * 500}))
    use().failed(1, "this is a pickle")


def test_a_header_that_claims_a_gigabyte_is_refused(use, bad, adapter):
    bad.write_bytes((2**30).to_bytes(8, "little") + adapter.read_bytes()[8:])
    use().failed(1, str(bad), "truncated")


def test_a_header_that_is_a_gigabyte_is_not_read(use, bad):
    with bad.open("wb") as stream:
        stream.write((2**30).to_bytes(8, "little") + b'{"__metadata__": {"card": "')
        os.truncate(stream.fileno(), 2**30 + 8)
    use().failed(1, "its header claims 1,073,741,824 bytes")


def test_other_safetensors_files_are_no_adapters(use, bad, model_folder):
    shutil.copy(model_folder / "model.safetensors", bad)
    use().failed(1, "its header has no card")


@pytest.mark.parametrize("content", [b"[1]", b'{"__metadata__": 3}', b"{" * 5000, b"\xff\xfe{}", b"null"])
def test_a_header_that_is_none_is_refused(use, bad, content):
    bad.write_bytes(len(content).to_bytes(8, "little") + content)
    use().failed(1, str(bad))


def test_every_flipped_bit_of_the_weights_is_noticed_before_the_file_is_used(adapt, bad, adapter):
    content = bytearray(adapter.read_bytes())
    for place in (len(content) - 1, len(content) - 2000):
        flipped = bytearray(content)
        flipped[place] ^= 1
        bad.write_bytes(flipped)
        adapt("predict", bad, "a text").failed(1, "does not match its checksum")


def test_a_card_that_was_changed_is_noticed(adapt, bad, adapter):
    bad.write_bytes(adapter.read_bytes().replace(b"places", b"placed"))
    adapt("predict", bad, "a text").failed(1, "does not match its checksum")


def test_an_adapter_of_another_backbone_is_refused(adapt, adapter, data, tmp_path, model_folder):
    tiny_bert(tmp_path / "other", seed=1)
    for command in (["predict", adapter, "a text"], ["eval", adapter, "--data", data]):
        adapt(*command, "--backbone", tmp_path / "other").failed(1, "was trained on the backbone", str(model_folder))


def test_the_same_weights_in_another_place_are_accepted(adapt, adapter, tmp_path, model_folder):
    shutil.copytree(model_folder, tmp_path / "copy")
    ran = adapt("predict", adapter, "ada", "--backbone", tmp_path / "copy", "--json")
    assert ran.status == 0
    assert json.loads(ran.out)["text"] == "ada"


def test_a_backbone_that_is_not_there_is_named(adapt, adapter):
    adapt("predict", adapter, "ada", "--backbone", "./nowhere").failed(1, "./nowhere", "no such file or folder")
