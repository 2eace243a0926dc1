"""Reporting to experiment trackers (TensorBoard, Weights & Biases, MLflow, Trackio) by transformers' own callbacks.

Each tracker is configured by its own environment variables, such as ``WANDB_PROJECT`` or ``MLFLOW_TRACKING_URI``.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adaptdock.errors import UsageError

if TYPE_CHECKING:
    from transformers import TrainerCallback

Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
PACKAGES: dict[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}
"""The packages of each tracker; any package of the tuple is enough."""
EVENTS = "tensorboard"
"""The folder of TensorBoard's events in a run's folder."""


def check_installed(trackers: Sequence[Tracker]) -> None:
    """Raise :class:`UsageError` for a tracker without its package."""
    for tracker in trackers:
        if not any(map(_is_installed, PACKAGES[tracker])):
            package = PACKAGES[tracker][0]
            raise UsageError(
                f"--report-to {tracker} needs the package {package}, which is not installed: pip install {package}"
            )


def tracker_callbacks(trackers: Sequence[Tracker], folder: Path) -> "list[TrainerCallback]":
    """Return the callback of transformers for each tracker; TensorBoard writes its events into the run's folder.

    By default the callback writes them beside the checkpoints, which are removed at the end of a run.
    """
    # Imports the Trainer, and with it peft: too slow for commands that only answer.
    from transformers.integrations.integration_utils import get_reporting_integration_callbacks

    callbacks: list[Any] = [kind() for kind in get_reporting_integration_callbacks(list(trackers))]
    for tracker, callback in zip(trackers, callbacks, strict=True):
        if tracker == "tensorboard" and callback.logging_dir is None:  # else TENSORBOARD_LOGGING_DIR names it
            callback.logging_dir = str(folder / EVENTS)
    return callbacks


def _is_installed(package: str) -> bool:
    spec = find_spec(package)
    return spec is not None and spec.origin is not None  # a folder ``wandb`` with the logs of earlier runs has none
