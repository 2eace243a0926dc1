"""Every method on a real GPU beside the CPU: logits, gradients, written texts, and the time of each.

    python benchmarks/gpu_check.py [--backbones minilm smollm2] [--devices cuda]

For each method a line: the largest difference from the CPU's logits and gradients, as a share of the largest value,
and the milliseconds of a pass and of a training step of 4 rows (float32, medians of 10). A decoder writes with four
methods, too. With several GPUs name all of them (--devices cuda cuda:1), and the backbones are divided among them as
well. The exit status is 1 where there is no GPU, or anything differs by more than 1e-3.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TQDM_DISABLE"] = "1"
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from gpu.comparisons import FEATURES, apart, gradients, logits, of_every_method, training, with_task, written
from machine import machine
from torch import Tensor

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.plugins.contracts import Backbone, LoadOptions

LIMIT, ROUNDS = 1e-3, 10
WRITING = ("lora", "prefix", "prompt", "ia3")


def milliseconds(run: Callable[[], Any]) -> float:
    """Return the median time of a run whose result is complete when it returns."""
    run()
    times = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def share(expected: dict[str, Tensor], actual: dict[str, Tensor]) -> float:
    """Return the largest difference as a share of the largest value."""
    return apart(expected, actual) / max(max(tensor.abs().max().item() for tensor in expected.values()), 1e-6)


def check_methods(host: Backbone, backbone: Backbone, folder: Path) -> float:
    """Print a line for each method, and return the largest difference."""
    worst = 0.0
    print(f"{'method':26}{'logits':>10}{'gradients':>11}{'pass ms':>10}{'step ms':>10}")
    adapters = of_every_method(host, folder)
    for name, adapter in adapters.items():
        rows = [name] * len(FEATURES)
        apart_logits = share(logits(host, adapters, rows), logits(backbone, adapters, rows))
        device = str(backbone.device)
        apart_gradients = share(gradients(host, adapter, "cpu"), gradients(backbone, adapter, device))
        dock = Dock(backbone)
        dock.dock(adapter, name)
        with dock.boarding(rows) as aboard:
            took = milliseconds(lambda dock=dock, aboard=aboard: dock.run(aboard, FEATURES))
        dock.close()
        with training(backbone, adapter, device) as (_, step):
            step_took = milliseconds(step)
        print(f"{name:26}{apart_logits:10.0e}{apart_gradients:11.0e}{took:10.1f}{step_took:10.1f}")
        worst = max(worst, apart_logits, apart_gradients)
    return worst


def check_writing(host: Backbone, backbone: Backbone) -> float:
    """Print how much of the text is the CPU's, and how fast it is written; return 1 where a text differs."""
    adapters = {method: with_task(host, "generation", {}, method, noise=0.01) for method in WRITING}
    expected, actual = written(host, adapters), written(backbone, adapters)
    equal = sum(one == other for one, other in zip(expected, actual, strict=True))
    print(f"written: {equal} of {len(expected)} texts as on the CPU", end="")
    print(f", {milliseconds(lambda: written(backbone, adapters)) / 5:.1f} ms a token of {len(WRITING)} rows")
    return float(equal != len(expected))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["minilm", "smollm2"])
    parser.add_argument("--devices", nargs="+", default=["cuda"])
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU that this torch can use: nothing was checked.", file=sys.stderr)
        return 1
    print(f"{machine()}, {', '.join(torch.cuda.get_device_name(device) for device in options.devices)}")
    places = [{"device": device} for device in options.devices]
    places += [{"device_map": "balanced"}] if len(options.devices) > 1 else []
    worst = 0.0
    for name in options.backbones:
        host = load_backbone(name, LoadOptions(device="cpu", dtype="float32"))
        for place in places:
            print(f"\n{name}, {' '.join(place.values())}")
            backbone = load_backbone(name, LoadOptions(dtype="float32", **place))
            with tempfile.TemporaryDirectory() as folder:
                worst = max(worst, check_methods(host, backbone, Path(folder)))
            if host.generator is not None:
                worst = max(worst, check_writing(host, backbone))
    print(f"\nlargest difference: {worst:.0e}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
