"""The floor of a processor: a base without adapters in every fast form, beside this project with live adapters.

    python benchmarks/floor.py [--batches 8x16,32x16,32x64,1x128] [--rounds 9] [--adapters 32]
    pip install --target LIB onnx onnxscript onnxruntime openvino nncf; PYTHONPATH=LIB python benchmarks/floor.py

Sides: torch in float32, bfloat16 and dynamic int8; ONNX Runtime in float32 and dynamic int8; OpenVINO in float32,
bfloat16 and int8 (by nncf, calibrated on random tokens); this project in bfloat16, bare and with adapters of each
method and of all three in turn. Sides whose library is missing or fails are named and left out. All have one thread.
A side's figure is the median over the rounds of its time over torch's float32 in the same round; cosine is that of its
states with torch's float32, the mean over positions. The last column divides by the fastest graph runtime without
adapters.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

import torch
from machine import machine
from mixed import METHODS, adapter
from torch import Tensor, nn
from torch.nn import functional
from transformers.utils import logging as transformers_logging

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.plugins.contracts import LoadOptions

NAMES = "input_ids", "attention_mask", "token_type_ids"
"""The inputs of a graph, in their order."""
CALIBRATED = 16
"""Batches by which nncf chooses the ranges of int8."""
GRAPHS = "ONNX Runtime", "OpenVINO"

Inputs = dict[str, Tensor]
Side = Callable[[Inputs, int], Tensor]
"""Returns the last hidden states (R, T, W) of a batch; the number of the round chooses the adapters."""


def random_inputs(rows: int, tokens: int, seed: int) -> Inputs:
    """Return a batch of random tokens without padding."""
    ids = torch.randint(1000, 20_000, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    return dict(zip(NAMES, (ids, torch.ones_like(ids), torch.zeros_like(ids)), strict=True))


class States(nn.Module):
    """A model with positional inputs and one output, as graph exporters need it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Return the last hidden states."""
        return self.model(input_ids, attention_mask, token_type_ids)[0]  # type: ignore[no-any-return]


def plain(model: nn.Module) -> Side:
    """Return a model as transformers runs it."""

    @torch.inference_mode()
    def run(inputs: Inputs, _: int) -> Tensor:
        return model(**inputs)[0]  # type: ignore[no-any-return]

    return run


def of_torch(exact: HuggingFaceBackbone, quick: HuggingFaceBackbone) -> Iterator[tuple[str, Side]]:
    """Yield the sides of torch; the first is the reference."""
    from torch.ao.quantization import quantize_dynamic

    yield "torch float32", plain(exact.model)
    yield "torch bfloat16", plain(quick.model)
    yield "torch int8", plain(quantize_dynamic(deepcopy(exact.model), {nn.Linear}, dtype=torch.qint8))


def exported(model: nn.Module, folder: Path) -> Path:
    """Write the model as ONNX with any number of rows and positions."""
    file = folder / "model.onnx"
    rows, tokens = torch.export.Dim("rows", min=1, max=512), torch.export.Dim("tokens", min=2, max=512)
    program = torch.onnx.export(
        States(model).eval(),
        tuple(random_inputs(2, 8, 0).values()),
        input_names=list(NAMES),
        output_names=["states"],
        dynamic_shapes=({0: rows, 1: tokens},) * 3,
        dynamo=True,
        verbose=False,
    )
    program.save(str(file))
    return file


def of_onnxruntime(file: Path) -> Iterator[tuple[str, Side]]:
    """Yield the sides of ONNX Runtime."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def side(path: Path) -> Side:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        taken = [entry.name for entry in session.get_inputs()]
        return lambda inputs, _: torch.from_numpy(session.run(None, {name: inputs[name].numpy() for name in taken})[0])

    yield "ONNX Runtime float32", side(file)
    small = file.with_name("int8.onnx")
    quantize_dynamic(str(file), str(small), per_channel=True, weight_type=QuantType.QInt8)
    yield "ONNX Runtime int8", side(small)


def of_openvino(file: Path) -> Iterator[tuple[str, Side]]:
    """Yield the sides of OpenVINO."""
    import openvino

    core = openvino.Core()

    def side(model: Any, precision: str) -> Side:
        settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        compiled = core.compile_model(model, "CPU", settings)
        taken = [entry.any_name for entry in compiled.inputs]
        return lambda inputs, _: torch.from_numpy(compiled({name: inputs[name].numpy() for name in taken})[0])

    yield "OpenVINO float32", side(core.read_model(file), "f32")
    yield "OpenVINO bfloat16", side(core.read_model(file), "bf16")
    import nncf

    model = core.read_model(file)
    taken = [entry.any_name for entry in model.inputs]
    batches = [
        {name: tensor.numpy() for name, tensor in random_inputs(8, 32, seed).items() if name in taken}
        for seed in range(CALIBRATED)
    ]
    small = nncf.quantize(model, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATED)
    yield "OpenVINO int8", side(small, "f32")


def ours(quick: HuggingFaceBackbone, count: int) -> Iterator[tuple[str, Side]]:
    """Yield the sides of this project; rows walk through the adapters from round to round."""

    def side(methods: Sequence[str]) -> Side:
        dock = Dock(quick)
        names = [dock.dock(adapter(quick, methods[number % len(methods)], number)) for number in range(count)]

        def run(inputs: Inputs, number: int) -> Tensor:
            rows = len(inputs["input_ids"])
            with dock.boarding([names[(number * rows + row) % count] for row in range(rows)]) as aboard:
                return dock.hidden(aboard, inputs)

        return run

    bare = Dock(quick)
    yield "ours, bare", lambda inputs, _: bare.hidden([()] * len(inputs["input_ids"]), inputs)
    for method in METHODS:
        yield f"ours, {method}", side([method])
    yield "ours, all three", side([*METHODS])


def built(exact: HuggingFaceBackbone, quick: HuggingFaceBackbone, folder: Path, count: int) -> dict[str, Side]:
    """Return all sides that this machine has, and name the others."""
    sides = dict(of_torch(exact, quick))
    try:
        file = exported(exact.model, folder)
        for name, sides_of in (("ONNX Runtime", of_onnxruntime), ("OpenVINO", of_openvino)):
            try:
                sides.update(sides_of(file))  # keeps the sides before one that fails
            except Exception as error:
                print(f"{name} or one of its sides is left out: {type(error).__name__}: {str(error)[:200]}")
    except Exception as error:
        print(f"graph runtimes are left out, nothing was exported: {type(error).__name__}: {str(error)[:200]}")
    return sides | dict(ours(quick, count))


def measure(sides: dict[str, Side], rows: int, tokens: int, rounds: int) -> Iterator[str]:
    """Yield the lines of a batch's table."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    cosines: dict[str, float] = {}
    reference = next(iter(sides))
    for number in range(rounds + 1):
        inputs, expected = random_inputs(rows, tokens, number), torch.empty(0)
        for side, run in sides.items():
            started = time.perf_counter()
            states = run(inputs, number)
            if number:
                times[side].append(time.perf_counter() - started)
                continue
            expected = states.float() if side == reference else expected  # a round to warm up, and to compare
            cosines[side] = functional.cosine_similarity(states.float(), expected, dim=-1).mean().item()
    ratios = {
        side: statistics.median(one / base for one, base in zip(values, times[reference], strict=True))
        for side, values in times.items()
    }
    best = min((ratio for side, ratio in ratios.items() if side.startswith(GRAPHS)), default=float("nan"))
    for side, ratio in ratios.items():
        live = side.startswith("ours") and side != "ours, bare"
        cosine = "" if live else f"{cosines[side]:.3f}"
        milliseconds = 1e3 * statistics.median(times[side])
        yield f"| {rows}x{tokens} | {side} | {ratio:.2f} | {cosine} | {ratio / best:.2f} | {milliseconds:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--batches", default="8x16,32x16,32x64,1x128")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--adapters", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    print(machine())
    exact, quick = (
        load_backbone(arguments.backbone, LoadOptions(device="cpu", dtype=dtype)) for dtype in ("float32", "bfloat16")
    )
    with tempfile.TemporaryDirectory() as folder:
        sides = built(exact, quick, Path(folder), arguments.adapters)  # type: ignore[arg-type]
        print("\n| batch | side | over torch float32 | cosine | over the best graph runtime | ms |")
        print("|---|---|---|---|---|---|")
        for batch in arguments.batches.split(","):
            rows, tokens = map(int, batch.split("x"))
            for line in measure(sides, rows, tokens, arguments.rounds):
                print(line, flush=True)


if __name__ == "__main__":
    main()
