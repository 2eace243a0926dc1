"""A merged model with its head as ONNX gives the adapter's logits in onnxruntime."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from builders import build_adapter
from logits import difference, ours
from models import tiny_bert

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.merging import onnx_export
from adaptdock.engine.merging.onnx_export import MODEL, check_onnx_folder, write_onnx
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Backbone, LoadOptions

INSTALLED = all(find_spec(name) for name in (*onnx_export.NEEDED, "onnxruntime"))
needs_onnx = pytest.mark.skipif(not INSTALLED, reason="needs onnx, onnxscript and onnxruntime: adaptdock[onnx]")
IDS = torch.tensor([[2, 11, 23, 35, 47, 3], [2, 8, 9, 3, 0, 0], [2, 8, 3, 0, 0, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}


@pytest.fixture
def readable(tmp_path: Path) -> Backbone:
    return load_backbone(str(tiny_bert(tmp_path / "model")), LoadOptions(device="cpu"))


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(("task", "method"), [("classification", "lora"), ("ner", "vera")])
def test_onnxruntime_gives_the_logits_of_the_adapter(
    task: str, method: str, readable: Backbone, tmp_path: Path
) -> None:
    import onnxruntime

    adapter = build_adapter(readable, method, labels=("a", "b", "c"), task=task)
    notes = write_onnx(readable, adapter, tmp_path / "onnx")
    assert "onnxruntime gives logits" in notes[0]
    assert {"card.json", "config.json", "tokenizer.json", MODEL} <= {
        path.name for path in (tmp_path / "onnx").iterdir()
    }
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / MODEL), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    batch = {**INPUTS, "token_type_ids": torch.zeros_like(IDS)}
    (logits,) = session.run(["logits"], {name: batch[name].numpy() for name in names})
    assert difference(ours(readable, adapter, INPUTS), torch.from_numpy(logits), INPUTS) < 1e-4


def test_without_the_packages_the_way_out_is_told(
    readable: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    adapter = build_adapter(readable, "lora")
    with pytest.raises(UsageError, match=r"--to onnx needs onnx and onnxscript: pip install 'adaptdock\[onnx\]'"):
        write_onnx(readable, adapter, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_only_an_onnx_model_of_an_adapter_is_replaced(tmp_path: Path) -> None:
    check_onnx_folder(tmp_path / "new", overwrite=False)
    with pytest.raises(UsageError, match="exists already"):
        check_onnx_folder(tmp_path, overwrite=False)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="nothing else is overwritten"):
        check_onnx_folder(tmp_path, overwrite=True)
