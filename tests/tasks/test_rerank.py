"""The rerank task: forms of data, losses over candidates, metrics by trec_eval's definitions, orders."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_tokenizer
from sklearn.metrics import average_precision_score, ndcg_score
from torch.nn import functional

from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import DataError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins.contracts import Backbone, Reading
from adaptdock.tasks.common.candidates import CandidateBatch
from adaptdock.tasks.ranking.ranking_metrics import average_precision, ndcg, ranked, reciprocal_rank
from adaptdock.tasks.rerank import Rerank

READING = Reading(tiny_tokenizer(), 32)
QUERY = "who ran"


def make(**options: Any) -> Rerank:
    return Rerank(Rerank.Options(**options))


def clean(*rows: dict[str, Any], split: str = "validation") -> tuple[list[dict[str, Any]], list[str]]:
    cleaned = make().clean([{"where": f"a:{number}", **row} for number, row in enumerate(rows, 1)], split)
    return cleaned.records, cleaned.notes


def relevance(record: dict[str, Any]) -> dict[str, int]:
    return {candidate["text"]: candidate["relevance"] for candidate in record["candidates"]}


FORMS: dict[str, list[dict[str, Any]]] = {
    "lists": [{"query": QUERY, "candidates": ["ada ran", "it rained"], "relevance": [1, 0]}],
    "printed lists": [{"query": QUERY, "candidates": "['ada ran', 'it rained']", "relevance": "[1, 0]"}],
    "objects": [
        {"query": QUERY, "candidates": [{"text": "ada ran", "label": 1}, {"passage": "it rained", "label": False}]}
    ],
    "an object of lists (MS MARCO)": [
        {"query": QUERY, "candidates": {"passage_text": ["ada ran", "it rained"], "is_selected": [1, 0]}}
    ],
    "positive and negative lists": [{"query": QUERY, "positive": ["ada ran"], "negative": ["it rained"]}],
    "passages of Tevatron": [
        {
            "query": QUERY,
            "positive": [{"docid": "1", "text": "ada ran"}],
            "negative": [{"docid": "2", "text": "it rained"}],
        }
    ],
    "triplets": [{"query": QUERY, "positive": "ada ran", "negative": "it rained"}],
    "rows": [
        {"query": QUERY, "candidates": "ada ran", "relevance": "1"},
        {"query": QUERY, "candidates": "it rained", "relevance": 0.0},
    ],
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_data_gives_the_same_candidates(name: str) -> None:
    (record,), _ = clean(*FORMS[name])
    assert record["query"] == QUERY
    assert relevance(record) == {"ada ran": 1, "it rained": 0}


def test_positive_texts_do_not_come_first_in_every_query() -> None:
    rows = [{"query": f"q{n}", "positive": f"yes {n}", "negative": [f"no {n}", f"none {n}"]} for n in range(20)]
    records, _ = clean(*rows)
    assert len({[candidate["relevance"] for candidate in record["candidates"]].index(1) for record in records}) == 3


def test_a_column_name_of_a_data_set_is_found_in_a_file(tmp_path: Path) -> None:
    row = {"question": QUERY, "pos": ["ada ran"], "neg": ["it rained"]}
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({**row, "question": f"q{n}"}) for n in range(12)))
    splits, _ = load_splits(Source(train=str(tmp_path / "train.jsonl")), Rerank)
    assert relevance(make().clean(splits["train"], "train").records[0]) == {"ada ran": 1, "it rained": 0}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": QUERY}, "a query has candidates"),
        ({"query": " ", "candidates": ["a"], "relevance": [1]}, "the query is a text"),
        ({"query": QUERY, "candidates": [], "relevance": []}, "the list of candidates is empty"),
        ({"query": QUERY, "candidates": ["a", "b"], "relevance": [1]}, "2 candidates have 1 numbers"),
        ({"query": QUERY, "candidates": ["a", "b"], "relevance": [0.5, 1]}, "whole number"),
        ({"query": QUERY, "candidates": ["a", "b"]}, "whole number"),
        ({"query": QUERY, "candidates": ["a", 3], "relevance": [1, 0]}, "a candidate is a text"),
    ],
)
def test_data_that_says_something_else_is_refused_with_its_place(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"a:1: .*{message}"):
        clean(row)


def test_queries_without_an_order_teach_nothing_and_count_as_zero_elsewhere() -> None:
    rows = [*FORMS["lists"], {"query": "why", "candidates": ["a", "b"], "relevance": [0, 0]}]
    records, notes = clean(*rows, split="train")
    assert [record["query"] for record in records] == [QUERY]
    assert "1 queries are left out" in notes[0]
    records, notes = clean(*rows)
    assert len(records) == 2
    assert "1 queries have no relevant candidate, and count as 0: a:2" in notes[0]
    with pytest.raises(DataError, match="nothing can be learnt"):
        clean(rows[1], split="train")


GAINS = st.lists(st.integers(0, 3), min_size=2, max_size=20)


@given(GAINS, st.randoms(use_true_random=False))
def test_ndcg_and_map_are_those_of_scikit_learn(gains: list[int], random: Any) -> None:
    scores = random.sample(range(100), len(gains))
    order = ranked(scores, gains)
    if any(gains):
        assert math.isclose(ndcg(order, 10), ndcg_score([gains], [scores], k=10))
        binary = [gain > 0 for gain in gains]
        assert math.isclose(average_precision(order), average_precision_score(binary, scores))
    else:
        assert ndcg(order) == average_precision(order) == reciprocal_rank(order) == 0.0


def test_the_reciprocal_rank_stops_at_its_cut() -> None:
    assert reciprocal_rank([0, 0, 1, 1]) == 1 / 3
    assert reciprocal_rank([0] * 10 + [1]) == 0.0


def test_equal_scores_gain_nothing() -> None:
    assert ranked([1.0, 1.0, 2.0], [3, 0, 0]) == [0, 0, 3]


def test_the_listwise_loss_is_the_softmax_over_the_candidates_of_each_query() -> None:
    logits = torch.tensor([[1.0], [2.0], [0.5], [3.0], [-1.0]], requires_grad=True)
    # query 4 has candidates 0 and 1, the latter in two windows; query 7 has two candidates
    labels = torch.tensor([[4, 0, 1], [4, 1, 0], [4, 1, 0], [7, 0, 0], [7, 1, 2]])
    first = functional.cross_entropy(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    second = functional.cross_entropy(torch.tensor([[3.0, -1.0]]), torch.tensor([1]))
    loss = CandidateBatch(logits, labels).softmax_loss()
    torch.testing.assert_close(loss, (first + second) / 2)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[2] == 0  # not the best window


def test_the_pointwise_loss_counts_each_candidate_once() -> None:
    logits = torch.tensor([[1.0], [2.0], [0.5]])
    labels = torch.tensor([[4, 0, 1], [4, 1, 0], [4, 1, 0]])
    expected = functional.binary_cross_entropy_with_logits(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(CandidateBatch(logits, labels).binary_loss(), expected)


def test_a_long_candidate_has_the_score_of_its_best_window() -> None:
    task = make()
    record = task.read({"query": "who", "candidates": ["it rained", "ada ran home " * 9]})
    features = task.encode(record, READING, labelled=False)
    assert [feature.alignment for feature in features].count(1) > 1
    digests = [torch.tensor([float(number)]) for number in range(len(features))]
    best = task.decode(record, features, digests)["candidates"][0]
    assert (best["index"], best["score"]) == (1, len(features) - 1)


def test_a_query_learns_from_all_relevant_and_some_other_candidates() -> None:
    task = make(negatives=2)
    candidates = [{"text": f"t{n}", "relevance": int(n == 4)} for n in range(9)]
    features = task.encode({"query": "q", "unit": 0, "candidates": candidates}, READING, labelled=True)
    assert [feature.alignment for feature in task.sampled_windows(features)] == [2, 4, 7]


def test_the_baseline_is_bm25() -> None:
    records, _ = clean({"query": "who ran", "candidates": ["it rained", "ada ran"], "relevance": [0, 1]})
    assert make().baseline(records)["mrr@10"] == 100.0


@pytest.mark.parametrize("objective", ["listwise", "pointwise"])
def test_the_sample_is_learnt_and_candidates_are_sorted(
    backbone: Backbone, dock: Dock, tmp_path: Path, objective: str
) -> None:
    options = {"epochs": 1, "learning_rate": 1e-2, "min_steps": 0}
    made = plan(backbone, "rerank", "lora", Source(), options, task_options={"objective": objective})
    result = train_plan(made, tmp_path)
    adapter = dock.dock(read_file(result.file))
    candidates = [{"id": 7, "text": "Ada ran."}, "It rained."]
    answer = dock.predict(adapter, [{"query": "Who ran?", "candidates": candidates}])[0]
    scores = [candidate["score"] for candidate in answer["candidates"]]
    assert scores == sorted(scores, reverse=True)
    assert {candidate["index"]: candidate.get("id") for candidate in answer["candidates"]} == {0: 7, 1: None}
    assert result.adapter.card.probes is not None


def test_a_query_of_many_candidates_is_tokenised_once_and_an_input_has_a_limit() -> None:
    task = make()
    record = task.read({"query": "who ran " * 20, "candidates": ["ada", "bob"]})
    features = task.encode(record, READING, labelled=False)
    assert [feature.cut > 0 for feature in features] == [True, False]
    assert all(len(feature.inputs["input_ids"]) <= READING.max_length for feature in features)
    with pytest.raises(DataError, match="at most 1,000 candidates; found 1,001"):
        task.read({"query": "who", "candidates": ["a"] * 1001})


def test_candidates_of_a_prediction_need_not_be_in_one_batch(backbone: Backbone, dock: Dock, tmp_path: Path) -> None:
    made = plan(backbone, "rerank", "lora", Source(), {"epochs": 1, "min_steps": 0})
    adapter = dock.dock(train_plan(made, tmp_path).adapter)
    rows: list[int] = []
    run = dock.run
    dock.run = lambda of_rows, *rest, **more: (rows.append(len(of_rows)), run(of_rows, *rest, **more))[1]  # type: ignore
    dock.predict(adapter, [{"query": "who", "candidates": [f"ada {n}" for n in range(20)]}], batch_size=8)
    assert max(rows) <= 8
