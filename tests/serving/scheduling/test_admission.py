"""How long an input would wait is estimated before any work on it, and one that would wait too long is refused."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import TEXT, Client, held, serving, until

from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.errors import BusyError
from adaptdock.serving.scheduling.admission import AdmissionControl
from adaptdock.serving.scheduling.backlog import Backlog, Waiting
from adaptdock.serving.scheduling.inference_request import Work
from adaptdock.serving.scheduling.measured_rates import HALF_LIFE, Rates, Speed

ASKED = {"adapter": "red", "inputs": [TEXT]}


@pytest.fixture
def client(backbone: Backbone, folder: Path) -> Iterator[Client]:
    with serving(backbone, adapters=str(folder), queue_seconds=0.5, workers=1) as client:
        yield client


@pytest.fixture
def admission(client: Client, backbone: Backbone) -> AdmissionControl:
    """Admission by a speed of 100 tokens per second."""
    admission = AdmissionControl(backbone, client.service.options)
    admission.batch(100, 1.0, full=True, texts=False)
    return admission


def work(client: Client, name: str = "red", size: int = 400, seconds: float = 30.0, sender: str = "") -> Work:
    """Return an input of 102 tokens (400 characters by 4, and 2), which take at least 1.02 s."""
    version = client.service.catalog.served(name).current
    arrival = 1000.0
    return Work(name, [version], "x", arrival + seconds, size=size, since=arrival, client=sender)


# ------------------------------------------------------------------------------- what would wait


def test_an_input_waits_for_other_adapters_and_clients_as_far_as_for_its_own() -> None:
    backlog = Backlog()
    for client, name, seconds in (("greedy", "a", 9.0), ("greedy", "b", 3.0), ("modest", "a", 0.5)):
        backlog.add(client, name, seconds)
    assert backlog.wait("newcomer", {"a": 0.25}) == 0.25 + 0.25  # as much of either client as its own input
    assert backlog.wait("modest", {"a": 0.25}) == 0.5 + 0.75
    assert backlog.wait("greedy", {"c": 0.0}) == 0
    assert backlog.wait("greedy", {"c": 0.25}) == 0.25 + 0.25 + 0.5
    assert backlog.wait("greedy", {"b": 0.0}) == 3 + 3 + 0.5
    assert backlog.wait("greedy", {"a": 1.0, "b": 0.0}) == 9 + 3 + 0.5
    assert (backlog.drained("greedy"), backlog.drained("modest"), backlog.drained("newcomer")) == (12.5, 1.0, 0)
    backlog.add("greedy", "a", -9.0)
    assert backlog.wait("greedy", {"a": 0.0}) == 0


def test_a_full_queue_has_room_for_a_client_below_its_share() -> None:
    waiting = Waiting()
    for _ in range(10):
        waiting.add("greedy", "a")
    assert (waiting.room("greedy", 10), waiting.room("modest", 10)) == (0, 5)
    for _ in range(5):
        waiting.add("modest", "a")
    assert waiting.room("modest", 10) == 0
    waiting.remove("greedy", "a")
    assert (waiting.total, waiting.room("greedy", 10)) == (14, -4)


def test_a_full_queue_of_an_adapter_has_room_for_a_client_below_its_share() -> None:
    waiting = Waiting()
    for _ in range(6):
        waiting.add("greedy", "a")
    assert [waiting.room_of_adapter("greedy", name, 6) for name in ("a", "b")] == [0, 6]
    assert waiting.room_of_adapter("modest", "a", 6) == 3
    for _ in range(3):
        waiting.add("modest", "a")
    assert waiting.room_of_adapter("modest", "a", 6) == 0


def test_a_speed_is_that_of_the_last_seconds_of_computation() -> None:
    speed = Speed()
    assert speed.time(100) == 0  # nothing is measured
    speed.measure(1000, 1.0)
    assert speed.time(100) == pytest.approx(0.1)
    for _ in range(20):
        speed.measure(100 * HALF_LIFE, HALF_LIFE)
    assert speed.time(100) == pytest.approx(1.0, rel=1e-3)


def test_estimates_are_corrected_by_the_real_waiting_times() -> None:
    rates = Rates()
    for _ in range(200):
        rates.waited(3.0, 1.0)
        rates.waited(9.0, 0.01)  # too short to tell
    assert rates.delay == pytest.approx(3, rel=1e-3)
    rates.waited(1e9, 1.0)
    assert rates.delay < 3.5
    for _ in range(400):
        rates.waited(0.0, 1.0)
    assert rates.delay == pytest.approx(1, rel=1e-3)


def test_characters_of_a_token_and_the_share_of_new_tokens_are_measured() -> None:
    rates = Rates()
    for _ in range(200):
        rates.tokenized(80, 10)
        rates.generated(32, 64)
        rates.step(0.25)
    assert (rates.characters, rates.written, rates.step_seconds) == pytest.approx((8, 0.5, 0.25), rel=1e-3)


# ------------------------------------------------------------------------------------- admission


def test_an_input_that_would_wait_too_long_is_refused_and_others_are_not(
    client: Client, admission: AdmissionControl
) -> None:
    admission.admit([work(client)])
    with pytest.raises(BusyError, match=r"would wait about 1\.\d s for earlier ones: try again in \d s") as raised:
        admission.admit([work(client)])
    assert raised.value.limit == "time"
    assert admission.waiting == 1
    admission.admit([work(client, "green", size=20)])  # another adapter has a queue of its own
    admission.admit([work(client, size=20, sender="other")])  # and so has another client


def test_inputs_without_an_answer_within_their_timeout_are_refused(client: Client, admission: AdmissionControl) -> None:
    admission.admit([work(client, size=100)])
    with pytest.raises(BusyError, match="would not be answered within 1 s"):
        admission.admit([work(client, size=1000, seconds=1)])
    with pytest.raises(BusyError, match="would not be answered within 1 s"):
        admission.admit([work(client, size=200, seconds=1) for _ in range(3)])
    admission.admit([work(client, size=10, seconds=1)])


def test_a_stack_and_a_long_window_cost_more(client: Client, admission: AdmissionControl) -> None:
    def wait(first: Work) -> float:
        admission.admit([first])
        share = admission._shares[first].seconds
        admission.answered(first)
        return share

    single, double = work(client), work(client)
    double.parts = [*double.parts, *double.parts]
    assert wait(double) == pytest.approx(2 * wait(single))
    assert wait(work(client, size=800)) > 2 * wait(single) * 202 / 204
    assert admission.waiting == 0


def test_the_estimate_follows_what_is_tokenized_and_computed(client: Client, admission: AdmissionControl) -> None:
    first = work(client)
    admission.admit([first])
    first.encode(client.service.dock.backbone, client.service.dock.backbone.tokenizer, client.service.options)
    admission.tokenized(first)  # "x" is one word
    tokens = len(first.features[0].inputs["input_ids"])
    assert admission._batches.wait("", {"red": 0.0}) == pytest.approx(tokens / 100, rel=0.05)
    admission.computed(first, first.cost(tokens, client.service.dock.backbone.width))
    assert admission._batches.wait("", {"red": 0.0}) == 0
    assert admission.waiting == 1
    admission.answered(first)
    assert admission.waiting == 0


def test_batches_that_are_not_half_full_are_not_measured(client: Client, admission: AdmissionControl) -> None:
    admission.batch(1, 100.0, full=False, texts=False)
    assert admission._rates.batches.time(100) == 1


def test_a_large_request_is_refused_unread_if_its_client_waits_for_too_much(
    client: Client, admission: AdmissionControl
) -> None:
    assert admission.wait_of_large("greedy", 4096) == 0
    admission.admit([work(client, sender="greedy")])  # at least 1.02 s, of 0.5 s that an input may wait
    assert admission.wait_of_large("greedy", 4096) >= 1.02
    assert admission.wait_of_large("greedy", 4095) == 0
    assert admission.wait_of_large("modest", 4096) == 0


def test_the_body_of_a_large_request_is_not_read_while_its_client_waits_for_too_much(client: Client) -> None:
    client.service.batcher.admission.batch(10_000, 1000.0, full=True, texts=False)  # 10 tokens per second
    with held(client):
        thread = threading.Thread(target=client.post, args=("/v1/predict",), kwargs={"json": ASKED})
        thread.start()
        until(lambda: client.service.batcher.waiting == 1)
        headers = {"content-type": "application/json"}
        assert client.refused(429, "would wait about", content=b"no JSON" * 1000, headers=headers)["code"] == "busy"
        client.refused(400, content=b"no JSON", headers=headers)
    thread.join()


def test_until_a_speed_is_measured_only_numbers_limit_the_queue(client: Client, backbone: Backbone) -> None:
    options = ServingOptions(adapters="a", queue=3)
    admission = AdmissionControl(backbone, options)
    admission.admit([work(client) for _ in range(3)])
    with pytest.raises(BusyError, match="3 inputs are waiting already") as raised:
        admission.admit([work(client)])
    assert raised.value.limit == "queue"


# --------------------------------------------------------------------------------------- over HTTP


def test_the_start_measures_the_speed_of_a_full_batch(client: Client) -> None:
    assert client.service.batcher.admission._rates.batches.time(1) > 0


def test_overload_is_answered_with_429_and_when_to_come_back_and_probes_are_answered(client: Client) -> None:
    admission = client.service.batcher.admission
    admission.batch(10_000, 1000.0, full=True, texts=False)  # 10 tokens per second
    thread = threading.Thread(target=client.ask, args=("red", TEXT))
    with held(client):
        thread.start()
        until(lambda: client.service.batcher.waiting == 1)
        answer = client.post("/v1/predict", json=ASKED)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "busy")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert [client.get(path).status_code for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]
    thread.join()
    text = client.get("/metrics").text
    assert 'adaptdock_refused_total{limit="time"} 1.0' in text
    assert 'adaptdock_shed_inputs_total{adapter="red"} 1.0' in text
    assert "adaptdock_queue_seconds_count 1.0" in text
