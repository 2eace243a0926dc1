"""Metrics: counters for Prometheus and for the list of adapters."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector, generate_latest

from adaptdock.serving.catalog.catalog import Catalog
from adaptdock.serving.scheduling.admission import QueueState

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BARE = "(backbone)"
"""The name of the backbone without adapters; no adapter can have it."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


GATEWAY = ("max_lora", "running_lora_adapters", "waiting_lora_adapters")
"""Labels that the model server protocol of the Gateway API inference extension names."""


@dataclass
class Tally:
    """Counts of one adapter since the start; ``seconds`` is the total latency of answered inputs."""

    requests: int = 0
    errors: int = 0
    answered: int = 0
    seconds: float = 0.0


class WithoutCreated(CollectorRegistry):
    """A registry without the ``_created`` series, which would double the number of series."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics without the times at which their series began."""
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Metrics:
    """The counters of one process, in a registry of their own. Thread-safe.

    ``build`` are the labels of ``adaptdock_build_info``, such as versions.
    """

    def __init__(self, build: Mapping[str, str]) -> None:
        self.registry = of = WithoutCreated()
        by, space = ["adapter"], "adaptdock"
        ProcessCollector(registry=of)
        Gauge("build_info", "Versions and the backbone", list(build), space, registry=of).labels(**build).set(1)
        self._refused_files = Gauge("refused_files", "Files in the folder that are not served", (), space, registry=of)
        self._requests = Counter("requests", "Inputs, by the adapter that was asked", by, space, registry=of)
        self._errors = Counter("errors", "Inputs without an answer", by, space, registry=of)
        self._abandoned = Counter("abandoned", "Inputs whose client went away", by, space, registry=of)
        self._latency = Histogram("latency_seconds", "From arrival to answer", by, space, registry=of, buckets=SECONDS)
        self._mirrored = Counter("mirrored", "Inputs that a second version heard", by, space, registry=of)
        self._differed = Counter("mirrored_differently", "Those answered differently", by, space, registry=of)
        self._resident = Gauge("resident_bytes", "Bytes of docked weights", by, space, registry=of)
        self._loads = Counter("loads", "Adapters read from their files to be docked", (), space, registry=of)
        self._version = Gauge("version", "The version that answers", by, space, registry=of)
        self._rows = Histogram("batch_rows", "Rows of a batch", (), space, registry=of, buckets=ROWS)
        self._tokens = Counter("tokens", "Tokens that were computed", (), space, registry=of)
        self._computing = Counter("computing_seconds", "Time that batches took", (), space, registry=of)
        self._waiting = Gauge("waiting_inputs", "Inputs without an answer yet", (), space, registry=of)
        self._queued = Histogram("queue_seconds", "From arrival to start", (), space, registry=of, buckets=SECONDS)
        self._refused = Counter("refused", "Requests refused under load, by limit", ["limit"], space, registry=of)
        self._shed = Counter("shed_inputs", "Inputs refused under load, by adapter", by, space, registry=of)
        self._http = Counter("http_responses", "Answers by status", ["status"], space, registry=of)
        self._queue_length = Gauge("num_requests_waiting", "Inputs in the queue", (), space, registry=of)
        self._running = Gauge("num_requests_running", "Inputs in computation", (), space, registry=of)
        self._lora = Gauge("lora_requests_info", "Docked and awaited adapters; the time", GATEWAY, space, registry=of)
        self._tallies: dict[str, Tally] = {}
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def tally(self, name: str) -> Tally:
        """Return the counts of an adapter."""
        return self._tallies.get(name, Tally())

    def answered(self, name: str, seconds: float, failed: bool) -> None:
        """Count an answered or failed input and its latency."""
        self._requests.labels(name).inc()
        self._latency.labels(name).observe(seconds)
        if failed:
            self._errors.labels(name).inc()
        with self._lock:
            self._names.add(name)
            tally = self._tallies.setdefault(name, Tally())
            tally.requests += 1
            tally.errors += failed
            tally.answered += not failed
            tally.seconds += 0.0 if failed else seconds

    def abandoned(self, name: str) -> None:
        """Count an input whose client has left, which is not an error of the adapter."""
        self._requests.labels(name).inc()
        self._abandoned.labels(name).inc()
        with self._lock:
            self._names.add(name)
            self._tallies.setdefault(name, Tally()).requests += 1

    def mirrored(self, name: str, differed: bool) -> None:
        """Count an input of shadow traffic."""
        self._mirrored.labels(name).inc()
        with self._lock:
            self._names.add(name)
        if differed:
            self._differed.labels(name).inc()

    def loaded(self) -> None:
        """Count an adapter that is read from its file to be docked."""
        self._loads.inc()

    def batch(self, rows: int, tokens: int, seconds: float) -> None:
        """Count a batch and its time in seconds."""
        self._rows.observe(rows)
        self._tokens.inc(tokens)
        self._computing.inc(seconds)

    def queued(self, seconds: float) -> None:
        """Count an input whose computation begins, after this many seconds."""
        self._queued.observe(seconds)

    def refused(self, limit: str, names: Iterable[str] = ()) -> None:
        """Count a request over a limit, and its inputs by the names of their adapters."""
        self._refused.labels(limit).inc()
        for name in names:
            self._shed.labels(name).inc()
            with self._lock:
                self._names.add(name)

    def response(self, status: int) -> None:
        """Count an HTTP response by its status."""
        self._http.labels(str(status)).inc()

    def forget(self, name: str) -> None:
        """Drop the series of an unloaded adapter."""
        with self._lock:
            self._tallies.pop(name, None)
            self._names.discard(name)
        for series in (
            self._requests,
            self._errors,
            self._abandoned,
            self._latency,
            self._mirrored,
            self._differed,
            self._shed,
        ):
            series.remove_by_labels({"adapter": name})

    def text(
        self, catalog: Catalog, queue: QueueState, refused_files: int = 0, device_bytes: int | None = None
    ) -> bytes:
        """Return all series in the text format of Prometheus; ``device_bytes`` is the budget of docked adapters."""
        self._waiting.set(queue.waiting.total() + queue.running.total())
        self._queue_length.set(queue.waiting.total())
        self._running.set(queue.running.total())
        self._refused_files.set(refused_files)
        self._resident.clear()
        self._version.clear()
        adapters = catalog.all()
        for name in [name for name in list(self._names) if name not in adapters and name != BARE]:
            self.forget(name)  # an input that was answered after its adapter was unloaded
        docked: dict[str, int] = {}
        for name, served in adapters.items():
            self._version.labels(name).set(served.current.number)
            size = sum(map(catalog.resident_bytes, served.versions.values()))
            self._resident.labels(name).set(size)
            docked |= {name: size} if size else {}
        self._lora.clear()  # a scraper takes the series with the latest value
        awaited = sorted(filter(None, queue.waiting))
        capacity = _capacity(len(adapters), docked, device_bytes)
        self._lora.labels(capacity, ",".join(sorted(docked)), ",".join(awaited)).set(time.time())
        return generate_latest(self.registry)


def _capacity(adapters: int, docked: Mapping[str, int], device_bytes: int | None) -> int:
    """Return the number of adapters that may be docked at a time: all of them, or as many as fit into the budget."""
    if device_bytes is None or not docked:
        return adapters
    mean = sum(docked.values()) / len(docked)
    return max(len(docked), min(adapters, int(device_bytes / mean)))
