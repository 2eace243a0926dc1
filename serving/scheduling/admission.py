"""Admission: an input that would wait too long is refused at once, before any work on it.

Its cost, the measured rates and the fair queues give its expected wait. The estimate of the cost comes from its
characters, and is corrected once it is tokenized. There are two backlogs: of batches, and of texts that are generated
step by step, which wait for a row of the KV cache.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from adaptdock.engine.core.batches import length
from adaptdock.engine.inference.generation import GenerationOptions
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.errors import BusyError
from adaptdock.serving.scheduling.backlog import Backlog, Waiting
from adaptdock.serving.scheduling.inference_request import Work
from adaptdock.serving.scheduling.measured_rates import Rates

LONGEST_PAUSE = 60
"""Largest Retry-After, in seconds."""
LARGE = 4096
"""Bytes from which a request is refused unread if its client waits for too much already."""
FRAMING = 2
"""Tokens around a text, such as its start and end."""


class QueueObserver(Protocol):
    """Observes how long inputs wait, to count them."""

    def queued(self, seconds: float) -> None:
        """Receive the seconds from the arrival of an input to its computation."""


@dataclass(frozen=True)
class QueueState:
    """The number of inputs that wait, and of inputs in computation, by adapter; the backbone alone has no name."""

    waiting: Counter[str]
    running: Counter[str]


@dataclass
class Share:
    """The seconds of an accepted input in a backlog."""

    backlog: Backlog
    seconds: float
    expected: float = 0.0
    """Seconds of waiting as estimated at its arrival; 0 if it is not to be compared with the real ones."""


class AdmissionControl:
    """Accepts or refuses inputs by the time that they would wait. Thread-safe."""

    def __init__(self, backbone: Backbone, options: ServingOptions, observer: QueueObserver | None = None) -> None:
        self._backbone, self.options, self._observer = backbone, options, observer
        self._lock = threading.Lock()
        self._rates = Rates()
        self._batches, self._texts = Backlog(), Backlog()
        self._waiting = Waiting()
        self._shares: dict[Work, Share] = {}

    @property
    def waiting(self) -> int:
        """The number of inputs without an answer."""
        return self._waiting.total

    def queue(self) -> "QueueState":
        """Return the inputs without an answer by adapter."""
        waiting: Counter[str] = Counter()
        running: Counter[str] = Counter()
        with self._lock:
            for work in self._shares:
                name = work.parts[-1].name if work.parts else ""
                (running if work.began else waiting)[name] += 1
        return QueueState(waiting, running)

    def admit(self, works: Sequence[Work]) -> None:
        """Count the inputs of a request, all or none; raise :class:`BusyError` if they would wait too long."""
        with self._lock:
            shares = [self._share(work, *self._estimate(work)) for work in works]
            self._check_room(works)
            self._check_time(works, shares)
            for work, share in zip(works, shares, strict=True):
                share.backlog.add(work.client, work.name, share.seconds)
                self._waiting.add(work.client, work.name)
                self._shares[work] = share

    def wait_of_large(self, client: str, size: int) -> float:
        """Return the seconds that a request of ``size`` bytes would wait, if it is large and they are too many; else 0.

        To read a large request takes the event loop long, and unread its adapters are not known: so it counts behind
        everything that its client waits for.
        """
        with self._lock:
            wait = self._rates.delay * self._batches.drained(client)
            return wait if size >= LARGE and wait > self.options.queue_seconds else 0.0

    def patience(self, client: str = "") -> int:
        """Return the seconds after which a refused client may try again, from 1 to :data:`LONGEST_PAUSE`."""
        with self._lock:
            return _pause(self._drained(client) / 2)

    def tokenized(self, work: Work) -> None:
        """Correct the estimate of an input by its tokens."""
        tokens = sum(map(length, work.features))
        with self._lock:
            self._rates.tokenized(work.size, tokens)
            if (share := self._shares.get(work)) is not None:
                width, new = self._backbone.width, 0 if work.search is None else work.search.max_new_tokens
                cost = sum(work.cost(length(feature) + new, width) for feature in work.features)
                corrected = replace(self._share(work, cost, work.search), expected=share.expected)
                share.backlog.add(work.client, work.name, -share.seconds)
                corrected.backlog.add(work.client, work.name, corrected.seconds)
                self._shares[work] = corrected

    def started(self, work: Work) -> None:
        """Report the waiting time of an input whose computation begins."""
        if work.began:
            return
        work.began = time.monotonic()
        waited = work.began - work.since
        if self._observer is not None:
            self._observer.queued(waited)
        with self._lock:
            if (share := self._shares.get(work)) is not None and share.expected:
                self._rates.waited(waited, share.expected)

    def boarded(self, work: Work) -> None:
        """Take a text off its backlog: it has a row now."""
        with self._lock:
            self._take_off(work, math.inf)

    def computed(self, work: Work, cost: int) -> None:
        """Take a computed window of an input off its backlog."""
        with self._lock:
            self._take_off(work, self._seconds(cost, work.search))

    def answered(self, work: Work) -> None:
        """Forget an input, whatever its answer."""
        with self._lock:
            self._take_off(work, math.inf)
            del self._shares[work]
            self._waiting.remove(work.client, work.name)

    def batch(self, cost: int, seconds: float, full: bool, texts: bool) -> None:
        """Measure a batch; ``texts`` were generated in it. A batch that is not half ``full`` is not representative."""
        if full:
            with self._lock:
                (self._rates.whole_texts if texts else self._rates.batches).measure(cost, seconds)

    def step(self, seconds: float) -> None:
        """Measure the time between two steps of generation."""
        with self._lock:
            self._rates.step(seconds)

    def generated(self, tokens: int, requested: int) -> None:
        """Measure the length of a complete text."""
        with self._lock:
            self._rates.generated(tokens, requested)

    # ------------------------------------------------------------------------------------- inside

    def _check_room(self, works: Sequence[Work]) -> None:
        limit = self.options.queue_per_adapter
        by_adapter = Counter(work.name for work in works)
        client = works[0].client
        full = any(count > self._waiting.room_of_adapter(client, name, limit) for name, count in by_adapter.items())
        if full or len(works) > self._waiting.room(client, self.options.queue):
            pause = _pause(self._drained(client) / 2)
            raise BusyError(f"{self._waiting.total} inputs are waiting already", pause, "queue")

    def _drained(self, client: str) -> float:
        """Return the seconds until everything that a client waits for now is computed."""
        return self._rates.delay * max(backlog.drained(client) for backlog in (self._batches, self._texts))

    def _check_time(self, works: Sequence[Work], shares: Sequence[Share]) -> None:
        limit = self.options.queue_seconds
        for backlog in (self._batches, self._texts):
            queued = [(work, share) for work, share in zip(works, shares, strict=True) if share.backlog is backlog]
            if not queued:
                continue
            largest: dict[str, float] = {}
            for work, share in queued:
                largest[work.name] = max(share.seconds, largest.get(work.name, 0.0))
            queued[0][1].expected = backlog.wait(works[0].client, largest)
            wait = self._rates.delay * queued[0][1].expected
            longest = min(work.deadline - work.since for work, _ in queued)
            needed = wait + self._rates.delay * sum(share.seconds for _, share in queued)
            if wait > limit or (wait and needed > longest):
                text = f"the inputs would wait about {wait:.1f} s for earlier ones"
                text += "" if wait > limit else f", so that they would not be answered within {longest:g} s"
                raise BusyError(text, _pause(wait - limit if wait > limit else wait), "time")

    def _estimate(self, work: Work) -> tuple[int, GenerationOptions | None]:
        """Return the expected cost of an input that is not tokenized, and the options of its text."""
        search = work.generation(self.options.max_new_tokens)
        tokens = min(round(work.size / self._rates.characters) + FRAMING, self.options.max_tokens)
        tokens += 0 if search is None else search.max_new_tokens
        window = min(tokens, self._backbone.max_length)
        return work.cost(window, self._backbone.width) * tokens // window, search

    def _share(self, work: Work, cost: int, search: GenerationOptions | None) -> Share:
        stepwise = search is not None and search.num_beams == 1 and self._backbone.writes_in_steps
        return Share(self._texts if stepwise else self._batches, self._seconds(cost, search))

    def _seconds(self, cost: int, search: GenerationOptions | None) -> float:
        if search is None:
            return self._rates.batches.time(cost) / (self.options.workers or 1)
        if search.num_beams == 1 and self._backbone.writes_in_steps:
            steps = search.max_new_tokens * self._rates.written
            return steps * self._rates.step_seconds / self.options.batch_rows
        return self._rates.whole_texts.time(cost) / (self.options.workers or 1)

    def _take_off(self, work: Work, seconds: float) -> None:
        if (share := self._shares.get(work)) is not None:
            seconds = min(seconds, share.seconds)
            share.seconds -= seconds
            share.backlog.add(work.client, work.name, -seconds)


def _pause(seconds: float) -> int:
    return max(1, min(LONGEST_PAUSE, math.ceil(seconds)))
