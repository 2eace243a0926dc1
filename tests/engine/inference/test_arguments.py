"""Texts and names that a person gives: what is no list of them is refused, whatever else it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from writers import untrained, writing_backbone

from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.residency import Residency
from adaptdock.errors import AdaptError, UsageError
from adaptdock.hub.artefact.file import AdapterFile, write_file
from adaptdock.serving.client.requests import embedding, predicting, writing

TEXTS = ["ada runs", "bob sings in the rain"]
NO_LIST = ["one text", b"bytes", bytearray(b"b"), None, 5, 1.5, {"text": "ada"}, {"ada"}, object(), list, np.array("a")]
TABLE = [np.array([["a", "b"]]), torch.zeros(1, 2)]


class Column:
    """A column as of pandas: it can be gone through, has one dimension, and is no Sequence."""

    ndim = 1

    def __init__(self, values: list[str]) -> None:
        self.values = values

    def __iter__(self) -> Any:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)


@pytest.fixture
def ready(dock: Dock, adapters: dict[str, AdapterFile]) -> Dock:
    dock.dock(adapters["lora"], "ner")
    return dock


@pytest.mark.parametrize("form", [list, tuple, iter, np.array, Column, lambda texts: (text for text in texts)])
def test_texts_and_names_may_be_anything_that_lists_them(
    form: Callable[[list[str]], Any], ready: Dock, adapters: dict[str, AdapterFile], tmp_path: Path
) -> None:
    expected = ready.predict("ner", TEXTS)
    assert ready.predict("ner", form(TEXTS)) == expected
    assert ready.predict(form(["ner", "ner"]), form(TEXTS)) == expected
    write_file(tmp_path / "ner.safetensors", adapters["lora"])
    residency = Residency(ready)
    residency.know("known", tmp_path / "ner.safetensors")
    assert residency.predict(form(["known", "known"]), form(TEXTS)) == expected


@pytest.mark.parametrize("given", [*NO_LIST, *TABLE], ids=lambda given: type(given).__name__)
def test_what_is_no_list_of_inputs_is_refused_and_the_error_says_what_is_taken(given: Any, ready: Dock) -> None:
    for ask in (ready.predict, lambda name, items: predicting(name, items, None)):
        with pytest.raises(UsageError, match=r"the inputs are a list, such as \['a text'"):
            ask("ner", given)
    with pytest.raises(UsageError, match="the texts are a list"):
        embedding("near", given)


@pytest.mark.parametrize(
    "names", [given for given in NO_LIST if not isinstance(given, str | None)], ids=lambda given: type(given).__name__
)
def test_what_is_no_list_of_names_is_refused(names: Any, ready: Dock) -> None:
    residency = Residency(ready)
    for ask in (ready.predict, residency.predict, residency.generate, ready.generate):
        with pytest.raises(UsageError, match="the adapter names are a list"):
            ask(names, TEXTS)
    with pytest.raises(UsageError, match="the adapter names are a list"):
        predicting(names, TEXTS, None)
    with pytest.raises(UsageError, match="the adapter names are a list"), ready.boarding(names):
        pass
    with pytest.raises(UsageError, match="the adapter names are a list"), residency.present(names):
        pass


def test_one_text_for_names_would_be_a_name_for_each_character(ready: Dock) -> None:
    for board in (ready.boarding, Residency(ready).present):
        with pytest.raises(UsageError, match="the adapter names are a list"), board("ner"):  # type: ignore[operator]
            pass


@pytest.mark.parametrize("name", [5, b"ner", ["ner"], {"ner": 1}, 1.5])
def test_a_name_that_is_no_text_is_refused(name: Any, ready: Dock) -> None:
    residency = Residency(ready)
    for ask in (ready.card, ready.unload, ready.assembly, residency.pin, residency.forget, residency.tier):
        with pytest.raises(UsageError, match="name of an adapter is a text"):
            ask(name)
    with pytest.raises(UsageError, match="adapter name of row 1 is a text"):
        ready.predict(["ner", name], TEXTS)


@pytest.mark.parametrize("item", [None, 5, b"ada", {"words": "ada"}, ["ada"], float("nan"), {"text": None}])
def test_an_input_that_a_task_cannot_read_is_refused(item: Any, ready: Dock) -> None:
    with pytest.raises(AdaptError, match="words are tagged in a text"):
        ready.predict("ner", ["ada runs", item])


def test_names_and_inputs_of_different_number_are_refused_and_none_of_either_is_fine(ready: Dock) -> None:
    with pytest.raises(UsageError, match="1 adapter names for 2 inputs"):
        ready.predict(["ner"], TEXTS)
    with pytest.raises(UsageError, match="2 adapter names for 0 inputs"):
        ready.predict(["ner", "ner"], [])
    assert ready.predict("ner", []) == ready.predict([], []) == ready.run([], []) == []


@pytest.mark.parametrize("number", [0, -1, 2.0, None, "4", True])
def test_a_batch_has_a_whole_number_of_rows(number: Any, ready: Dock) -> None:
    for ask in (ready.predict, ready.generate):
        with pytest.raises(UsageError, match="the batch size is a whole number from 1"):
            ask("ner", TEXTS, number)


def test_logits_are_asked_for_by_rows_and_features(ready: Dock) -> None:
    with ready.boarding(["ner"]) as rows:
        task = rows[0][-1].assembly.task
        features = task.encode(task.read("ada runs"), ready.reading(32), labelled=False)
        assert len(ready.run(rows, features)) == 1
        for wrong in ("ner", ["ner"], [()], None, 5):
            with pytest.raises(UsageError, match=r"rows are a list|a row comes from boarding\(\)"):
                ready.run(wrong, features)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="1 rows for 2 features"):
            ready.run(rows, features * 2)
        with pytest.raises(UsageError, match="a feature comes from"):
            ready.run(rows, ["ada runs"])  # type: ignore[list-item]


def test_texts_that_are_continued_are_a_list_of_texts() -> None:
    backbone = writing_backbone("llama")
    dock = Dock(backbone)
    dock.dock(untrained(backbone, "generation"), "writer")  # type: ignore[arg-type]
    expected = dock.generate(None, TEXTS, max_new_tokens=2)
    assert dock.generate(None, tuple(TEXTS), max_new_tokens=2) == expected
    assert dock.generate(None, (text for text in TEXTS), max_new_tokens=2) == expected  # type: ignore[arg-type]
    assert dock.generate(["writer", None], np.array(TEXTS), max_new_tokens=2)[1] == expected[1]  # type: ignore[arg-type]
    for wrong in NO_LIST:
        with pytest.raises(UsageError, match="the texts are a list"):
            dock.generate(None, wrong, max_new_tokens=2)
    for item in (None, 5, b"ada", ["ada"]):
        with pytest.raises(UsageError, match="text 1 is a text"):
            dock.generate(None, ["ada", item], max_new_tokens=2)  # type: ignore[list-item]


@pytest.mark.parametrize(
    "value", [np.array(["a"]), object(), float("nan"), "\ud800", {1, 2}], ids=lambda value: type(value).__name__
)
def test_a_client_refuses_what_json_cannot_hold(value: Any) -> None:
    with pytest.raises(UsageError, match="cannot be written as JSON"):
        predicting("ner", [value], None).arguments()


@pytest.mark.parametrize("prompt", [None, 5, b"hello", {"role": "user"}])
def test_a_client_refuses_a_prompt_that_is_neither_a_text_nor_messages(prompt: Any) -> None:
    with pytest.raises(UsageError, match="the messages are a list"):
        writing("writer", prompt, {})
