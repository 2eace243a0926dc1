"""Slots: the tensors of many adapters, stacked, one place for each adapter.

A stack holds, for each port, tensors ``[slots, ...]``. Slot 0 is all zeros: the identity. Shapes grow
to the largest adapter's; what is smaller is padded with zeros, which the contracts make exact.
"""

import threading
from collections.abc import Mapping

import torch
from torch import Tensor

FIRST_CAPACITY = 4


class Stack:
    """The stacked tensors of adapters that are computed together.

    ``devices`` tells on which device a port computes. Reading is safe while another thread adds:
    a port's tensors are replaced all at once, and a slot in use is never written to.
    """

    def __init__(self, dtype: torch.dtype, devices: Mapping[str, torch.device]) -> None:
        self._dtype, self._devices = dtype, devices
        self._tensors: dict[str, dict[str, Tensor]] = {}
        self._capacity = FIRST_CAPACITY
        self._free = list(range(FIRST_CAPACITY - 1, 0, -1))
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._capacity - 1 - len(self._free)

    @property
    def nbytes(self) -> int:
        """The bytes that the stacked tensors take."""
        return sum(tensor.nbytes for port in self._tensors.values() for tensor in port.values())

    def add(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> int:
        """Copy an adapter's tensors (port -> name -> tensor) into a free slot and return its number."""
        with self._lock, torch.inference_mode(False), torch.no_grad():
            if not self._free:
                self._grow(self._capacity * 2)
            for port, named in tensors.items():
                self._fit(port, named)
            slot = self._free.pop()
            for port, stacked in self._tensors.items():
                given = tensors.get(port, {})
                for name, stack in stacked.items():
                    place = stack[slot].zero_()
                    if name in given:
                        place[tuple(slice(extent) for extent in given[name].shape)].copy_(given[name])
            return slot

    def remove(self, slot: int) -> None:
        """Give a slot back. The caller has made sure that no batch uses it."""
        with self._lock:
            self._free.append(slot)

    def gather(self, port: str, index: "Index") -> dict[str, Tensor]:
        """Return each parameter at a port with a leading dimension of rows (or 1, if all share one slot)."""
        return {name: index.take(stack) for name, stack in self._tensors[port].items()}

    def _grow(self, capacity: int) -> None:
        for port, stacked in list(self._tensors.items()):
            self._tensors[port] = {
                name: _enlarged(stack, (capacity, *stack.shape[1:])) for name, stack in stacked.items()
            }
        self._free.extend(range(capacity - 1, self._capacity - 1, -1))
        self._capacity = capacity

    def _fit(self, port: str, given: Mapping[str, Tensor]) -> None:
        stacked = self._tensors.get(port, {})
        fitted = dict(stacked)
        for name, tensor in given.items():
            old = stacked.get(name)
            if old is None:
                old = torch.zeros((0, *tensor.shape), dtype=self._dtype, device=self._devices[port])
            shape = tuple(max(pair) for pair in zip(old.shape[1:], tensor.shape, strict=True))
            fitted[name] = _enlarged(old, (self._capacity, *shape))
        self._tensors[port] = fitted


class Index:
    """For each row of a batch, its slot in one stack; kept on every device that asks for it."""

    def __init__(self, slots: list[int]) -> None:
        self.slots = slots
        self.uniform = slots[0] if len(set(slots)) == 1 else None
        self._on: dict[torch.device, Tensor] = {}

    def take(self, stack: Tensor) -> Tensor:
        """Return the rows' parameters from a stacked tensor."""
        if self.uniform is not None:
            return stack[self.uniform : self.uniform + 1]
        index = self._on.get(stack.device)
        if index is None:
            index = self._on[stack.device] = torch.tensor(self.slots, device=stack.device)
        return stack.index_select(0, index)


def _enlarged(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) == shape:
        return tensor
    larger = tensor.new_zeros(shape)
    larger[tuple(slice(extent) for extent in tensor.shape)] = tensor
    return larger
