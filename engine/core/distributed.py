"""Several processes that train one adapter, each with a backbone on its own device: the ranks of torchrun.

torchrun sets RANK, LOCAL_RANK and WORLD_SIZE for each process. All processes validate; the first one's metrics
decide, and only the first writes and prints. The Trainer averages gradients with torch's DistributedDataParallel.
"""

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from adaptdock.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from adaptdock.plugins.contracts import LoadOptions

Value = TypeVar("Value")
LAUNCHED = "ACCELERATE_DYNAMO_MODE"
"""A variable that accelerate launch sets, and the library does not."""


@dataclass(frozen=True)
class Ranks:
    """The number of this process among all processes and on this machine, and both totals."""

    rank: int = 0
    local: int = 0
    count: int = 1
    local_count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0


def ranks() -> Ranks:
    """Return the ranks of this process; a process started without torchrun is the only one."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    if not all(os.environ.get(name, "").isdigit() for name in names):
        return Ranks()
    rank, local, count = (int(os.environ[name]) for name in names)
    return Ranks(rank, local, count, int(os.environ.get("LOCAL_WORLD_SIZE", count)))


def launcher_note() -> str:
    """Return a remark where accelerate launch has started one process, as it always does with --cpu; else empty."""
    if LAUNCHED not in os.environ or ranks().count > 1:
        return ""
    return (
        "accelerate launch has started one process: with --cpu it does so whatever --num_processes says. "
        "torchrun --nproc-per-node 2 --no-python adapt train starts two"
    )


def check_alone(what: str) -> None:
    """Raise :class:`UsageError` for work that several processes can't share."""
    count = ranks().count
    if count > 1:
        raise UsageError(f"{what} runs in one process, and torchrun has started {count}: start it without torchrun")


def placed(options: "LoadOptions") -> "LoadOptions":
    """Return load options for this process: of several processes, each uses the GPU of its local rank.

    Raises :class:`UsageError` for a device map, for one GPU shared by all processes, for too few GPUs, and for a
    backbone that cannot be divided.
    """
    process = ranks()
    if options.shard_backbone:
        _check_sharding(options, process.count)
    if process.count == 1:
        return options
    if options.device_map:
        raise UsageError(
            f"--device-map divides one backbone among all GPUs, and torchrun has started {process.count} processes "
            f"with a backbone each: leave --device-map out, or start it without torchrun"
        )
    kind, _, index = options.device.partition(":")
    if index:
        raise UsageError(
            f"--device {options.device} would hold the backbones of all {process.count} processes: with "
            f"--device {kind} each of them has a device of its own"
        )
    import torch

    if kind not in ("auto", "cuda") or not torch.cuda.is_available():
        return options
    gpus = torch.cuda.device_count()
    if process.local_count > gpus:
        raise UsageError(
            f"torchrun has started {process.local_count} processes on this machine, which has {gpus} "
            f"GPU{'s' if gpus > 1 else ''}: --nproc-per-node {gpus}, or --device cpu"
        )
    return options.model_copy(update={"device": f"cuda:{process.local}"})


def _check_sharding(options: "LoadOptions", count: int) -> None:
    """Raise :class:`UsageError` for ``--shard-backbone`` in one process or with quantised weights."""
    if count == 1:
        raise UsageError(
            "--shard-backbone divides the backbone among several processes, and this is the only one: start them with "
            "torchrun --nproc-per-node 2 --no-python adapt train, or leave it out"
        )
    if options.quantize:
        raise UsageError(
            f"--shard-backbone divides float weights alone, and --quantize {options.quantize} makes others: leave one "
            f"of them out; --dtype bfloat16 goes with it"
        )


def repeats_first() -> bool:
    """Return whether an invalid argument or data file here is surely the first process's too.

    That is so on the machine of the first process, before the processes have connected.
    """
    process = ranks()
    torch = sys.modules.get("torch")
    joined = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
    return not joined and process.rank < process.local_count


def shared(value: Value) -> Value:
    """Return the value of the first process in every process; each process waits for it."""
    if ranks().count == 1:
        return value
    import torch

    join()
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def mean(value: "Tensor") -> "Tensor":
    """Return the mean of a tensor over all processes; NaN or inf in one process reaches all of them."""
    if ranks().count == 1:
        return value
    import torch

    join()
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / ranks().count


def share_of(amount: float) -> float:
    """Return the number of processes times this process's share of a sum; 1 if the sum is 0.

    A mean over all processes of values with these factors is weighted by ``amount``.
    """
    if ranks().count == 1:
        return 1.0
    import torch

    join()
    total = torch.tensor(amount, dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return amount * ranks().count / total.item() if total else 1.0


def leave() -> None:
    """End the connection between the processes, if there is one."""
    if ranks().count == 1:
        return
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def join() -> None:
    """Connect the processes: gloo for objects and CPU tensors, nccl for GPU tensors."""
    import torch

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
