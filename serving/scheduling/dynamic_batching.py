"""The batcher: inputs of any adapters and tasks share batches through the backbone.

:class:`Encoders` turn an input into windows, which wait in one queue per adapter. :class:`FairQueues` yields windows
for a few batches in turn. They are grouped into batches of similar length within a token budget, shortest first.
Between batches the :class:`DecodeScheduler` generates one token of every text. Given-up inputs are skipped.

With several threads, one at a time takes the next batch while the others compute.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from adaptdock.engine.core.batches import by_length, length
from adaptdock.engine.inference.generation import GenerationOptions, write_ids
from adaptdock.engine.inference.pipeline import EncodedRecord
from adaptdock.engine.inference.residency import Residency
from adaptdock.errors import AdaptError, BudgetError
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.errors import LateError, StoppingError
from adaptdock.serving.scheduling.admission import AdmissionControl, QueueObserver, QueueState
from adaptdock.serving.scheduling.decode_scheduler import DecodeScheduler
from adaptdock.serving.scheduling.device_health import DeviceHealth
from adaptdock.serving.scheduling.encoding import Encoders
from adaptdock.serving.scheduling.fairness import FairQueues
from adaptdock.serving.scheduling.inference_request import Outcome, Work
from adaptdock.serving.scheduling.stop_sequences import stop_position

BATCHES_AT_ONCE = 4
"""Batches taken from the queues at once: with more windows to group, a batch needs less padding."""
QUANTUM = 256
"""Tokens per turn of the fair queues."""


class BatchObserver(QueueObserver, Protocol):
    """Observes batches and waiting times, to count them."""

    def batch(self, rows: int, tokens: int, seconds: float) -> None:
        """Receive the size of a computed batch, and its time in seconds."""


@dataclass(frozen=True, eq=False)
class Window:
    """A part of an input: one row of a batch."""

    work: Work
    place: int
    length: int
    cost: int
    """Cost of computation, in tokens of a short text with one adapter."""


class Batcher:
    """The computing threads and their queues. :meth:`submit` may be called from any thread."""

    def __init__(
        self,
        residency: Residency,
        options: ServingOptions,
        observer: BatchObserver | None = None,
        trace: Callable[[Work], None] | None = None,
    ) -> None:
        """``trace`` gets each accepted input, in the context of the request that submits it."""
        self._residency, self._dock = residency, residency.dock
        self.options, self._observer, self._trace = options, observer, trace
        self.admission = AdmissionControl(self._dock.backbone, options, observer)
        self.device = DeviceHealth(self._dock.backbone.device)
        self._encoders = Encoders(self._dock.backbone, options, self._encoded, self._dropped)
        self._encoding = 0
        self._arrived: deque[Work] = deque()
        self._queues: FairQueues[Window] = FairQueues(lambda window: window.cost, QUANTUM)
        self._ready: deque[list[Window]] = deque()
        self._late: deque[list[Window]] = deque()
        self._cut_in = False
        self._condition = threading.Condition()
        self._stopping = self._abandoned = False
        self._decoder = DecodeScheduler(residency, options, self._dropped, self.admission, self.device)
        self._taking = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, name=f"batcher {number}", daemon=True)
            for number in range(options.workers or 1)
        ]

    def start(self) -> None:
        """Start the encoding and computing threads."""
        self._encoders.start()
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether all threads run and accept inputs."""
        return self._encoders.alive and all(thread.is_alive() for thread in self._threads) and not self._stopping

    @property
    def waiting(self) -> int:
        """The number of inputs without an answer."""
        return self.admission.waiting

    def queue(self) -> QueueState:
        """Return the inputs without an answer by adapter."""
        return self.admission.queue()

    def submit(self, works: Sequence[Work]) -> None:
        """Accept all inputs or none.

        Raises :class:`BusyError` for inputs that would wait too long, and :class:`StoppingError` after :meth:`stop`.
        """
        with self._condition:
            if self._stopping:
                raise StoppingError
            self.admission.admit(works)
            for work in works:
                work.future.add_done_callback(lambda _, work=work: self.admission.answered(work))  # type: ignore[misc]
                if self._trace is not None:
                    self._trace(work)
            self._encoding += len(works)
            self._encoders.put(works)

    def configure(self, options: ServingOptions) -> None:
        """Use other options from now on; the number of threads stays."""
        self.options = self.admission.options = self._encoders.options = self._decoder.options = options

    def patience(self, client: str) -> int:
        """Return the seconds after which a refused client may try again."""
        return self.admission.patience(client)

    def stop(self) -> None:
        """Accept no more inputs, and end the threads after the last answer."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self._encoders.stop()

    def abandon(self) -> None:
        """Answer all waiting inputs with :class:`StoppingError`. Batches in computation still finish."""
        self._abandoned = True
        self.stop()

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the threads to end, and return whether all have ended."""
        until = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _encoded(self, work: Work) -> None:
        self.admission.tokenized(work)
        with self._condition:
            self._encoding -= 1
            if not work.future.done():
                self._arrived.append(work)
            self._condition.notify_all()

    # ------------------------------------------------------------------------------- the threads

    def _run(self) -> None:
        while (taken := self._taken()) is not None:
            batch, started = taken
            if batch:
                self._compute(batch, started)

    def _taken(self) -> tuple[list[Window], float] | None:
        """Wait for work, generate one token of every text, and return a batch and when it began.

        Returns None after the last input.
        """
        with self._taking:
            if self._ready or self._late:
                self._admit_others()
            elif self._gather():
                budget = max(BATCHES_AT_ONCE * self.options.batch_tokens, self.options.write_tokens)
                self._ready.extend(self._batches(self._queues.take(budget)))
            else:
                return None
            started = time.perf_counter()
            self._decoder.turn()
            batch = self._next_batch()
            return [window for window in batch if not self._dropped(window.work)], started

    def _admit_others(self) -> None:
        """Let clients (or else adapters) without a ready batch have every other batch."""
        self._enter()
        self._cut_in = not self._cut_in
        if self._cut_in and self._queues and not self._late:
            works = [window.work for batch in self._ready for window in batch]
            tokens, clients = self.options.batch_tokens, {work.client for work in works}
            late = self._queues.take(tokens, without_clients=clients)
            late = late or self._queues.take(tokens, without={(work.client, work.name) for work in works})
            self._late.extend(self._batches(late))

    def _next_batch(self) -> list[Window]:
        """Return a batch of the others at their turn, else a ready one: neither starves, however many both have."""
        turns = (self._late, self._ready) if self._cut_in else (self._ready, self._late)
        return next((batches.popleft() for batches in turns if batches), [])

    def _gather(self) -> bool:
        """Wait for work, then up to ``max_wait`` for more; return False after the last input."""
        with self._condition:
            while not self._arrived and not self._queues and not self._decoder.busy:
                if self._stopping and not self._encoding:
                    return False
                self._condition.wait()
        idle, until = not self._queues and not self._decoder.busy, time.monotonic() + self.options.max_wait / 1000
        while True:
            self._enter()
            with self._condition:
                full = self._queues.tokens >= self.options.batch_tokens or len(self._queues) >= self.options.batch_rows
                left = until - time.monotonic()
                if full or not idle or left <= 0 or self._stopping:
                    return True
                if not self._arrived:
                    self._condition.wait(left)

    def _enter(self) -> None:
        """Sort the encoded inputs into their queues."""
        with self._condition:
            arrived = list(self._arrived)
            self._arrived.clear()
        for work in arrived:
            if not self._dropped(work):
                self._sort(work)

    def _sort(self, work: Work) -> None:
        """Queue an input for the next batch, or for step-by-step generation."""
        if self._decoder.takes(work):
            self._decoder.put(work)
        elif work.encoded is not None and work.encoded.complete:  # an input without windows
            self._finish(work, work.encoded)
        else:
            extra = work.search.max_new_tokens if work.search else 0
            for place, feature in enumerate(work.features):
                tokens = length(feature) + extra
                cost = work.cost(tokens, self._dock.backbone.width)
                self._queues.put(work.name, Window(work, place, tokens, cost), work.client)

    def _dropped(self, work: Work) -> bool:
        """Return whether an input was given up, and fail it if so."""
        if not work.given_up and not self._abandoned:
            return False
        work.fail(StoppingError() if self._abandoned else LateError(self.options.timeout))
        return True

    def _batches(self, taken: Sequence[Window]) -> list[list[Window]]:
        """Return windows in batches: plain passes together, texts with the same generation options together.

        The cheapest batches come first: they need not wait for long ones, and long ones hardly notice.
        """
        options = self.options
        alike: dict[GenerationOptions | None, list[Window]] = {}
        for window in taken:
            alike.setdefault(window.work.search, []).append(window)
        batches = [
            [windows[number] for number in batch]
            for search, windows in alike.items()
            for batch in by_length(
                [window.length * max(1, len(window.work.parts)) for window in windows],
                options.batch_rows,
                options.batch_tokens if search is None else options.write_tokens,
            )
        ]
        return sorted(batches, key=lambda batch: sum(window.cost for window in batch))

    def _compute(self, batch: list[Window], started: float) -> None:
        """Compute a batch. After an error compute its halves, so that only the faulty input fails."""
        try:
            self._pass(batch)
        except Exception as error:
            works = {id(window.work): window.work for window in batch}
            # With a single stack of adapters over the memory budget, no half would fit either.
            divisible = not isinstance(error, BudgetError) or len({window.work.key for window in batch}) > 1
            if len(works) == 1 or not divisible:
                self.device.check(error)
                for work in works.values():
                    work.fail(error)
                return
            # Sorted by adapter, a faulty adapter is isolated after few halvings.
            ordered = sorted(batch, key=lambda window: window.work.key)
            half = len(ordered) // 2
            self._compute(ordered[:half], started)
            self._compute(ordered[half:], time.perf_counter())
            return
        self._measure(batch, time.perf_counter() - started)

    def _measure(self, batch: list[Window], seconds: float) -> None:
        tokens, texts = sum(window.length for window in batch), batch[0].work.search is not None
        budget = self.options.write_tokens if texts else self.options.batch_tokens
        full = 2 * tokens >= budget or 2 * len(batch) >= self.options.batch_rows
        self.admission.batch(sum(window.cost for window in batch), seconds, full, texts)
        if self._observer is not None:
            self._observer.batch(len(batch), tokens, seconds)

    def _pass(self, batch: list[Window]) -> None:
        for window in batch:
            self.admission.started(window.work)
        names = [window.work.key or None for window in batch]
        with self._residency.present(names), self._dock.boarding(names) as rows:
            search = batch[0].work.search
            features = [window.work.features[window.place] for window in batch]
            if search is not None:
                prompts = [feature.inputs["input_ids"] for feature in features]
                written = write_ids(self._dock, rows, prompts, search).tolist()
                for window, tokens in zip(batch, written, strict=True):
                    self._written(window.work, tokens)
                return
            for window, logits in zip(batch, self._dock.run(rows, features), strict=True):
                assert window.work.encoded is not None  # else the text is generated
                window.work.encoded.digest(window.place, logits)
        for window in batch:
            self.admission.computed(window.work, window.cost)
        for work in {id(window.work): window.work for window in batch}.values():
            if work.encoded is not None and work.encoded.complete:
                self._finish(work, work.encoded)

    def _finish(self, work: Work, encoded: EncodedRecord) -> None:
        """Answer an input from the digests of all its windows."""
        try:
            work.succeed(Outcome(finite(encoded.decode(), work.name), read_tokens=sum(map(length, work.features))))
        except Exception as error:
            work.fail(error)

    def _written(self, work: Work, tokens: list[int]) -> None:
        """Answer with a text generated in a whole batch. Tokens after the end token are padding."""
        backbone = self._dock.backbone
        end = next((place for place, token in enumerate(tokens, 1) if token in backbone.endings), None)
        text = backbone.tokenizer.decode(tokens, skip_special_tokens=True)
        assert work.search is not None  # else nothing is generated
        self.admission.generated(end or len(tokens), work.search.max_new_tokens)
        stop = stop_position(text, work.stops)
        text = text[:stop]
        if work.on_text is not None:
            work.on_text(text)
        work.succeed(work.written(text, end or len(tokens), end is not None or stop is not None))


def finite(prediction: dict[str, object], name: str) -> dict[str, object]:
    """Return a prediction unchanged; raise :class:`AdaptError` for NaN or infinity, which JSON cannot hold."""
    try:
        json.dumps(prediction, allow_nan=False)
    except ValueError:
        raise AdaptError(f"the adapter {name!r} gave something else than finite numbers for this input") from None
    return prediction
