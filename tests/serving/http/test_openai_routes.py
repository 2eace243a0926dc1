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
    assert ai.models.retrieve("beams").id == "beams"


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
        with pytest.raises(openai.UnprocessableEntityError, match="no chat"):
            ai.chat.completions.create(model="near", messages=TURNS)
