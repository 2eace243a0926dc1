"""Tensors of another library, tracked until used; every tensor is either used or refused by name.

A tensor counts as used when its value is taken.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.errors import FileError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

Named = dict[str, "Tensor"]
"""Tensors by name."""
LONGEST = 500
"""Largest number of characters of a foreign text in a message."""


class UnsupportedError(UsageError):
    """A part of an adapter that this way of reading it cannot carry over."""


def refuse(what: str, why: str) -> UnsupportedError:
    """Return the error for an unsupported part of an adapter."""
    return UnsupportedError(f"{_line(what)} cannot be carried over: {_line(why)}")


def contradiction(path: Path, option: str, configured: object, tensor: str, stored: str) -> UsageError:
    """Return the error for a contradiction between configuration and tensors."""
    return UsageError(
        f"{path}: the configuration and the tensors contradict each other: {option} is {_line(str(configured))}, the "
        f"tensor {_line(tensor)!r} {_line(stored)}. Nothing tells which of them is right: save the adapter again with "
        f"the library that trained it."
    )


def _line(text: str) -> str:
    """Return a shortened text on one line, for names and values from outside."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


class ForeignTensors:
    """The tensors of a folder by their names there, without the prefix ``front``."""

    def __init__(self, path: Path, tensors: Mapping[str, "Tensor"], front: str = "") -> None:
        self.path, self._unused = path, {name.removeprefix(front): tensor for name, tensor in tensors.items()}
        if len(self._unused) < len(tensors):
            twice = next(name for name in tensors if name.startswith(front) and name.removeprefix(front) in tensors)
            raise FileError(
                path, f"it holds the tensor {twice.removeprefix(front)!r} twice, with {front!r} and without"
            )
        self.names = frozenset(self._unused)
        """The names of all tensors, used ones included."""

    @property
    def unused(self) -> Mapping[str, "Tensor"]:
        """The names of the unused tensors."""
        return self._unused

    def take(self, name: str) -> "Tensor":
        """Return a tensor and mark it as used; raise :class:`FileError` for a missing tensor."""
        tensor = self._unused.pop(name, None)
        if tensor is None:
            raise FileError(self.path, f"the tensor {name!r} is missing")
        return tensor

    def taken(self, name: str, shape: Sequence[int], reason: str) -> "Tensor":
        """Return a tensor of this shape; raise :class:`FileError` for another shape, with the reason for this one."""
        tensor = self.take(name)
        if tuple(tensor.shape) != tuple(shape):
            raise FileError(
                self.path, f"the tensor {name!r} has the shape {tuple(tensor.shape)}, and not {tuple(shape)}: {reason}"
            )
        return tensor

    def ending(self, end: str) -> str | None:
        """Return the name of the unused tensor at the end of a path, or None."""
        return next((name for name in self._unused if name == end or name.endswith(f".{end}")), None)

    def modules(self, pattern: re.Pattern[str]) -> "dict[str, ModuleTensors]":
        """Return the unused tensors that match, by the group ``module`` and inside it by the group ``part``."""
        modules: dict[str, ModuleTensors] = {}
        for name in self._unused:
            match = pattern.fullmatch(name)
            if match is not None:
                module = modules.setdefault(match["module"], ModuleTensors(self, match["module"]))
                module.add(match["part"], name)
        return modules


class ModuleTensors:
    """The tensors of one module of an adapter, by their names inside the module; never empty."""

    def __init__(self, tensors: ForeignTensors, module: str) -> None:
        self.module, self._tensors, self._names = module, tensors, dict[str, str]()

    def __contains__(self, part: str) -> bool:
        return part in self._names

    def add(self, part: str, name: str) -> None:
        """Add a tensor; raise :class:`UsageError` if two adapters in one folder have it."""
        if part in self._names:
            raise refuse(
                f"the tensors {self._names[part]!r} and {name!r}", "the folder holds two adapters; save each by itself"
            )
        self._names[part] = name

    @property
    def parts(self) -> list[str]:
        """The names of the tensors inside the module."""
        return sorted(self._names)

    def name(self, part: str) -> str:
        """Return the full name of a tensor, which may be missing."""
        present, name = next(iter(self._names.items()))
        return self._names.get(part, f"{name.removesuffix(present)}{part}")

    def take(self, part: str) -> "Tensor":
        """Return a tensor and mark it as used; raise :class:`FileError` for a missing tensor."""
        return self._tensors.take(self.name(part))

    def taken(self, part: str, shape: Sequence[int], reason: str) -> "Tensor":
        """Return a tensor of this shape; raise :class:`FileError` for another shape, with the reason for this one."""
        return self._tensors.taken(self.name(part), shape, reason)

    def shape(self, part: str) -> tuple[int, ...]:
        """Return the shape of a tensor without marking it as used; raise :class:`FileError` for a missing tensor."""
        tensor = self._tensors.unused.get(self.name(part))
        if tensor is None:
            raise FileError(self._tensors.path, f"the tensor {self.name(part)!r} is missing")
        return tuple(tensor.shape)


@dataclass(frozen=True)
class MethodWeights:
    """A method read from another library: its options, and port name -> parameter -> tensor."""

    options: dict[str, Any]
    tensors: dict[str, Named]
