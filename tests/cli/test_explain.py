"""``adapt explain``: words with bars, JSON, and inputs that cannot be explained."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import build_adapter

from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone


@pytest.fixture
def topic(backbone: Backbone, tmp_path: Path) -> Path:
    path = tmp_path / "topic.safetensors"
    write_file(path, build_adapter(backbone, "lora", labels=("sport", "food"), task="topic", name="topic"))
    return path


def test_words_are_shown_with_bars_as_long_as_their_effects(adapt: Any, topic: Path) -> None:
    ran = adapt("explain", topic, "the cat sat on the mat")
    assert ran.status == 0, ran.err
    first, *lines = ran.out.splitlines()
    assert first.startswith(("sport (log-probability -", "food (log-probability -"))
    assert [line.split()[0] for line in lines] == ["the", "cat", "sat", "on", "the", "mat"]
    effects = {line.split()[0]: float(line.split()[1]) for line in lines}
    bars = {line.split()[0]: line.split()[2] if len(line.split()) > 2 else "" for line in lines}
    assert max(map(len, bars.values())) == 30
    for word, effect in effects.items():
        assert set(bars[word]) <= {"+" if effect > 0 else "-"}


def test_json_has_the_method_and_every_word(adapt: Any, topic: Path) -> None:
    text = "the cat sat on the mat " * 5
    document = json.loads(adapt("explain", topic, text, "--json", "--words", 2).out)
    assert document["method"] == "occlusion"
    assert document["filler"] == "[MASK]"
    (answer,) = document["answers"]
    assert len(answer["words"]) == 30
    assert all(text[word["start"] : word["end"]] == word["text"] for word in answer["words"])
    shown = adapt("explain", topic, text, "--words", 2).out
    assert "and 28 words with smaller effects" in shown
    assert len(shown.splitlines()) == 4


def test_each_entity_has_an_answer_of_its_own(adapt: Any, adapter: Path) -> None:
    text = "ada lives in rome"
    entities = json.loads(adapt("predict", adapter, text, "--json").out)["entities"]
    answers = json.loads(adapt("explain", adapter, text, "--json").out)["answers"]
    assert [(a["label"], a["start"], a["end"]) for a in answers] == [
        (e["label"], e["start"], e["end"]) for e in entities
    ]
    ran = adapt("explain", adapter, json.dumps({"tokens": text.split()}))
    assert ran.status == 0, ran.err


def test_a_text_without_an_answer_says_so(adapt: Any, adapter: Path) -> None:
    ran = adapt("explain", adapter, "")
    assert ran.status == 0
    assert "finds nothing" in ran.err


def test_a_wrong_object_is_refused_as_predict_refuses_it(adapt: Any, adapter: Path) -> None:
    adapt("explain", adapter, '{"words": 3}').failed(2, "'text' or 'tokens'")
    assert adapt("explain", adapter, "{not json").status == 0
