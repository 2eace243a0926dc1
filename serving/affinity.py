"""Affinity: the order in which the replicas of a fleet are tried for an adapter.

Rendezvous hashing gives each adapter an order of replicas that depends on the names alone, so that all gateways agree
without talking. A replica that joins or leaves moves the adapters of one replica, and no others.
"""

from collections.abc import Mapping
from hashlib import blake2b

SPILL = 32
"""Requests in flight from which a replica counts as busy, so that the next one may take its requests."""
SHARE = 4 / 3
"""A busy replica has at least this many times the mean requests of all; of two replicas, twice those of the other."""


def order(adapter: str, in_flight: Mapping[str, int], spill: int = SPILL) -> list[str]:
    """Return the replicas for an adapter, the preferred first; ``in_flight`` are the requests of each replica.

    Busy replicas go last. So a hot adapter is on as many replicas as its requests need, and a replica that holds no
    more than its share keeps its adapters. Source: consistent hashing with bounded loads (Mirrokni et al. 2018).
    """
    replicas = sorted(in_flight, key=lambda replica: _weight(adapter, replica))
    limit = max(spill, SHARE * sum(in_flight.values()) / max(1, len(replicas)))
    return sorted(replicas, key=lambda replica: in_flight[replica] >= limit)


def _weight(adapter: str, replica: str) -> bytes:
    return blake2b(f"{adapter}\0{replica}".encode(), digest_size=8).digest()
