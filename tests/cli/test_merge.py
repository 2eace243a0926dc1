import json

import pytest
import torch
from builders import build_adapter
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from adaptdock.engine.inference.dock import Dock
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file


def test_the_folder_is_a_model_that_transformers_loads_by_itself(adapt, adapter, backbone, tmp_path):
    ran = adapt("merge", adapter, "--output", "merged")
    assert ran.status == 0, ran
    assert "4 linear maps" in ran.out
    assert "merged/head.safetensors" in ran.out
    assert "transformers loads the folder without it" in ran.err
    given = AutoTokenizer.from_pretrained(tmp_path / "merged")("ada met bob", return_tensors="pt")
    dock = Dock(backbone)
    name = dock.load(adapter)
    with torch.no_grad(), dock.boarding([name]) as rows:
        found = AutoModel.from_pretrained(tmp_path / "merged").eval()(**given)[0]
        torch.testing.assert_close(found, dock.hidden(rows, given), atol=1e-5, rtol=0)
    dock.close()
    assert load_file(tmp_path / "merged" / "head.safetensors").keys() == {"head.weight", "head.bias"}


def test_json_names_every_port_and_file(adapt, adapter, tmp_path):
    found = json.loads(adapt("merge", adapter, "-o", "merged", "--dtype", "bfloat16", "--json").out)
    assert found["dtype"] == "bfloat16"
    assert found["ports"] == [f"layers.{layer}.{role}" for layer in (0, 1) for role in ("query", "value")]
    assert found["bytes"] == sum(file.stat().st_size for file in (tmp_path / "merged").iterdir())
    assert {found["head"], found["card"]} == {"merged/head.safetensors", "merged/card.json"}


def test_a_folder_that_exists_is_replaced_only_when_asked_for(adapt, adapter, tmp_path):
    assert adapt("merge", adapter, "-o", "merged").status == 0
    adapt("merge", adapter, "-o", "merged").failed(2, "merged exists already", "--overwrite")
    assert adapt("merge", adapter, "-o", "merged", "--overwrite").status == 0
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("ten years")
    adapt("merge", adapter, "-o", "precious", "--overwrite").failed(2, "precious is no merged model")
    assert (tmp_path / "precious" / "thesis.txt").exists()


def test_the_backbone_s_own_folder_is_refused_before_anything_is_loaded(adapt, adapter, model_folder):
    adapt("merge", adapter, "-o", model_folder, "--overwrite").failed(2, "holds the backbone", "stays as it is")


def test_quantised_weights_are_refused_with_the_way_out(adapt, adapter, tmp_path):
    adapt("merge", adapter, "-o", "merged", "--quantize", "int8").failed(2, "then quantise the merged model")
    assert "--quantize" not in adapt("merge", "--help").out
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_was_trained_on_quantised_weights_is_merged_with_a_remark(adapt, adapter):
    given = read_file(adapter)
    write_file(
        "q.safetensors", AdapterFile(given.card.model_copy(update={"training": {"quantized": "nf4"}}), given.tensors)
    )
    assert "trained on nf4 weights" in adapt("merge", "q.safetensors", "-o", "merged").err


@pytest.mark.parametrize("method", ["bottleneck", "prefix"])
def test_a_method_that_is_no_linear_map_is_named(adapt, backbone, tmp_path, method):
    write_file("it.safetensors", build_adapter(backbone, method))
    adapt("merge", "it.safetensors", "-o", "merged").failed(2, method, "cannot be merged")
    assert not (tmp_path / "merged").exists()


def test_the_output_is_required(adapt, adapter):
    adapt("merge", adapter).failed(2, "Missing option '--output'")
