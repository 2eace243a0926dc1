"""Encoding: tokenization into windows, in threads of its own, so that a long text does not delay computation.

Short and long inputs have a thread each, with fair turns for the adapters in both. Each thread copies the tokenizer:
the truncation length is a setting of the tokenizer, so two threads would overwrite each other's.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.errors import LimitError
from adaptdock.serving.scheduling.fairness import FairQueues
from adaptdock.serving.scheduling.inference_request import Work

LONG = 16_384
"""Characters above which an input is long: about 20 ms for a fast tokenizer."""
OVERHEAD = 256
"""Fixed cost of an input, in characters."""
TURNS_COST = 16
"""Limit of a conversation's cost, as a multiple of the limit of characters per input."""


class Encoders:
    """The encoding threads. ``done`` is called once per input, which then has its windows or an error.

    ``dropped`` returns whether an input was given up.
    """

    def __init__(
        self,
        backbone: Backbone,
        options: ServingOptions,
        done: Callable[[Work], None],
        dropped: Callable[[Work], bool],
    ) -> None:
        self._backbone, self.options = backbone, options
        self._done, self._dropped = done, dropped
        self._condition = threading.Condition()
        self._stopping = False
        self._lanes = [FairQueues[Work](_cost, quantum) for quantum in (LONG, 16 * LONG)]
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), name=f"encoder {number}", daemon=True)
            for number, lane in enumerate(self._lanes)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether both threads run."""
        return all(thread.is_alive() for thread in self._threads)

    def put(self, works: Sequence[Work]) -> None:
        """Add inputs, each to the queue of its adapter."""
        with self._condition:
            for work in works:
                self._lanes[work.size > LONG].put(work.name, work, work.client)
            self._condition.notify_all()

    def stop(self) -> None:
        """End the threads after all queued inputs are encoded."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()

    def _run(self, lane: FairQueues[Work]) -> None:
        tokenizer = deepcopy(self._backbone.tokenizer)  # setting its truncation length is not thread-safe
        while (work := self._next(lane)) is not None:
            try:
                if not self._dropped(work):
                    work.encode(self._backbone, tokenizer, self.options)
            except Exception as error:
                work.fail(error)
            self._done(work)

    def _next(self, lane: FairQueues[Work]) -> Work | None:
        with self._condition:
            while not lane:
                if self._stopping:
                    return None
                self._condition.wait()
            (work,) = lane.take(0, 1)
            return work


def measured(item: Any, longest: int) -> int:
    """Return the size of an input: its characters, times the turns of a conversation, since each turn is read again.

    Each value and each field counts as one more character. Raises :class:`LimitError` for an input of more than
    ``longest`` characters, or for a conversation over :data:`TURNS_COST`.
    """
    characters, objects = _counted(item, longest)
    if characters > longest:
        raise LimitError(f"the input has more than {longest:,} characters, which is the limit (--max-characters)")
    turns = max(1, objects // 2)
    if characters * turns > TURNS_COST * longest:
        raise LimitError(
            f"the input has {characters:,} characters in {objects:,} objects, which is too much: a conversation is "
            f"read again for each of its turns. Send its last turns"
        )
    return characters * turns


def _counted(item: Any, longest: int) -> tuple[int, int]:
    """Return the characters and the objects of a JSON value. The count stops above ``longest`` characters."""
    characters, objects, rest = 0, 0, [item]
    while rest and characters <= longest:
        value = rest.pop()
        characters += len(value) if isinstance(value, str) else 1
        if isinstance(value, Mapping):
            objects += 1
            characters += sum(len(str(name)) for name in value)
            rest.extend(value.values())
        elif isinstance(value, list | tuple):
            rest.extend(value)
    return characters, objects


def _cost(work: Work) -> int:
    return work.size + OVERHEAD
