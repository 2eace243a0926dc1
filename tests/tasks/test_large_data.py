"""Large data is never in memory as a whole: each task reads, cleans, fits and describes it record by record."""

import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Record, Task
from adaptdock.plugins.toolkit import stored as module
from adaptdock.plugins.toolkit.stored import StoredSequence, stored
from adaptdock.tasks.writing import language_modelling

LONG = "rain " * 4000
WORDS = [f"{first}{second}" for first in "abc" for second in "mnopqr"]
OUTSIDE = ["O"] * len(WORDS)
RECORDS = 200
FEW = range(0, RECORDS, RECORDS // 8)


def text(number: int) -> Record:
    return {"text": f"{number} {LONG}", "label": ("wet", "dry")[number % 2]}


def pair(number: int) -> Record:
    return {**text(number), "second": "It rains."}


def words(number: int) -> Record:
    return {"tokens": ["Ada", *WORDS, str(number)], "tags": ["B-PER", *OUTSIDE, "O"]}


def ranges(number: int) -> Record:
    return {"tokens": ["Ada", *WORDS, str(number)], "ranges": [[0, 0, "PER"], [1, 2, "LETTERS"]]}


def tags_in_layers(number: int) -> Record:
    tokens = ["Ada", *WORDS, str(number)]
    return {"tokens": tokens, "ranges": ["B-PER", *OUTSIDE, "O"], "inner": ["B-NAME", *OUTSIDE, "O"]}


def labels_of_words(number: int) -> Record:
    return {"tokens": ["Ada", *WORDS, str(number)], "labels": [["PER", "ONE"], *[[] for _ in WORDS], ["NUMBER"]]}


def question(number: int) -> Record:
    return {"id": number, "question": f"What is {number}?", "context": f"{LONG} {number}", "answers": str(number)}


def choice(number: int) -> Record:
    return {"question": f"{number}?", "choices": ["red", "blue"], "answer": "red", "context": f"{number} {LONG}"}


def candidates(number: int) -> Record:
    relevance = [1, 0]
    return {"query": f"query {number}", "candidates": [f"{number} {LONG}", "rain"], "relevance": relevance}


def candidate(number: int) -> Record:
    """Return one of two rows of a query, which are far apart."""
    query = number % (RECORDS // 2)
    return {"query": f"query {query}", "candidates": f"{number} {LONG}", "relevance": int(number >= RECORDS // 2)}


def texts_that_belong_together(number: int) -> Record:
    return {"text": f"{number} {LONG}", "positive": f"text {number}", "score": 0.9}


def labelled_texts(number: int) -> Record:
    return {"text": f"{number} {LONG}", "label": f"label {number % 20}"}


def source(number: int) -> Record:
    return {"source": f"{number} {LONG}", "target": f"number {number}"}


CASES: dict[str, Sequence[Callable[[int], Record]]] = {
    **{name: [text] for name in ("classification", "intent", "prompted", "sentiment", "spam", "topic")},
    **{name: [words] for name in ("ner", "chunking", "pos")},
    **{name: [text] for name in ("clm", "mlm")},
    "choice": [choice],
    "embedding": [texts_that_belong_together, labelled_texts],
    "generation": [lambda number: {"prompt": f"{number} {LONG}", "answer": "rain", "input": "more"}],
    "multilabel-tokens": [labels_of_words],
    "pair": [pair],
    "qa": [question],
    "regression": [lambda number: {**text(number), "label": number / 7}],
    "rerank": [candidates, candidate],
    "spans": [ranges, tags_in_layers],
    **{name: [source] for name in ("summarization", "translation")},
}


def test_all_tasks_have_a_case() -> None:
    own = [plugin.name for plugin in registry.discover("task") if plugin.distribution == "adaptdock"]
    of_texts = [name for name in own if not registry.load("task", name).files]  # files are not held in memory
    assert sorted(of_texts) == sorted(CASES)


def fitted(task: Task, records: Sequence[Record]) -> tuple[Any, Task]:
    """Return the cleaned records and the fitted task, after all readings of the records before the first step."""
    cleaned = task.clean(records, "train")
    learnt = task.fit(cleaned.records)
    learnt.check(cleaned.records, "train")
    learnt.describe(cleaned.records)
    for record in cleaned.records:
        learnt.labels(record)
    return cleaned, learnt


@pytest.mark.parametrize(("name", "make"), [(name, make) for name, makers in CASES.items() for make in makers])
def test_memory_does_not_grow_with_the_data(
    name: str, make: Callable[[int], Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = registry.load("task", name)
    in_memory, _ = fitted(kind(kind.Options()), [make(number) for number in FEW])
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    raw = stored({**make(number), "where": f"file:{number}"} for number in range(RECORDS))
    monkeypatch.setattr(language_modelling, "STREAM", 10 * len(LONG))
    tracemalloc.start()
    size = len(list(raw)) and tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    cleaned, _ = fitted(kind(kind.Options()), raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(cleaned.records, StoredSequence)
    assert peak < size / 2
    few, _ = fitted(kind(kind.Options()), stored(make(number) for number in FEW))
    assert few == in_memory
