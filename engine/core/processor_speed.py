"""The speed of this processor in bfloat16 and int8 beside float32, measured once on a small block and kept in a file.

Whether a processor is faster in a precision depends on its instructions and on torch's kernels for them. A list of
instruction sets would be a guess.
"""

import json
import logging
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from adaptdock.hub.artefact import directories
from adaptdock.hub.artefact.atomic import write_atomically

Precision = Literal["bfloat16", "int8"]

WIDTH, POSITIONS, PASSES = 384, (16, 512), 9
"""The width of the block, the positions of its small and of its large pass, and the passes of each."""
WORTH = 0.95
"""Largest share of float32's time at which a precision is chosen."""
FILE = "processor_speed.json"
INSTRUCTIONS = ("avx512_bf16", "avx512_vnni", "vnni", "amx_tile")


def over_float32(precision: Precision) -> tuple[float, float]:
    """Return the time of a small and of a large pass as multiples of float32's.

    They are read from the cache folder of the user, or measured in about a second and written there.
    """
    file, key = directories.cache() / FILE, _machine()
    known = _read(file)
    ratios = known.get(key, {}).get(precision)
    if ratios is None:
        ratios = _measured(precision)
        known = _read(file)  # another process may have written meanwhile
        known.setdefault(key, {})[precision] = ratios
        try:
            write_atomically(file, json.dumps(known, indent=1).encode())
        except OSError as error:  # a measurement of a second is repeated at the next start
            logging.getLogger(__name__).debug("%s cannot be written: %s", file, error)
    small, large = ratios
    return small, large


def is_faster(precision: Precision) -> bool:
    """Return whether small and large passes take less time than in float32."""
    return max(over_float32(precision)) <= WORTH


def sentence(precision: Precision) -> str:
    """Return the measurement as a sentence."""
    small, large = over_float32(precision)
    return (
        f"on this processor ({processor()}) {precision} takes {small:.2f} of float32's time in a pass of "
        f"{POSITIONS[0]} positions, and {large:.2f} in one of {POSITIONS[1]}"
    )


def slower_int8() -> str | None:
    """Return the measurement and an advice if int8 is slower than bfloat16, by large passes; else None."""
    if over_float32("int8")[1] <= over_float32("bfloat16")[1]:
        return None
    dtype = "bfloat16" if is_faster("bfloat16") else "float32"
    return f"{sentence('int8')}; bfloat16 takes {over_float32('bfloat16')[1]:.2f}. --dtype {dtype} is faster here"


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _machine() -> str:
    """Return what the measurement depends on; in a virtual machine the name alone says little."""
    capability = torch.backends.cpu.get_cpu_capability()
    fast = [
        name for name in ("_is_avx512_bf16_supported", "_is_vnni_supported", "_is_amx_tile_supported") if _has(name)
    ]
    return (
        f"{processor()} | {capability} {' '.join(fast)} | {torch.get_num_threads()} threads | torch {torch.__version__}"
    )


def _has(name: str) -> bool:
    check = getattr(torch.cpu, name, None)  # newer and older releases of torch know other instruction sets
    return check is not None and bool(check())


def _read(file: Path) -> dict[str, dict[str, list[float]]]:
    """Return the measurements in a file; none if it is missing or damaged."""
    try:
        content = json.loads(file.read_bytes())
        return {
            str(key): {str(name): [float(small), float(large)] for name, (small, large) in speeds.items()}
            for key, speeds in content.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


@torch.inference_mode()
def _measured(precision: Precision) -> list[float]:
    plain, quick = _block(), _block()
    if precision == "int8":
        _quantize(quick)
    else:
        quick = quick.bfloat16()
    ratios = []
    for positions in POSITIONS:
        x = torch.randn(positions, WIDTH)
        quick_x = x if precision == "int8" else x.bfloat16()
        times = [(_seconds(plain, x), _seconds(quick, quick_x)) for _ in range(PASSES)][1:]  # the first warms up
        plain_times, quick_times = zip(*times, strict=True)
        ratios.append(min(quick_times) / min(plain_times))
    return ratios


def _block() -> nn.Sequential:
    """Return the feed-forward block of a small encoder."""
    layers = nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH), nn.LayerNorm(WIDTH)
    return nn.Sequential(*layers).eval()


def _quantize(block: nn.Module) -> None:
    """Turn the linear maps into int8 weights with int8 activations, as ``--quantize int8`` does on a CPU."""
    logging.getLogger("torchao").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(block, Int8DynamicActivationInt8WeightConfig())


def _seconds(block: Callable[[Tensor], Tensor], x: Tensor) -> float:
    started = time.perf_counter()
    block(x)
    return time.perf_counter() - started
