"""What code leaves in reference cycles: only the garbage collector could free it."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


@contextmanager
def _without_collector() -> Iterator[None]:
    flags, enabled = gc.get_debug(), gc.isenabled()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
    finally:
        gc.set_debug(flags)
        gc.garbage.clear()
        if enabled:
            gc.enable()


def tensors_in_cycles(act: Callable[[], Any]) -> list[Any]:
    """Return the tensors, and what holds them, that ``act`` leaves in reference cycles when it runs a second time.

    The collector takes such objects late: a cycle that holds weights keeps their memory for thousands of batches.
    """
    act()
    with _without_collector():
        act()
        gc.collect()
        return [_text(item) for item in gc.garbage if isinstance(item, Tensor) or _ours(item)]


def _ours(item: Any) -> bool:
    return type(item).__module__.startswith("adaptdock.")


def _text(item: Any) -> str:
    return f"tensor of shape {tuple(item.shape)}" if isinstance(item, Tensor) else type(item).__qualname__
