"""Affinity: the order in which the replicas of a fleet are tried for an adapter.

Rendezvous hashing gives each adapter an order of replicas that depends on the names alone, so that all gateways agree
without talking. A replica that joins or leaves moves the adapters of one replica, and no others.
"""

from collections.abc import Mapping
from hashlib import blake2b

SPILL = 32
"""Requests in flight from which an adapter counts as hot, so that its second replica may take its requests."""


def order(adapter: str, in_flight: Mapping[str, int], spill: int = SPILL) -> list[str]:
    """Return the replicas for an adapter, the preferred first; ``in_flight`` are the requests of each replica.

    The second replica goes first while the first has at least ``spill`` requests, and twice as many as the second.
    """
    replicas = sorted(in_flight, key=lambda replica: _weight(adapter, replica))
    if len(replicas) > 1:
        first, second = replicas[:2]
        if in_flight[first] >= max(spill, 2 * in_flight[second]):
            replicas[:2] = second, first
    return replicas


def _weight(adapter: str, replica: str) -> bytes:
    return blake2b(f"{adapter}\0{replica}".encode(), digest_size=8).digest()
