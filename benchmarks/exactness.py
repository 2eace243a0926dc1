"""Members of one pass beside the same trainings alone: the largest difference of a final weight, for every method.

    python benchmarks/exactness.py [--backbone minilm] [--records 32] [--epochs 2] [--pairs lora,bottleneck,prefix]

All methods train as members of one pass, each with a seed, a rate and a batch size of its own, and then each by itself,
in float32. ``--pairs`` trains each method beside each of these too. A method that the backbone does not support, or
that needs trained adapters, is named and left out.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from machine import machine

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.engine.training.repeats.joint_run import Training, train_together
from adaptdock.errors import AdaptError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, LoadOptions

LIMIT = 1e-5


def main() -> None:
    """Train every method beside the others and alone, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--records", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--pairs", default="lora,bottleneck,prefix")
    arguments = parser.parse_args()
    print(machine())
    backbone = load_backbone(arguments.backbone, LoadOptions(device="cpu", dtype="float32"))
    plans = _plans(backbone, arguments.records, arguments.epochs)
    partners = [name for name in arguments.pairs.split(",") if name in plans]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        alone = {name: train_plan(entry, folder / "alone" / name) for name, entry in plans.items()}
        beside = _together(plans, folder / "all")
        print("  ".join(["method".ljust(16), "beside all", *(f"beside {name}" for name in partners)]))
        for name, entry in plans.items():
            row = [f"{_difference(beside[name], alone[name]):10.1e}"]
            for partner in partners:
                second = {} if partner == name else {partner: plans[partner]}
                pair = _together({name: entry, **second}, folder / f"{name}-{partner}")
                row.append(f"{_difference(pair[name], alone[name]):{len(partner) + 7}.1e}" if second else "")
            print("  ".join([name.ljust(16), *row]), flush=True)


def _plans(backbone: Backbone, records: int, epochs: int) -> dict[str, Plan]:
    plans = {}
    for number, name in enumerate(registry.names("method")):
        options = {
            "epochs": epochs,
            "seed": number,
            "batch_size": 4 + number % 5,
            "learning_rate": (1e-3, 3e-3)[number % 2],
            "store": "float32",
            "head_start": "random",
            "hold_out": "always",
            "probe_data": "none",
        }
        try:
            entry = plan(backbone, "classification", name, options=options)
        except AdaptError as error:
            print(f"{name} is left out: {' '.join(str(error).split())[:100]}")
            continue
        plans[name] = replace(entry, units=entry.units[:records])
    return plans


def _together(plans: Mapping[str, Plan], folder: Path) -> dict[str, Result]:
    trainings = {name: Training(entry, folder / name) for name, entry in plans.items()}
    results = {}
    for name, outcome in train_together(trainings, folder / "pass").items():
        if isinstance(outcome, AdaptError):
            raise outcome
        results[name] = outcome
    return results


def _difference(first: Result, second: Result) -> float:
    tensors = second.adapter.tensors
    return max(float((tensor - tensors[name]).abs().max()) for name, tensor in first.adapter.tensors.items())


if __name__ == "__main__":
    main()
