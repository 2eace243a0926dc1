"""Memory goes back to the system once after a flood."""

import pytest
from served import Client

from adaptdock.serving import memory
from adaptdock.serving.memory import FLOOD, MemoryTrim


def test_memory_is_trimmed_once_after_a_flood_and_not_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[None] = []
    monkeypatch.setattr(memory, "trim", lambda: trims.append(None))
    trim = MemoryTrim()
    looks = [trim.look(waiting) for waiting in (0, FLOOD - 1, 0, FLOOD, 3, 0, 0, FLOOD + 5, 0)]
    assert looks == [False, False, False, False, False, True, False, False, True]
    assert len(trims) == 2


def test_a_trim_leaves_a_process_that_answers(client: Client) -> None:
    memory.trim()
    assert client.label("red") == "RED"
