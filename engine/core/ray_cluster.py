"""Ray: the connection to a cluster, or a cluster of its own on this machine.

Ray is an extra, so it is imported where it is used.
"""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from adaptdock.errors import UsageError

REACH_SECONDS = 3.0
"""Timeout of the first connection to a cluster; Ray itself tries for minutes."""


def require_ray(command: str) -> None:
    """Raise :class:`UsageError` with the way to install Ray if it is missing."""
    if find_spec("ray") is None:
        raise UsageError(f"{command} needs Ray: pip install 'adaptdock[ray]'")


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Use the cluster at an address (``HOST:PORT``, ``ray://HOST:PORT`` or ``auto``), or without one a new cluster.

    A new cluster is on this machine and ends with the block. Raises :class:`UsageError` for a cluster that does not
    answer.
    """
    import ray

    if address is not None and address != "auto":
        _reach(address)
    try:
        ray.init(
            address=address or "local", include_dashboard=None if address else False, logging_level=logging.WARNING
        )
    except ConnectionError as error:
        if address is None or address == "auto":
            raise _unreachable(address, error) from None
        raise UsageError(
            f"a process listens at {address}, but Ray cannot join a cluster there. Ray's lines above have the reason: "
            f"another program or version of Ray, or a cluster that asks for a token: set RAY_AUTH_MODE=token here, "
            f"and the token as Ray documents"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def gpus_for(device: str, workers: int) -> int:
    """Return the GPUs of each worker: one if ``device`` is a GPU, or ``auto`` and the cluster has one for each."""
    import ray

    if device != "auto":
        return int(device.startswith("cuda"))
    return int(ray.is_initialized() and ray.cluster_resources().get("GPU", 0) >= workers)


def _reach(address: str) -> None:
    """Raise :class:`UsageError` if no process listens at the address of a cluster."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"{address!r} is not the address of a Ray cluster: write HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str | None, error: Exception) -> UsageError:
    reason = str(getattr(error, "strerror", None) or error).split(". ")[0].rstrip(".")
    return UsageError(
        f"no Ray cluster answers at {address}: {reason}. Start one with ray start --head, or leave out --ray-address "
        f"to use this machine alone"
    )
