"""A merged model with its head as one ONNX graph, for runtimes without this project and without torch.

The graph has the tokens and the mask of a batch (R, T) as inputs, and as output the logits of the adapter's head, with
free sizes of R and T. Needs the packages ``onnx`` and ``onnxscript``; with ``onnxruntime`` the graph is compared with
the adapter before anything is written.
"""

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptdock.engine.core.batches import tokenizer
from adaptdock.engine.core.docked_adapters import DockedAdapters
from adaptdock.engine.core.forward import for_head
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.merging.merge import CARD_FILE, CONFIG_FILE, HEAD_FILE, merge
from adaptdock.errors import MismatchError, UsageError
from adaptdock.hub.artefact.atomic import atomic_folder
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone, Batch, Head, LoadOptions

MODEL = "model.onnx"
NEEDED = ("onnx", "onnxscript")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
WEIGHTS = (".safetensors", ".bin", ".gguf", ".json.index")
EXACT = 1e-3
"""Largest difference of a logit from the adapter's, relative to the largest logit."""
ROWS = ((5, 6, 7, 8), (8, 5, 9, 0))
"""Tokens of the example batch; the last one is padding."""


class _WithHead(nn.Module):
    """A backbone with a head, as one module."""

    def __init__(self, backbone: Backbone, head: Head, weights: dict[str, Tensor], names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self._names = getattr(backbone, "generator", None) or backbone.model, names
        self.weights = nn.ParameterDict({name: nn.Parameter(tensor[None], False) for name, tensor in weights.items()})
        self._backbone, self._head = backbone, head

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the logits of the inputs, in the order of their names."""
        batch = dict(zip(self._names, inputs, strict=True))
        hidden = self._backbone.forward(Batch(batch, self._head.reads))
        mask = batch["attention_mask"]
        head_input = for_head(self._backbone, self._head, hidden, mask, {})
        return self._head.apply(dict(self.weights.items()), head_input, mask)


def write_onnx(backbone: Backbone, adapter: AdapterFile, folder: Path, overwrite: bool = False) -> list[str]:
    """Write the merged model with its head as ONNX, and return notes for the user.

    Raises :class:`UsageError` for missing packages, a taken folder, and an adapter that cannot be merged or has inputs
    besides the text; :class:`MismatchError` if the graph computes something else.
    """
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise UsageError(f"--to onnx needs {' and '.join(missing)}: pip install 'adaptdock[onnx]'")
    head = DockedAdapters(backbone).prepare(adapter).assembly.head
    if backbone.encoder_decoder or head.row_inputs:
        raise UsageError(
            "an ONNX graph is written of a model with one text as input: not of an encoder-decoder, and not with a "
            "head that reads marks"
        )
    check_onnx_folder(folder, overwrite)
    with tempfile.TemporaryDirectory() as temporary, atomic_folder(folder, replace=overwrite) as place:
        merged = Path(temporary) / "merged"
        merge(backbone, adapter, merged)
        copy = load_backbone(str(merged), LoadOptions(device="cpu", dtype="float32"))
        weights = {name.removeprefix("head."): tensor.float() for name, tensor in _head_tensors(adapter).items()}
        example = _example(copy)
        module = _WithHead(copy, head, weights, tuple(example)).eval()
        _export(module, example, place / MODEL)
        for file in merged.iterdir():
            if file.name != HEAD_FILE and not file.name.endswith(WEIGHTS):
                shutil.copy(file, place / file.name)
        return _compared(module, example, place / MODEL)


def check_onnx_folder(folder: Path, overwrite: bool) -> None:
    """Raise :class:`UsageError` unless an ONNX model may be written there; only such a folder is replaced."""
    if not folder.exists():
        return
    if not overwrite:
        raise UsageError(f"{folder} exists already: give another --output, or --overwrite to replace it")
    ours = all((folder / name).is_file() for name in (MODEL, CARD_FILE, CONFIG_FILE))
    if not folder.is_dir() or (any(folder.iterdir()) and not ours):
        raise UsageError(f"{folder} does not hold an ONNX model of an adapter, and nothing else is overwritten")


def _head_tensors(adapter: AdapterFile) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in adapter.tensors.items() if name.startswith("head.")}


def _example(backbone: Backbone) -> dict[str, Tensor]:
    """Return a batch with every input that the tokenizer makes; raise :class:`BackboneError` without texts."""
    ids = torch.tensor(ROWS)
    mask = torch.ones_like(ids)
    mask[1, -1] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    known = tuple(getattr(tokenizer(backbone), "model_input_names", INPUTS[:2]))
    return {name: batch[name] for name in INPUTS if name in known or name in INPUTS[:2]}


def _export(module: nn.Module, example: dict[str, Tensor], file: Path) -> None:
    sizes: Any = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens")}
    with warnings.catch_warnings(), torch.no_grad(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(example.values()),
            file,
            input_names=list(example),
            output_names=["logits"],
            dynamic_shapes=((sizes,) * len(example),),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence the remarks of a logger; errors stay."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _compared(module: nn.Module, example: dict[str, Tensor], file: Path) -> list[str]:
    """Compare the graph with the module on a batch of another size; return a note if that is not possible."""
    if find_spec("onnxruntime") is None:
        return ["the graph was not compared with the adapter: pip install onnxruntime"]
    import onnxruntime

    batch = {name: tensor.repeat(2, 1)[:3, :3] for name, tensor in example.items()}
    with torch.no_grad():
        expected = module(*batch.values())
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})
    difference = float((torch.from_numpy(logits) - expected).abs().max())
    scale = max(1.0, float(expected.abs().max()))
    if not difference <= EXACT * scale:
        raise MismatchError(
            f"the ONNX graph differs from the adapter by {difference:.1e} in a logit, of at most {scale:.1e}; nothing "
            f"was written"
        )
    return [f"onnxruntime gives logits that differ from the adapter's by at most {difference:.0e}"]
