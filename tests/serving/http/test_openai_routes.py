"""The real client of OpenAI writes, streams and embeds with adapters by name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from served import Client, serving
from writers import CHAT, untrained, writing_backbone

from adaptdock.engine.core.assembly import assemble, entry, make_task, method_entries
from adaptdock.engine.inference.dock import Dock
from adaptdock.hub.artefact.card import BackboneEntry, Card, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile, write_file
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.scheduling.stop_sequences import held_back, stop_position

BACKBONE = "tiny-llama"
TURNS: Any = [{"role": "system", "content": "be short"}, {"role": "user", "content": "the cat sat"}]


@pytest.fixture(scope="module")
def writer() -> Backbone:
    return writing_backbone("llama", CHAT)


@pytest.fixture(scope="module")
def writers(writer: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writers")
    write_file(folder / "short.safetensors", untrained(writer, "generation", max_new_tokens=8))  # type: ignore[arg-type]
    write_file(folder / "beams.safetensors", untrained(writer, "generation", max_new_tokens=8, num_beams=2))  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def client(writer: Backbone, writers: Path) -> Iterator[Client]:
    with serving(writer, adapters=str(writers)) as client:
        yield client


@pytest.fixture
def ai(client: Client) -> openai.OpenAI:
    return openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=client, max_retries=0)


@pytest.fixture(scope="module")
def dock(writer: Backbone, writers: Path) -> Iterator[Dock]:
    dock = Dock(writer)
    for name in ("short", "beams"):
        dock.load(writers / f"{name}.safetensors", name)
    yield dock
    dock.close()


@pytest.mark.parametrize("name", ["short", "beams"])
def test_a_conversation_is_answered_as_the_library_answers_it(ai: openai.OpenAI, dock: Dock, name: str) -> None:
    (expected,) = dock.predict(name, [{"messages": TURNS}])
    completion = ai.chat.completions.create(model=name, messages=TURNS)
    assert completion.choices[0].message.content == expected["text"]
    assert completion.choices[0].finish_reason in ("stop", "length")
    assert completion.usage is not None
    assert completion.usage.prompt_tokens > 5
    assert completion.usage.completion_tokens <= 8


@pytest.mark.parametrize("name", ["short", "beams"])
def test_a_stream_is_the_same_text_in_pieces(ai: openai.OpenAI, dock: Dock, name: str) -> None:
    (expected,) = dock.predict(name, [{"messages": TURNS}])
    parts = list(
        ai.chat.completions.create(model=name, messages=TURNS, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == expected["text"]
    assert [part.choices[0].finish_reason for part in parts if part.choices][-1] in ("stop", "length")
    assert parts[-1].usage is not None
    if name == "short":
        assert len(parts) > 4


def test_texts_are_continued_with_the_wishes_of_the_request(ai: openai.OpenAI, dock: Dock) -> None:
    texts = ["the cat", "a text about"]
    expected = dock.generate("short", texts, max_new_tokens=5)
    completion = ai.completions.create(model="short", prompt=texts, max_tokens=5)
    assert [choice.text for choice in completion.choices] == expected
    (drawn,) = dock.generate("short", texts[:1], max_new_tokens=9, do_sample=True, seed=3, temperature=0.8, top_p=0.9)
    sampled = ai.completions.create(model="short", prompt=texts[0], max_tokens=9, temperature=0.8, top_p=0.9, seed=3)
    assert sampled.choices[0].text == drawn
    assert sampled.choices[0].finish_reason == "length"


def test_models_are_listed_with_what_they_can(ai: openai.OpenAI) -> None:
    listed = {model.id: model.model_extra for model in ai.models.list()}
    assert listed["short"] == {"abilities": ["predict", "completions", "chat"]}
    assert listed[BACKBONE] == {"abilities": ["completions", "chat"]}
    assert ai.models.retrieve("beams").id == "beams"
    assert ai.models.retrieve(BACKBONE).id == BACKBONE


def test_classifiers_are_listed_and_a_backbone_that_does_not_write_is_not(backbone: Backbone, folder: Path) -> None:
    with serving(backbone, adapters=str(folder)) as client:
        listed = client.get("/v1/models").json()["data"]
        assert [(model["id"], model["abilities"]) for model in listed] == [
            (name, ["predict"]) for name in ("blue", "green", "red")
        ]
        client.refused(404, path="/v1/completions", json={"model": backbone.id, "prompt": "a"})


NEUTRAL: dict[str, Any] = {
    "stop": None,
    "n": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "logit_bias": {},
    "stream": False,
    "temperature": None,
    "user": None,
}


def test_neutral_values_of_options_that_are_not_supported_change_nothing(ai: openai.OpenAI) -> None:
    chat: dict[str, Any] = {
        **NEUTRAL,
        "logprobs": False,
        "top_logprobs": None,
        "response_format": {"type": "text"},
        "store": False,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "service_tier": "auto",
        "metadata": None,
        "modalities": ["text"],
    }
    plain = ai.chat.completions.create(model="short", messages=TURNS)
    assert ai.chat.completions.create(model="short", messages=TURNS, **chat).choices[0].message == (
        plain.choices[0].message
    )
    completion: dict[str, Any] = {**NEUTRAL, "best_of": 1, "echo": False, "suffix": None, "logprobs": None}
    assert ai.completions.create(model="short", prompt="a", **completion).choices[0].text


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("logprobs", True),
        ("logprobs", 0),
        ("frequency_penalty", 0.5),
        ("response_format", {"type": "json_object"}),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("logit_bias", {"5": 1}),
        ("best_of", 2),
        ("store", True),
    ],
)
def test_an_option_that_would_change_the_answer_is_refused_by_name(client: Client, option: str, value: Any) -> None:
    body = {"model": "short", "messages": TURNS, option: value}
    client.refused(422, f"{option} is not supported here, except ", path="/v1/chat/completions", json=body)


# --------------------------------------------------------------------------------- stop sequences


@pytest.mark.parametrize("name", ["short", "beams"])
def test_a_text_ends_before_a_stop_sequence(ai: openai.OpenAI, dock: Dock, name: str) -> None:
    whole = dock.predict(name, [{"messages": TURNS}])[0]["text"]
    stop = whole[len(whole) // 2 :][:2]
    before = whole[: whole.index(stop)]
    for given in (stop, ["no such text", stop]):
        (choice,) = ai.chat.completions.create(model=name, messages=TURNS, stop=given).choices
        assert (choice.message.content, choice.finish_reason) == (before, "stop")
    parts = list(ai.chat.completions.create(model=name, messages=TURNS, stop=stop, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == before
    (choice,) = ai.chat.completions.create(model=name, messages=TURNS, stop=[]).choices
    assert choice.message.content == whole


def test_what_may_be_the_start_of_a_stop_sequence_is_held_back() -> None:
    assert [held_back("abcd", stops) for stops in ([], ["cdx"], ["x"], ["cdx", "bcdx"], ["d"], ["abcdabcd"])] == [
        0,
        2,
        0,
        3,
        0,
        4,
    ]
    assert [stop_position("abcd", stops) for stops in ([], ["x"], ["d", "b"], ["abcd"])] == [None, None, 1, 0]


def test_the_first_chunk_of_a_chat_has_the_role(ai: openai.OpenAI) -> None:
    parts = list(ai.chat.completions.create(model="short", messages=TURNS, stream=True))
    assert (parts[0].choices[0].delta.role, parts[0].choices[0].delta.content) == ("assistant", "")
    assert all(part.choices[0].delta.role is None for part in parts[1:])


# ---------------------------------------------------------------------- token ids, the bare backbone


def test_token_ids_are_continued_as_their_text(ai: openai.OpenAI, client: Client, writer: Backbone) -> None:
    ids = writer.tokenizer("the cat")["input_ids"]
    text = ai.completions.create(model="short", prompt="the cat", max_tokens=5).choices[0].text
    assert ai.completions.create(model="short", prompt=ids, max_tokens=5).choices[0].text == text
    many = ai.completions.create(model="short", prompt=[ids, ids], max_tokens=5)
    assert [choice.text for choice in many.choices] == [text, text]
    beyond = {"model": "short", "prompt": [len(writer.tokenizer)]}
    client.refused(422, "is not a token id of this backbone", path="/v1/completions", json=beyond)
    client.refused(422, path="/v1/completions", json={"model": "short", "prompt": [-1]})


def test_the_bare_backbone_is_asked_by_its_name(ai: openai.OpenAI, client: Client, dock: Dock) -> None:
    (expected,) = dock.generate(None, ["the cat"], max_new_tokens=5)
    completion = ai.completions.create(model=BACKBONE, prompt="the cat", max_tokens=5)
    assert completion.choices[0].text == expected
    template = dock.backbone.tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    ids = dock.backbone.tokenizer(template, add_special_tokens=False)["input_ids"]
    text = ai.completions.create(model=BACKBONE, prompt=ids, max_tokens=5).choices[0].text
    answer = ai.chat.completions.create(model=BACKBONE, messages=TURNS, max_tokens=5)
    assert answer.choices[0].message.content == text
    assert 'adaptdock_requests_total{adapter="(backbone)"}' in client.get("/metrics").text
    client.refused(404, json={"adapter": BACKBONE, "inputs": ["a"]})


def test_what_cannot_be_done_is_refused_by_name(ai: openai.OpenAI, client: Client) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean short"):
        ai.chat.completions.create(model="shorts", messages=TURNS)
    with pytest.raises(openai.UnprocessableEntityError, match="no embeddings"):
        ai.embeddings.create(model="short", input="a")
    with pytest.raises(openai.UnprocessableEntityError, match="leave no room"):
        ai.completions.create(model="short", prompt="a", max_tokens=500)
    with pytest.raises(openai.UnprocessableEntityError, match="logprobs"):
        ai.completions.create(model="short", prompt="a", logprobs=3)
    error = client.refused(413, path="/v1/completions", json={"model": "short", "prompt": "a", "max_tokens": 5000})
    assert error["type"] == "too_large_error"


def test_vectors_are_those_of_the_library_in_either_form(backbone: Backbone, tmp_path: Path) -> None:
    methods, task = method_entries("lora", {"rank": 2}), make_task("embedding", {})
    assembly = assemble(backbone, methods, task)
    card = Card(
        name="near",
        task=entry("task", "embedding", task.options),
        methods=methods,
        backbone=BackboneEntry(id=backbone.id, architecture=backbone.architecture, fingerprint=backbone.fingerprint),
        preprocessing=Preprocessing(max_length=64),
    )
    adapter = AdapterFile(card, assembly.start(torch.Generator().manual_seed(0)))
    write_file(tmp_path / "near.safetensors", adapter)
    dock, texts = Dock(backbone), ["ada in rome", "bob"]
    expected = [entry["embedding"] for entry in dock.predict(dock.dock(adapter), texts)]
    dock.close()
    with serving(backbone, adapters=str(tmp_path)) as client:
        ai = openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=client, max_retries=0)
        exact = ai.embeddings.create(model="near", input=texts, encoding_format="float")
        assert [entry.embedding for entry in exact.data] == expected
        packed = ai.embeddings.create(model="near", input=texts)
        assert torch.allclose(
            torch.tensor([entry.embedding for entry in packed.data]), torch.tensor(expected), atol=1e-6
        )
        short = ai.embeddings.create(model="near", input=texts[0], dimensions=2, encoding_format="float")
        cut = torch.tensor(expected[0][:2])
        scaled = cut * torch.tensor(expected[0]).norm() / cut.norm()
        assert torch.allclose(torch.tensor(short.data[0].embedding), scaled, atol=1e-5)
        width = len(expected[0])
        assert ai.embeddings.create(model="near", input=texts, dimensions=width, encoding_format="float").data == (
            exact.data
        )
        with pytest.raises(openai.UnprocessableEntityError, match=f"has {width} numbers"):
            ai.embeddings.create(model="near", input=texts, dimensions=width + 1)
        with pytest.raises(openai.UnprocessableEntityError, match="send texts"):
            ai.embeddings.create(model="near", input=[[1, 2]])
        with pytest.raises(openai.UnprocessableEntityError, match="no chat"):
            ai.chat.completions.create(model="near", messages=TURNS)
