"""A simulated GPU: tensors of the device type "cuda" whose values lie in host memory.

Every operation is computed on the CPU, so values, shapes and control flow are real. An operation on tensors of two
devices raises, as on a GPU. Whatever makes the host wait for a GPU (copies, ``.item()``, ``nonzero``, a boolean
index) is counted. There are two devices, cuda:0 and cuda:1.

It shows device mixing, values, and the number of waits. It can't show time, the choice of kernels, streams that
really run beside each other, memory limits, or the rounding of kernels in 16 bit.

This module has to be imported before torch, in a process of its own: torch asks only once which devices there are.
"""

import ctypes
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

assert "torch" not in sys.modules, "import simulated before torch"

from gpu.build import library

ctypes.CDLL(str(library()), ctypes.RTLD_GLOBAL)

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

torch.inference_mode = lambda mode=True: torch.no_grad()  # before functions are decorated: wrapped tensors have none

aten = torch.ops.aten
DEVICES = 2
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
"""Operations that take indices from the host as well."""
WAITING = {
    aten._local_scalar_dense.default: "item",
    aten.is_nonzero.default: "item",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten.equal.default: "equal",
    aten._unique2.default: "unique",
    aten.repeat_interleave.Tensor: "repeat_interleave",
}
"""Operations whose result, or its shape, the host needs at once."""
free_memory = 80 << 30
"""Bytes that each device says are free, by which a device map divides a model; nothing is ever out of memory."""
capability = (8, 0)
"""The compute capability of both devices."""
waits: Counter[str] = Counter()
"""How often the host has waited for a device, by reason."""


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the waits of this context alone."""
    before = Counter(waits)
    found: Counter[str] = Counter()
    try:
        yield found
    finally:
        found.update(waits - before)


class SimulatedTensor(torch.Tensor):
    """A tensor that says it lies on a GPU; ``values`` is the same one in host memory."""

    values: torch.Tensor

    @staticmethod
    def __new__(
        cls, values: torch.Tensor, device: torch.device | None = None, requires_grad: bool = False
    ) -> "SimulatedTensor":
        """Wrap values; accelerate makes a parameter of the class that was there, and then names no device."""
        if isinstance(values, SimulatedTensor):
            device, values = device or values.device, values.values
        elif device is None:  # a weight that waits in host memory, or on meta
            return torch.nn.Parameter(values, requires_grad=requires_grad)  # type: ignore[return-value]
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
            device=device,
        )
        wrapper.values = values
        return wrapper

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        return _computed(operation, arguments, named or {})

    def __tensor_flatten__(self) -> tuple[list[str], torch.device]:
        """Say what it consists of: then ``Module.to`` swaps parameters instead of setting their data."""
        return ["values"], self.device

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], device: torch.device, *_: Any) -> "SimulatedTensor":
        return SimulatedTensor(inner["values"], device)

    def data_ptr(self) -> int:
        """Return the address of the values; accelerate tells tied weights by it."""
        return self.values.data_ptr()

    def tolist(self) -> Any:
        waits["copy to the host"] += 1
        return self.values.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert a {self.device} tensor to numpy. Use Tensor.cpu() first.")

    def __repr__(self) -> str:
        return f"SimulatedTensor({self.device}, {self.values!r})"


class _Simulation(TorchDispatchMode):
    """Sends operations that have no simulated tensor among their arguments here too: new ones are made by them."""

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        return _computed(operation, arguments, named or {})


# ---------------------------------------------------------------------------------------- operations


def _computed(operation: Any, arguments: Any, named: dict[str, Any]) -> Any:
    if operation is aten._to_copy.default:
        return _copied(operation, arguments[0], named)
    if operation is aten.copy_.default:
        return _copied_into(*arguments[:2])
    tensors = [leaf for leaf in tree_flatten((arguments, named))[0] if isinstance(leaf, torch.Tensor)]
    devices = {tensor.device for tensor in tensors if isinstance(tensor, SimulatedTensor)}
    device = _check_devices(operation, arguments, tensors, devices)
    asked = named.get("device")
    target = device if asked is None else torch.device(asked)
    if target is None or (not devices and target.type != "cuda"):
        return operation(*arguments, **named)
    _count(operation, arguments, tensors)
    if operation is aten._fused_sdp_choice.default:
        return int(torch.nn.attention.SDPBackend.MATH.value)
    inside = tree_map(_values, named)
    if asked is not None:
        inside["device"] = "cpu"
    inside.pop("pin_memory", None)
    result = operation(*tree_map(_values, arguments), **inside)
    written = _written(operation, arguments, named)
    if written is not None:
        return written
    if target.type != "cuda":
        return result
    return tree_map(lambda leaf: _wrapped(leaf, _indexed(target)), result)


def _check_devices(
    operation: Any, arguments: Any, tensors: list[torch.Tensor], devices: set[torch.device]
) -> torch.device | None:
    """Return the device of an operation, None for the host; raise what torch raises where there are several."""
    host = [tensor for tensor in tensors if not isinstance(tensor, SimulatedTensor) and tensor.device.type == "cpu"]
    if len(devices) > 1:
        raise _mixed(operation, devices)
    if not devices:
        return None
    device = next(iter(devices))
    indexes = operation in INDEXING and isinstance(arguments[0], SimulatedTensor)
    if not indexes and any(tensor.dim() for tensor in host):  # a number may be on the host
        raise _mixed(operation, {device, torch.device("cpu")})
    return device


def _mixed(operation: Any, devices: set[torch.device]) -> RuntimeError:
    names = " and ".join(sorted(map(str, devices)))
    return RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {names}! (in {operation})"
    )


def _copied(operation: Any, source: torch.Tensor, named: dict[str, Any]) -> torch.Tensor:
    asked = named.get("device")
    target = source.device if asked is None else _indexed(torch.device(asked))
    rest = {name: value for name, value in named.items() if name not in ("device", "pin_memory", "non_blocking")}
    if target.type == "meta":
        return operation(_values(source), device=target, **rest)
    _count_copy(source.device, target)
    values = operation(_values(source), **rest)
    return SimulatedTensor(values, target) if target.type == "cuda" else values


def _copied_into(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    _count_copy(source.device, target.device)
    _values(target).copy_(_values(source))
    return target


def _written(operation: Any, arguments: Any, named: dict[str, Any]) -> Any:
    """Return the argument that an operation has written to and returns; None for one that makes something new."""
    returns = operation._schema.returns
    if len(returns) != 1 or returns[0].alias_info is None or not returns[0].alias_info.is_write:
        return None
    for argument, declared in zip(arguments, operation._schema.arguments, strict=False):
        if declared.alias_info is not None and declared.alias_info.is_write:
            return argument
    return named["out"]


def _count(operation: Any, arguments: Any, tensors: list[torch.Tensor]) -> None:
    if operation in WAITING:
        waits[WAITING[operation]] += 1
    if operation in INDEXING:
        indices = [index for index in arguments[1] if index is not None]
        waits["boolean index"] += any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        waits["copy of an index"] += sum(index.device.type == "cpu" and index.dim() > 0 for index in indices)


def _count_copy(source: torch.device, target: torch.device) -> None:
    if source.type == "cpu" and target.type == "cuda":
        waits["copy to the device"] += 1
    elif source.type == "cuda" and target.type == "cpu":
        waits["copy to the host"] += 1


def _values(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, SimulatedTensor) else leaf


def _wrapped(leaf: Any, device: torch.device) -> Any:
    return SimulatedTensor(leaf, device) if isinstance(leaf, torch.Tensor) else leaf


def _indexed(device: torch.device) -> torch.device:
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device())


# ------------------------------------------------------------------------------------ torch.cuda


class _Stream:
    """A stream, or an event: nothing runs beside anything else."""

    cuda_stream = stream_id = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def synchronize(self) -> None:
        waits["synchronize"] += 1

    def query(self) -> bool:
        return True

    def wait_stream(self, *_: Any) -> None:
        pass

    wait = wait_event = record = record_stream = wait_stream


class _Generator(torch.Generator):
    """A generator of the host, whatever device is asked for."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return torch._C.Generator.__new__(cls, device="cpu")

    def __init__(self, device: Any = "cpu") -> None:
        pass


def _properties(device: Any = None) -> SimpleNamespace:
    major, minor = capability
    return SimpleNamespace(major=major, minor=minor, total_memory=free_memory, name="simulated", gcnArchName="")


def install() -> None:
    """Give this process and thread two GPUs."""
    current = [0]
    state = torch.zeros(16, dtype=torch.uint8)

    def set_device(device: Any) -> None:
        current[0] = device if isinstance(device, int) else torch.device(device).index or 0

    @contextmanager
    def on_device(device: Any) -> Iterator[None]:
        before = current[0]
        set_device(before if device is None else device)
        try:
            yield
        finally:
            current[0] = before

    @contextmanager
    def on_stream(_: Any) -> Iterator[None]:
        yield

    replaced: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: DEVICES,
        "current_device": lambda: current[0],
        "set_device": set_device,
        "device": on_device,
        "mem_get_info": lambda device=None: (free_memory, free_memory),
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "empty_cache": lambda: None,
        "get_device_properties": _properties,
        "get_device_capability": lambda device=None: capability,
        "get_device_name": lambda device=None: "simulated",
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "synchronize": lambda device=None: waits.update(synchronize=1),
        "is_current_stream_capturing": lambda: False,
        "Stream": _Stream,
        "Event": _Stream,
        "stream": on_stream,
        "current_stream": _Stream,
        "default_stream": _Stream,
    }
    for name, stand_in in replaced.items():
        setattr(torch.cuda, name, stand_in)
    for place in (torch.cuda, torch.cuda.random):
        place.get_rng_state = lambda device=None: state
        place.get_rng_state_all = lambda: [state] * DEVICES
        place.set_rng_state = place.set_rng_state_all = lambda *_, **__: None
    torch.accelerator.current_accelerator = lambda check_available=False: torch.device("cuda")
    torch.accelerator.is_available = lambda: True
    torch.accelerator.device_count = lambda: DEVICES
    torch.Generator = _Generator
    torch.Tensor.pin_memory = lambda self, *_, **__: self.clone()
    torch.Tensor.is_pinned = lambda self, *_, **__: False
    torch._C._set_only_lift_cpu_tensors(True)
    _Simulation().__enter__()
