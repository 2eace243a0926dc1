"""The connection to a cluster: a failure says what to do, without minutes of waiting and without Ray."""

import socket
import sys
from types import SimpleNamespace

import pytest

from adaptdock.engine.core.ray_cluster import connected, gpus_for
from adaptdock.errors import UsageError


def refusing(**_: object) -> None:
    raise ConnectionError("Could not find any running Ray instance. Please specify one.")


@pytest.fixture(autouse=True)
def ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A Ray whose clusters cannot be joined."""
    module = SimpleNamespace(init=refusing, is_initialized=lambda: True, cluster_resources=lambda: {"GPU": 2.0})
    monkeypatch.setitem(sys.modules, "ray", module)
    return module


def test_an_address_where_nothing_listens_is_refused_before_ray_tries() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with (
            pytest.raises(UsageError, match=f"no Ray cluster answers at {address}: .*ray start --head"),
            connected(address),
        ):
            pass


@pytest.mark.parametrize("address", ["nope", ":6379", "host:", "ray://host", "host:port"])
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="write HOST:PORT, ray://HOST:PORT or auto"), connected(address):
        pass


def test_a_cluster_that_refuses_is_not_called_absent() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"a process listens at {address}.* token"), connected(address):
            pass
    with (
        pytest.raises(UsageError, match="at auto: Could not find any running Ray instance"),
        connected("auto"),
    ):
        pass


def test_a_worker_has_a_gpu_if_it_wants_one_or_the_cluster_has_one_for_each() -> None:
    assert [gpus_for("auto", 2), gpus_for("auto", 3), gpus_for("cuda:1", 9), gpus_for("cpu", 1)] == [1, 0, 1, 0]
