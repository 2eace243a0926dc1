"""The order of replicas for an adapter: the same everywhere, even, and stable when replicas come and go."""

from collections import Counter

from adaptdock.serving.affinity import SPILL, order

REPLICAS = [f"replica-{number}" for number in range(5)]
ADAPTERS = [f"adapter-{number}" for number in range(1000)]


def preferred(replicas: list[str]) -> dict[str, str]:
    return {adapter: order(adapter, dict.fromkeys(replicas, 0))[0] for adapter in ADAPTERS}


def test_an_adapter_has_one_order_of_all_replicas_in_whatever_order_they_are_known() -> None:
    for adapter in ADAPTERS[:20]:
        replicas = order(adapter, dict.fromkeys(REPLICAS, 0))
        assert sorted(replicas) == REPLICAS
        assert order(adapter, dict.fromkeys(reversed(REPLICAS), 0)) == replicas


def test_the_adapters_are_divided_evenly_and_a_replica_that_leaves_moves_only_its_own() -> None:
    before, after = preferred(REPLICAS), preferred(REPLICAS[:-1])
    assert all(150 <= count <= 250 for count in Counter(before.values()).values())
    moved = [adapter for adapter in ADAPTERS if before[adapter] != after[adapter]]
    assert moved == [adapter for adapter in ADAPTERS if before[adapter] == REPLICAS[-1]]
    assert len({after[adapter] for adapter in moved}) == 4  # to all others, not to a single one


def test_a_hot_adapter_spills_to_as_many_replicas_as_are_needed() -> None:
    first, second, third, *rest = order("hot", dict.fromkeys(REPLICAS, 0))
    idle = dict.fromkeys(REPLICAS, 0)
    assert order("hot", {**idle, first: SPILL - 1}) == [first, second, third, *rest]
    assert order("hot", {**idle, first: SPILL}) == [second, third, *rest, first]
    assert order("hot", {**idle, first: 9 * SPILL, second: SPILL - 1})[0] == second
    assert order("hot", {**idle, first: 9 * SPILL, second: 4 * SPILL})[0] == third
    assert order("hot", dict.fromkeys(REPLICAS, 9 * SPILL))[0] == first  # all are as busy


def test_of_two_replicas_the_second_takes_requests_while_the_first_has_twice_as_many() -> None:
    first, second = order("hot", {"a": 0, "b": 0})
    assert order("hot", {first: SPILL, second: SPILL // 2 + 1})[0] == first
    assert order("hot", {first: SPILL, second: SPILL // 2})[0] == second
    assert order("hot", {"alone": 9 * SPILL}) == ["alone"]
    assert order("hot", {}) == []
