"""Texts at prediction, and the words that a task of words was trained on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_tokenizer

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.plan import plan
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.plugins.contracts import Backbone, Reading
from adaptdock.plugins.toolkit.windowing import split_words
from adaptdock.tasks.ner import NER
from adaptdock.tasks.tagging.word_tagging import Tagging

READING = Reading(tiny_tokenizer(), 64)
SENTENCE = {"tokens": ["Ada", "'s", "friend", "saw", "Jean-Luc", "in", "New", "York", ".", "(", "!"]}
TAGS = ["B-PER", "O", "O", "O", "B-PER", "O", "B-LOC", "I-LOC", "O", "O", "O"]


def fitted(name: str = "ner", tokens: list[str] | None = None, **options: Any) -> Tagging:
    words = tokens or SENTENCE["tokens"]
    tags = [*TAGS, *["O"] * len(words)][: len(words)]
    task = make_task(name, options).fit([{"tokens": words, "tags": tags}])
    assert isinstance(task, Tagging)
    return task


def inputs(task: Tagging, item: Any, reading: Reading = READING) -> list[Any]:
    return [feature.inputs for feature in task.encode(task.read(item), reading, labelled=False)]


@pytest.mark.parametrize("name", ["ner", "chunking", "pos"])
@pytest.mark.parametrize(
    "text",
    [
        "Ada's friend saw Jean-Luc in New York.(!",
        "Ada 's  friend\tsaw Jean-Luc\u00a0in New York . ( !",
        "A\u00adda's friend sa\u200bw Jean\u2060-Luc\ufeff in N\u200eew York.(!",
    ],
)
def test_the_model_reads_a_text_as_it_has_read_its_words_in_training(name: str, text: str) -> None:
    task = fitted(name)
    assert inputs(task, text) == inputs(task, SENTENCE)


def test_entities_are_the_characters_of_the_text_that_was_given() -> None:
    task = fitted()
    text = "\ufeffA\u00adda's friend saw Je\u200ban-Luc in  New\u00a0York.(!"
    record = task.read(text)
    features = task.encode(record, READING, labelled=False)
    logits = []
    for feature in features:
        scores = torch.zeros(len(feature.inputs["input_ids"]), len(task.tags))
        for word, position in feature.alignment:
            scores[position, task.tags.index(TAGS[word])] = 9.0
        logits.append(scores)
    prediction = task.decode(record, features, logits)
    assert prediction["text"] == text
    entities = prediction["entities"]
    assert [entity["text"] for entity in entities] == ["A\u00adda", "Je\u200ban-Luc", "New\u00a0York"]
    assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in entities)


def test_a_sentence_learnt_by_characters_is_not_one_word_at_prediction() -> None:
    task = fitted(tokens=list("玛丽去上海。"))
    assert task.read("大山在日本。")["tokens"] == list("大山在日本。")


def test_texts_are_divided_as_a_person_says() -> None:
    assert fitted(division="spaces").read("Ada's friend.")["tokens"] == ["Ada's", "friend."]
    assert fitted(division="characters").read("Ada")["tokens"] == ["A", "d", "a"]
    assert fitted(division="words").options.division == fitted().options.division
    again = make_task("ner", fitted().options.model_dump(mode="json"))
    assert again.fit([{"tokens": ["a,", "b."], "tags": ["B-PER", "O"]}]).options.division == fitted().options.division  # type: ignore[attr-defined]


def test_a_person_is_told_of_an_unusual_division() -> None:
    assert fitted().notes() == []
    assert "white space only" in fitted(tokens=["Ada", "saw", "Oslo."]).notes()[0]
    assert "each character is a word" in fitted(tokens=list("김철수는서울에산다")).notes()[0]
    assert "list of 4 words" in fitted(tokens=["玛丽", "去", "上海", "。", "北京"]).notes()[0]


@given(st.text(max_size=40))
def test_an_adapter_without_a_division_divides_texts_as_it_always_has(text: str) -> None:
    old = NER(NER.Options(labels=("LOC", "PER")))
    record = old.read(text)
    assert record["spans"] == split_words(text)
    assert record["tokens"] == [text[start:end] for start, end in split_words(text)]


def test_an_adapter_file_of_an_earlier_release_has_no_division_and_answers_as_before(
    backbone: Backbone, adapters: dict[str, AdapterFile], tmp_path: Path
) -> None:
    card = adapters["lora"].card
    options = {name: value for name, value in card.task.options.items() if name != "division"}
    earlier = card.model_copy(update={"task": card.task.model_copy(update={"options": options})})
    write_file(tmp_path / "old.safetensors", AdapterFile(earlier, adapters["lora"].tensors))
    dock = Dock(backbone)
    name = dock.load(tmp_path / "old.safetensors")
    text = "don't e-mail Ma\u00adria,Paulo"
    task = dock.assembly(name).task
    assert isinstance(task, Tagging)
    assert task.read(text)["tokens"] == ["don", "'t", "e-mail", "Ma", "\u00ad", "ria", ",", "Paulo"]
    with dock.boarding([name]) as rows:
        whole = dock.reading(64).tokenizer(text)["input_ids"]
        (feature,) = task.encode(task.read(text), dock.reading(64, rows[0]), labelled=False)
        assert feature.inputs["input_ids"] == whole
    dock.close()


def test_a_division_is_saved_with_the_adapter(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    made = plan(backbone, "ner", "lora", Source(data=str(data)), {"epochs": 1})
    result = train_plan(made, tmp_path)
    assert isinstance(made.task, Tagging)
    saved = read_file(result.file).card.task.options["division"]
    assert make_task("ner", {"division": saved}).options.division == made.task.options.division  # type: ignore[attr-defined]
    dock = Dock(backbone)
    name = dock.load(result.file)
    plain, marked = dock.predict(name, ["ada sings, joe.", "a\u00adda si\u200bngs, jo\u2060e."])
    assert [entity["score"] for entity in plain["entities"]] == [entity["score"] for entity in marked["entities"]]
    assert all(marked["text"][part["start"] : part["end"]] == part["text"] for part in marked["entities"])
    tokens = dock.predict(name, [{"tokens": ["ada", "sings", ",", "joe", "."]}])[0]
    assert [part["score"] for part in tokens["entities"]] == [part["score"] for part in plain["entities"]]
    dock.close()
