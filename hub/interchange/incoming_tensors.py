"""Tensor files of another library's folder, validated when read."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adaptdock.errors import FileError
from adaptdock.plugins.toolkit.interchange.tensors import ForeignTensors, Named

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(folder: Path, names: Sequence[str], front: str = "") -> ForeignTensors:
    """Return the tensors of the first existing file; raise :class:`FileError` for damage.

    torch reads a ``.bin`` with ``weights_only``, which runs no code.
    """
    path = weights_file(folder, names)
    if path is None:
        raise FileError(folder, f"it has none of the files {', '.join(names)}")
    tensors = _loaded(path)
    return ForeignTensors(path, {name: _checked(path, name, tensor) for name, tensor in tensors.items()}, front)


def weights_file(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first existing file of a folder, or None."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def library_tensors(path: Path, front: str) -> Named:
    """Return the tensors of a file for the library that wrote it, all with a front; indices may be integers."""
    tensors = _loaded(path)
    if front and not any(name.startswith(front.partition(".")[0]) for name in tensors):
        tensors = {f"{front}{name}": tensor for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            _checked(path, name, tensor)
    return tensors


def _loaded(path: Path) -> Named:
    return _safetensors(path) if path.suffix == ".safetensors" else _weights_only(path)


def _safetensors(path: Path) -> Named:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # safetensors and torch raise many types for a damaged header
        raise FileError(path, f"its tensors cannot be read: {_first_line(error)}") from None


def _weights_only(path: Path) -> Named:
    import torch

    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise any type
        raise FileError(
            path, f"it holds more than tensors, or is damaged, and is not loaded ({_first_line(error)})"
        ) from None
    if not isinstance(stored, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in stored.items()
    ):
        raise FileError(path, "it holds something else than tensors by name")
    return stored


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{lines[0] if lines else type(error).__name__:.120}"


def _checked(path: Path, name: str, tensor: "Tensor") -> "Tensor":
    """Return a tensor of finite floating-point numbers unchanged; raise :class:`FileError` for any other."""
    import torch

    if tensor.layout != torch.strided or tensor.dtype not in (
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float64,
    ):
        kind = str(tensor.dtype if tensor.layout == torch.strided else tensor.layout).removeprefix("torch.")
        raise FileError(path, f"the tensor {name!r} holds {kind}: weights are float32, float16, bfloat16 or float64")
    if not tensor.numel():
        raise FileError(path, f"the tensor {name!r} is empty: its shape is {tuple(tensor.shape)}")
    if not tensor.isfinite().all():
        raise FileError(path, f"the tensor {name!r} holds numbers that are not finite")
    return tensor.detach()
