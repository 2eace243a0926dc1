"""A run of one adapter, or of two that differ in all, which kills its process in an epoch when started as a program."""

import os
import signal
import sys
from pathlib import Path

import torch

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.loop.run import Run, planned_run
from adaptdock.engine.training.planning.run_plan import SharingOptions, TaskSettings, plan_run
from adaptdock.plugins.contracts import LoadOptions

LAST_STEP = 22


def make_run(model: Path, data: Path, folder: Path, members: int) -> Run:
    options = {"learning_rate": 1e-2, "epochs": 3, "batch_size": 4, "checkpoint_steps": 4}
    others = {**options, "batch_size": 7, "seed": 5, "optimizer": "sgd", "backbone_dropout": True}
    tasks = {
        "a": TaskSettings("ner", "lora", Source(data=str(data)), options, {"dropout": 0.1}),
        "b": TaskSettings("ner", "bottleneck", Source(data=str(data)), others, {"dropout": 0.2}),
    }
    backbone = load_backbone(str(model), LoadOptions(device="cpu"))
    run_plan = plan_run(backbone, dict(list(tasks.items())[:members]), SharingOptions(sharing="passes"))
    return planned_run(run_plan, folder)


def kill_itself(progress: Progress) -> None:
    if progress.step >= LAST_STEP:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    model, data, folder, members, ends = sys.argv[1:]
    run = make_run(Path(model), Path(data), Path(folder), int(members))
    if ends == "killed":
        run(kill_itself)
    else:
        run(resume=True)
