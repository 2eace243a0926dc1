import json


def test_the_card_and_the_sizes_are_shown(adapt, adapter):
    ran = adapt("inspect", adapter)
    assert ran.status == 0
    for words in ("places", "ner", "labels=LOC/PER", "lora", "rank=2", "bert", "fingerprint", "parameters"):
        assert words in ran.out


def test_json_holds_the_whole_card_and_every_tensor(adapt, adapter):
    found = json.loads(adapt("inspect", adapter, "--json").out)
    assert found["card"]["task"]["options"]["labels"] == ["LOC", "PER"]
    assert found["bytes"] == adapter.stat().st_size
    assert found["tensors"]["head.weight"]["shape"] == [5, 32]
    counted = 0
    for tensor in found["tensors"].values():
        size = 1
        for extent in tensor["shape"]:
            size *= extent
        counted += size
    assert found["parameters"] == counted


def test_tensors_are_listed_when_asked_for(adapt, adapter):
    assert "head.weight" not in adapt("inspect", adapter).out
    assert "head.weight" in adapt("inspect", adapter, "--tensors").out


def test_a_renamed_adapter_is_still_one(adapt, adapter, tmp_path):
    other = tmp_path / "other.bin"
    other.write_bytes(adapter.read_bytes())
    assert adapt("inspect", other).status == 0
