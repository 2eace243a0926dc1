"""What a request may cost: it is encoded beside the batches, its cost is counted, and too large a one is refused."""

import gc
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from served import TEXT, Client, held, serving, until

from adaptdock import errors
from adaptdock.errors import UnknownNameError
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.errors import LimitError
from adaptdock.serving.http.openai_schemas import ChatRequest
from adaptdock.serving.scheduling import encoding
from adaptdock.serving.scheduling.dynamic_batching import Batcher, Window
from adaptdock.serving.scheduling.encoding import measured
from adaptdock.serving.scheduling.fairness import FairQueues
from adaptdock.serving.scheduling.inference_request import Work
from adaptdock.serving.schemas import PredictRequest

ASKED = {"adapter": "red", "inputs": [TEXT]}
LONG_TEXT = "a " * 100


@pytest.fixture(autouse=True)
def _long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "LONG", 150)


@pytest.fixture
def tokenizers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The tokenizers by which short and long texts were encoded."""
    used: dict[str, Any] = {}
    before = Work.encode

    def noted(work: Work, backbone: Backbone, tokenizer: Any, options: ServingOptions) -> None:
        used["long" if work.size > encoding.LONG else "short"] = tokenizer
        before(work, backbone, tokenizer, options)

    monkeypatch.setattr(Work, "encode", noted)
    return used


def test_a_long_text_is_encoded_while_others_are_answered(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    free, before = threading.Event(), Work.encode

    def waiting(work: Work, *arguments: Any) -> None:
        if work.size > encoding.LONG:
            free.wait(20)
        before(work, *arguments)

    monkeypatch.setattr(Work, "encode", waiting)
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(client.post("/v1/predict", json={"adapter": "red", "inputs": [LONG_TEXT]}).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: client.service.batcher.waiting == 1)
    assert [client.label(name) for name in ("green", "blue", "red")] == ["GREEN", "BLUE", "RED"]
    assert client.service.batcher.waiting == 1
    free.set()
    thread.join()
    assert statuses == [200]


def test_each_thread_has_a_tokenizer_of_its_own(client: Client, tokenizers: dict[str, Any]) -> None:
    client.ask("red", TEXT)
    client.ask("red", LONG_TEXT)
    shared = client.service.dock.backbone.tokenizer
    assert len({id(tokenizer) for tokenizer in (*tokenizers.values(), shared)}) == 3


def test_a_text_with_too_many_characters_is_refused_before_it_is_encoded(
    backbone: Backbone, folder: Path, tokenizers: dict[str, Any]
) -> None:
    with serving(backbone, adapters=str(folder), max_characters=100) as client:
        error = client.refused(413, "more than 100 characters", json={**ASKED, "inputs": [TEXT, "x" * 101]})
        assert error["param"] == "inputs.1"
        client.refused(413, json={**ASKED, "inputs": [{"text": ["x" * 50, {"y": "x" * 60}]}]})
        assert not tokenizers
        assert client.ask("red", "a " * 50)


def test_the_limit_of_characters_follows_that_of_tokens_and_leaves_short_texts_to_the_tokenizer() -> None:
    assert ServingOptions(adapters="a").characters == 16 * 65536
    assert ServingOptions(adapters="a", max_tokens=10).characters == 65536
    assert ServingOptions(adapters="a", max_characters=10).characters == 10


def test_a_conversation_costs_its_characters_for_each_turn_that_is_read_again() -> None:
    turn = {"role": "user", "content": "x" * 100}  # with its fields' names 115 characters, and 2 values more
    assert measured("x" * 100, 1000) == 100
    assert measured({"messages": [turn] * 8}, 10_000) == 4 * (8 * (4 + 7 + 4 + 100 + 1) + 10)
    with pytest.raises(LimitError, match="in 61 objects"):
        measured({"messages": [turn] * 60}, 10_000)
    with pytest.raises(LimitError, match="more than 10,000 characters"):
        measured([[]] * 10_001, 10_000)


# --------------------------------------------------------------------------------------------- stacks


def test_a_stack_has_few_adapters_and_each_of_them_once(client: Client) -> None:
    client.refused(422, "at most 8 adapters", "has 9", json={**ASKED, "adapter": "+".join(["red"] * 9)})
    client.refused(422, "'red' twice", json={**ASKED, "adapter": "red+green+red"})
    client.refused(422, "'red' twice", json={**ASKED, "adapter": ["red+red"]})
    client.put("/v1/aliases/rot", json={"target": "red"})
    client.refused(422, "under two names", json={**ASKED, "adapter": "rot+red"})
    client.refused(422, "at most 8", path="/v1/embeddings", json={"model": "+".join("abcdefghi"), "input": "a"})
    assert all(version.users == 0 for version in client.service.catalog.served("red").versions.values())
    assert client.ask("green+red", TEXT)[0]["prediction"]["entities"][0]["label"] == "RED"


def test_a_window_costs_more_with_each_adapter_of_a_stack_and_with_its_length(client: Client) -> None:
    version = client.service.catalog.served("red").current
    single, three = (Work("red", [version] * count, TEXT, 0.0) for count in (1, 3))
    assert single.cost(100, 10**6) == 100
    assert three.cost(100, 10**6) == 300
    assert single.cost(600, 100) == 600 + 600  # as much in attention as in linear layers


# ------------------------------------------------------------------------------------------- fairness


def test_a_queue_can_be_left_out_and_keeps_what_it_has() -> None:
    queues: FairQueues[str] = FairQueues(lambda _: 10, 10)
    for name in ("busy", "calm", "busy", "calm"):
        queues.put(name, name)
    assert queues.take(100, without={("", "busy")}) == ["calm", "calm"]
    assert queues.take(100) == ["busy", "busy"]
    assert queues.take(100, without={("", "busy")}) == []


def test_a_client_of_many_adapters_gets_no_more_than_a_client_of_one() -> None:
    queues: FairQueues[str] = FairQueues(lambda _: 10, 10)
    for number in range(40):
        queues.put(f"adapter {number % 20}", "greedy", "greedy")
    for _ in range(8):
        queues.put("adapter 0", "modest", "modest")
    assert sorted(queues.take(120)) == ["greedy"] * 6 + ["modest"] * 6
    assert queues.take(20, without_clients={"greedy"}) == ["modest"] * 2
    assert queues.take(1000) == ["greedy"] * 34
    assert (queues.tokens, len(queues)) == (0, 0)


def test_a_newcomer_is_computed_before_what_another_adapter_has_ready(backbone: Backbone, folder: Path) -> None:
    with serving(backbone, adapters=str(folder), batch_tokens=64, write_tokens=64, warm_up=False) as client:
        turn, computed = threading.Semaphore(0), []
        before = client.service.dock.run

        def logits(rows: Any, features: Any) -> Any:
            computed.append({row[-1].card.name for row in rows})  # which of these adapters is its method
            turn.acquire(timeout=20)
            return before(rows, features)

        client.service.dock.run = logits  # type: ignore[method-assign]
        batcher = client.service.batcher
        blue, red, green = (
            threading.Thread(target=client.ask, args=(name, *texts))
            for name, texts in (("blue", ["a"]), ("red", ["a " * 60] * 8), ("green", ["a"]))
        )
        blue.start()
        until(lambda: len(computed) == 1)
        red.start()
        until(lambda: len(batcher._arrived) == 8)
        turn.release()
        until(lambda: len(computed) == 2 and batcher._ready)
        green.start()
        until(lambda: len(batcher._arrived) == 1)
        for _ in range(20):
            turn.release()
        for thread in (blue, red, green):
            thread.join()
        client.service.dock.run = before  # type: ignore[method-assign]
    assert computed[:4] == [{"bottleneck"}, {"lora"}, {"prefix"}, {"lora"}]


def test_ready_batches_have_every_other_turn_however_many_batches_the_others_have(
    backbone: Backbone, folder: Path
) -> None:
    with serving(backbone, adapters=str(folder)) as client:
        batcher = Batcher(client.service.residency, ServingOptions(adapters=str(folder), batch_tokens=64, batch_rows=1))

        def window(name: str) -> Window:
            work = Work(name, [client.service.catalog.served(name).current], "x", math.inf, size=1)
            return Window(work, 0, length=8, cost=8)

        batcher._ready.extend([window("red")] for _ in range(3))
        for _ in range(40):
            batcher._queues.put("green", window("green"))
        taken = [batcher._taken() for _ in range(6)]
    assert [batch[0].work.name for batch, _ in filter(None, taken)] == ["green", "red"] * 3


# --------------------------------------------------------------------------- what is said of what is wrong


def test_one_wrong_element_of_many_and_one_unknown_field_are_reported() -> None:
    bodies: list[tuple[Any, dict[str, Any]]] = [
        (PredictRequest, {"adapter": [1] * 1000, "inputs": ["a"]}),
        (PredictRequest, {**ASKED, **{f"field{number}": 0 for number in range(1000)}}),
        (ChatRequest, {"model": "a", "messages": [{}] * 1000}),
        (ChatRequest, {"model": "a", "messages": [{"role": "user", "content": [1] * 1000}]}),
        (ChatRequest, {"model": "a", "messages": [{"role": "user", "content": "a"}] * 1025}),
    ]
    for model, body in bodies:
        with pytest.raises(ValidationError) as raised:
            model.model_validate(body)
        assert raised.value.error_count() <= 3


def test_of_many_names_some_are_compared_with_an_unknown_one(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    before = errors.get_close_matches

    def counting(name: str, names: list[str], **options: Any) -> list[str]:
        compared.append(len(names))
        return before(name, names, **options)

    monkeypatch.setattr(errors, "get_close_matches", counting)
    names = [f"customer-{number:05}" for number in range(10_000)]
    assert UnknownNameError("adapter", "customer-07431x", names).near[0] == "customer-07431"
    assert compared == [errors.COMPARED]


def test_requests_that_are_late_leave_no_lines_of_python_s_own(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with held(client):
        for _ in range(3):
            client.refused(504, json={**ASKED, "inputs": [TEXT] * 3, "timeout": 0.1})
    assert client.label("red") == "RED"
    gc.collect()
    assert "never retrieved" not in caplog.text
