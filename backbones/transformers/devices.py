"""The device of a backbone."""

import torch

from adaptdock.errors import BackboneError


def pick_device(name: str) -> str:
    """Return the named device, or for ``auto`` the best available: cuda, mps, cpu.

    Raises :class:`BackboneError` for a device that this machine lacks.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator.type if accelerator is not None else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        # After the first sentence torch may list every backend of its build.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        raise BackboneError(f"the device {name!r} cannot be used: {reason}") from error
    return name
