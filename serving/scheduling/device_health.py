"""Device health: whether the device still computes after an error.

Some errors of a GPU (such as an illegal memory access) make every later operation of the process fail. Only a restart
helps, so the process has to report itself as broken.
"""

import logging

import torch

from adaptdock.errors import AdaptError
from adaptdock.serving.json_logs import log


class DeviceHealth:
    """The state of a device. :meth:`check` may be called from any thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.failed = False

    def check(self, error: BaseException) -> None:
        """After an unexpected error, find out whether the device has failed for good."""
        if isinstance(error, AdaptError) or self.failed:
            return
        try:
            probe(self._device)
        except Exception as failure:
            self.failed = True
            reason = f"{type(failure).__name__}: {failure}"
            log("device failed", logging.ERROR, device=str(self._device), reason=reason, after=str(error))


def probe(device: torch.device) -> None:
    """Compute a sum on a device and wait for it."""
    torch.ones(2, device=device).sum().item()
