"""Question answering: where answers stand, windows, the best stretch, no answer, the measures of SQuAD."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_tokenizer
from torch import Tensor
from torch.nn import functional
from writers import writing_backbone

from adaptdock.engine.core.batches import collate_labels
from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import DataError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins.contracts import Backbone, Feature, Reading
from adaptdock.tasks.qa import QA, QAOptions
from adaptdock.tasks.reading.squad import exact_match, f1, normalised

CONTEXT = "ada lives in oslo, and bob in rome."


def make(**options: Any) -> QA:
    return QA(QAOptions(**options))


def asked(answers: Any, context: str = CONTEXT, **more: Any) -> dict[str, Any]:
    return {"where": "a.json: 'T', question 1", "question": "who?", "context": context, "answers": answers, **more}


def cleaned(*given: Any, **options: Any) -> list[dict[str, Any]]:
    return make(**options).clean(given, "train").records


def scores(feature: Feature, start: int, end: int, height: float = 9.0) -> Tensor:
    """Logits of a window in which the characters from start to end are the best stretch."""
    spans = feature.alignment.spans
    logits = torch.zeros(len(spans), 2)
    logits[next(n for n, span in enumerate(spans) if span and span[0] == start), 0] = height
    logits[next(n for n, span in enumerate(spans) if span and span[1] == end), 1] = height
    return logits


# --------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    "given",
    [
        {"text": ["oslo"], "answer_start": [13]},
        {"text": "oslo", "answer_start": 13},
        [{"text": "oslo", "answer_start": 13}],
    ],
)
def test_answers_are_read_in_the_forms_that_data_sets_have(given: Any) -> None:
    assert cleaned(asked(given))[0]["answers"] == [{"text": "oslo", "start": 13}]


@pytest.mark.parametrize("given", [None, "", [], {}, {"text": [], "answer_start": []}])
def test_no_answer_is_an_empty_one_in_any_form(given: Any) -> None:
    assert cleaned(asked(given))[0]["answers"] == []


def test_json_lines_and_squad_give_the_same_questions(tmp_path: Path) -> None:
    answers = {"text": ["oslo"], "answer_start": [13]}
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": "who?", "context": CONTEXT, "answers": answers}))
    squad = {"question": "who?", "id": "1", "answers": [{"text": "oslo", "answer_start": 13}]}
    article = {"title": "T", "paragraphs": [{"context": CONTEXT, "qas": [squad]}]}
    (tmp_path / "train.json").write_text(json.dumps({"version": "1.1", "data": [article]}))
    found = []
    for name in ("train.jsonl", "train.json"):
        splits, _ = load_splits(Source(train=str(tmp_path / name), validation=str(tmp_path / name)), QA)
        found.append(cleaned(*splits["train"])[0])
    assert {found[0][name] == found[1][name] for name in ("question", "context", "answers")} == {True}
    assert found[1]["where"].endswith("train.json: 'T', question 1")


def test_an_answer_that_stands_elsewhere_is_skipped_or_moved_and_listed() -> None:
    wrong = asked({"text": ["in"], "answer_start": [24]})  # it stands at 10 and at 27
    gone = asked({"text": ["paris"], "answer_start": [0]}, where="a.json: 'T', question 2")
    half = asked({"text": ["bob", "oslo"], "answer_start": [23, 0]}, where="a.json: 'T', question 3")
    skipped = make().clean([wrong, gone, half], "train")
    assert [record["answers"] for record in skipped.records] == [[{"text": "bob", "start": 23}]]
    assert "answers of 3 questions were skipped" in skipped.notes[0]
    assert "repair=true" in skipped.notes[0]
    assert all(f"question {number}" in skipped.notes[0] for number in (1, 2, 3))
    moved = make(repair=True).clean([wrong, gone, half], "train")
    assert [record["answers"][-1]["start"] for record in moved.records] == [27, 13]
    assert "2 questions had answers moved to their text: a.json: 'T', question 1" in moved.notes[0]
    assert "answers of 1 questions were skipped" in moved.notes[1]
    with pytest.raises(DataError, match="no question is left of 1"):
        cleaned(gone)


def test_an_offset_that_counts_from_the_end_is_wrong() -> None:
    assert "skipped" in make().clean([asked({"text": "rome", "answer_start": -5}), asked(None)], "train").notes[0]


def test_an_id_that_occurs_twice_is_an_error_that_names_both_places() -> None:
    with pytest.raises(DataError, match=r"b:2: the id '7' is that of b:1 already"):
        cleaned(asked(None, id="7", where="b:1"), asked(None, id=7, where="b:2"))
    assert len(cleaned(asked(None), asked(None))) == 2


def test_what_is_no_question_is_refused_with_its_place() -> None:
    for wrong, words in (
        ({"question": " "}, "the question is not a text"),
        ({"context": None}, "the context is missing"),
        ({"answers": {"text": ["a", "b"], "answer_start": [0]}}, "each answer has a text and a start"),
        ({"answers": [{"text": "ada", "answer_start": "0"}]}, "answer_start is the number of a character"),
        ({"answers": [{"text": "ada", "answer_start": True}]}, "answer_start is the number of a character"),
        ({"answers": [3]}, "an answer is an object"),
        ({"answers": [{"answer_start": 0}]}, "the answer is missing"),
    ):
        with pytest.raises(DataError, match=rf"a\.json: 'T', question 1: {words}"):
            cleaned({**asked(None), **wrong})
    with pytest.raises(DataError, match="an input: the context is missing"):
        make().read({"question": "who?"})
    with pytest.raises(DataError, match="reads a question with its context, as an object"):
        make().read("who?")
    assert make().read(["who?", "ada"]) == make().read({"query": "who?", "passage": "ada", "id": 3})


def test_the_questions_of_an_article_stay_together() -> None:
    assert QA.group(asked(None, title="T")) == QA.group(asked(None, context="other", title="T"))
    assert QA.group(asked(None, title="")) == CONTEXT


def test_whether_a_question_may_have_no_answer_is_learnt() -> None:
    known = {"text": "ada", "answer_start": 0}
    assert make().fit(cleaned(asked(known))).options.no_answer == "off"
    assert make().fit(cleaned(asked(known), asked(None))).options.no_answer == "on"
    assert make(no_answer="off").fit(cleaned(asked(known), asked(None))).options.no_answer == "off"
    assert make().describe(cleaned(asked(known), asked(None)))["without an answer"] == 1


# ------------------------------------------------------------------------------------------ windows


def read_off(feature: Feature, context: str) -> str | None:
    """The text that a window's labels name; None for the position of no answer."""
    (start,) = [n for n, label in enumerate(feature.labels) if label > 0 and label & 1]
    (end,) = [n for n, label in enumerate(feature.labels) if label > 0 and label & 2]
    spans = feature.alignment.spans
    if start == end == feature.alignment.null:
        return None
    assert spans[start] is not None
    assert spans[end] is not None
    return context[spans[start][0] : spans[end][1]]


@pytest.mark.parametrize("causal", [False, True])
def test_an_answer_is_labelled_in_each_window_that_holds_the_whole_of_it(causal: bool) -> None:
    context = "the quick brown fox jumps over the lazy dog. " * 4 + "then OSLO wakes."
    answer = {"text": " OSLO ", "answer_start": context.index(" OSLO ")}
    (record,) = cleaned(asked(answer, context))
    features = make(overlap=8).encode(record, Reading(tiny_tokenizer(), 40, causal), labelled=True)
    found = [read_off(feature, context) for feature in features]
    assert len(features) > 5
    assert set(found) == {None, "OSLO"}
    for feature, text in zip(features, found, strict=True):
        assert len(feature.inputs["input_ids"]) <= 40
        assert (text == "OSLO") == any(span and context[slice(*span)] == "O" for span in feature.alignment.spans)
        assert feature.alignment.null == (len(feature.labels) - 1 if causal else 0)
        assert feature.alignment.spans[feature.alignment.null] is None
    unknown = cleaned(asked(None, context))[0]
    assert {
        read_off(feature, context) for feature in make().encode(unknown, Reading(tiny_tokenizer(), 40, causal), True)
    } == {None}


@pytest.mark.parametrize(("most", "kept_empty"), [(0, 0), (1, 1), (2, 2), (3, 3), (100, None)])
def test_a_question_learns_from_a_few_windows_without_its_answer(most: int, kept_empty: int | None) -> None:
    context = "the quick brown fox jumps over the lazy dog. " * 4 + "then OSLO wakes."
    (record,) = cleaned(asked({"text": "OSLO", "answer_start": context.index("OSLO")}, context))
    task = make(overlap=8, empty_windows=most)
    windows = task.encode(record, Reading(tiny_tokenizer(), 40), labelled=True)
    answers = [read_off(window, context) for window in windows]
    sampled = task.sampled_windows(windows)
    places = [windows.index(window) for window in sampled]
    assert places == sorted(places)
    assert [answers[place] for place in places if answers[place]] == [answer for answer in answers if answer]
    empty = [place for place in places if answers[place] is None]
    assert len(empty) == (answers.count(None) if kept_empty is None else kept_empty)
    if kept_empty and kept_empty > 1:
        assert empty[0] < len(windows) / 2 < empty[-1] + 1


def test_a_question_without_an_answer_keeps_a_window() -> None:
    (record,) = cleaned(asked(None, "the quick brown fox jumps over the lazy dog. " * 4))
    for most, number in ((0, 1), (2, 2)):
        task = make(overlap=8, empty_windows=most)
        windows = task.encode(record, Reading(tiny_tokenizer(), 40), labelled=True)
        assert len(windows) > 3
        assert len(task.sampled_windows(windows)) == number


def test_every_token_of_the_context_is_in_a_window_and_windows_overlap() -> None:
    context = "abcdefghij " * 12
    features = make(overlap=6).encode({"question": "who?", "context": context}, Reading(tiny_tokenizer(), 30), False)
    places = [{span[0] for span in feature.alignment.spans if span} for feature in features]
    assert set().union(*places) == {place for place, letter in enumerate(context) if letter != " "}
    assert all(len(one & other) == 6 for one, other in pairwise(places))


def test_an_answer_that_fits_in_no_window_is_learnt_in_part_and_counted() -> None:
    context = "abcdefghij" * 6
    (record,) = cleaned(asked({"text": context[5:55], "answer_start": 5}, context))
    features = make(overlap=4).encode(record, Reading(tiny_tokenizer(), 30), labelled=True)
    parts = [part for part in (read_off(feature, context) for feature in features) if part]
    assert parts
    assert all(part in context[5:55] for part in parts)
    assert sum(feature.cut for feature in features) == 50 - len(parts[0])


def test_a_question_longer_than_half_a_window_is_cut_and_counted() -> None:
    features = make().encode({"question": "a" * 40, "context": "b" * 40}, Reading(tiny_tokenizer(), 30), False)
    assert features[0].cut == 25
    assert max(len(feature.inputs["input_ids"]) for feature in features) <= 30


# --------------------------------------------------------------------------------------- the answer


def test_the_loss_is_that_of_start_and_end_among_the_context_and_no_answer() -> None:
    (record,) = cleaned(asked({"text": "oslo", "answer_start": 13}))
    (feature,) = make().encode(record, Reading(tiny_tokenizer(), 64), labelled=True)
    logits = torch.randn(len(feature.labels), 2, generator=torch.Generator().manual_seed(0))
    own = [0, *(n for n, span in enumerate(feature.alignment.spans) if span)]
    start, end = (own.index(n) for n, label in enumerate(feature.labels) if label > 0)
    wanted = torch.stack(
        [
            functional.cross_entropy(logits[own, 0], torch.tensor(start)),
            functional.cross_entropy(logits[own, 1], torch.tensor(end)),
        ]
    ).mean()
    labels = collate_labels([feature], torch.device("cpu"))
    assert make().loss(logits.unsqueeze(0), labels, None) == pytest.approx(wanted)
    padded = functional.pad(logits, (0, 0, 0, 3), value=50.0).unsqueeze(0)
    assert make().loss(padded, functional.pad(labels, (0, 3), value=-100), None) == pytest.approx(wanted)


def test_the_best_stretch_is_found_as_by_trying_all() -> None:
    task, generator = make(max_answer=4), torch.Generator().manual_seed(1)
    (feature,) = task.encode({"question": "who?", "context": CONTEXT}, Reading(tiny_tokenizer(), 64), False)
    spans = feature.alignment.spans
    for _ in range(20):
        logits = torch.randn(len(spans), 2, generator=generator).double()
        own = [n for n, span in enumerate(spans) if span]
        tried = {
            (spans[i][0], spans[j][1]): float(logits[i, 0] + logits[j, 1] - logits[0].sum())
            for i in own
            for j in own
            if i <= j < i + 4
        }
        worth, start, end, score, none = task.digest(feature, logits).tolist()
        assert worth == pytest.approx(max(tried.values()))
        assert tried[int(start), int(end)] == pytest.approx(worth)
        chances = logits[[0, *own]].softmax(0)
        assert none == pytest.approx(float(chances[0].prod()))
        assert 0 < score < 1


def test_the_answer_is_the_best_of_all_windows_with_its_characters() -> None:
    context = "ab cd ef gh ij kl mn op qr st uv wx yz " * 2 + "oslo lies by the sea."
    record = {"question": "who?", "context": context}
    task = make(overlap=4)
    features = task.encode(record, Reading(tiny_tokenizer(), 30), False)
    start = context.index("oslo")
    inside = [any(span and span[0] == start for span in feature.alignment.spans) for feature in features]
    assert 0 < sum(inside) < len(features)
    digests = [
        task.digest(
            feature, scores(feature, start, start + 4) if holds else torch.zeros(len(feature.inputs["input_ids"]), 2)
        )
        for feature, holds in zip(features, inside, strict=True)
    ]
    found = task.decode(record, features, digests)
    assert (found["answer"], found["start"], found["end"]) == ("oslo", start, start + 4)
    assert context[found["start"] : found["end"]] == found["answer"]
    assert "who? " in task.render(found)
    assert f"[oslo|{found['score']:.2f}] lies by the sea." in task.render(found)
    assert found["score"] > 0.9


def test_a_question_is_left_without_an_answer_beneath_the_threshold() -> None:
    record = {"question": "who?", "context": CONTEXT}
    for options, answer in (({}, "oslo"), ({"no_answer": "on"}, "oslo"), ({"no_answer": "on", "threshold": 20}, None)):
        task = make(**options)
        (feature,) = task.encode(record, Reading(tiny_tokenizer(), 64), False)
        found = task.decode(record, [feature], [task.digest(feature, scores(feature, 13, 17))])
        assert found["answer"] == answer
    assert task.render(found).startswith("who? [no answer|")
    strict = make(no_answer="on")
    against = scores(feature, 13, 17, height=1.0)
    against[0] = 9.0  # the position of no answer
    assert strict.decode(record, [feature], [strict.digest(feature, against)])["answer"] is None
    assert make().decode(record, [feature], [make().digest(feature, against)])["answer"] == "oslo"


def test_the_threshold_that_gives_most_f1_is_learnt_from_validation() -> None:
    known, unknown = asked({"text": "oslo", "answer_start": 13}), asked(None)
    records = cleaned(known, unknown, known, unknown, known)
    task = make(no_answer="on")
    (feature,) = task.encode(records[0], Reading(tiny_tokenizer(), 64), False)

    def worth(value: float) -> list[Tensor]:
        return [task.digest(feature, scores(feature, 13, 17, value / 2))]

    digests = [worth(value) for value in (9, 3, 7, 5, 4)]  # best: answers from 7 on, or from 4 on
    settled = task.settle(records, digests)
    assert settled.options.threshold == pytest.approx(6.0, abs=1e-3)
    found = [settled.decode(record, [feature], own) for record, own in zip(records, digests, strict=True)]
    assert settled.score(records, found)["f1"] == 80.0
    assert make(no_answer="on", threshold=1).settle(records, digests).options.threshold == 1
    assert make(no_answer="off").settle(records, digests).options.threshold is None
    assert task.settle(records[:1], digests[:1]).options.threshold is None


# ------------------------------------------------------------------------------------------ measures


def test_answers_are_compared_as_the_scripts_of_squad_do() -> None:
    assert normalised("  The U.S. and\tan (old) Man's  ") == "us and old mans"
    assert exact_match("the Cat", ["a dog", "cat!"]) == 1
    assert f1("black cat", ["the black dog", "black"]) == pytest.approx(2 / 3)
    assert f1("b b c", ["b c c"]) == pytest.approx(2 / 3)  # each word counts as often as both have it
    assert f1("x", ["y"]) == exact_match("x", ["y"]) == 0
    assert f1("", []) == exact_match("", []) == 1
    assert f1("x", []) == exact_match("x", []) == f1("", ["x"]) == 0
    assert f1("the", []) == 1  # nothing is left of it
    assert f1("x", ["the", "x y"]) == pytest.approx(2 / 3)  # a reference of which nothing is left does not count


def test_the_parts_with_and_without_an_answer_are_told_apart() -> None:
    records = cleaned(asked({"text": ["oslo", "ada"], "answer_start": [13, 0]}), asked(None), asked(None))
    found = [{"answer": "in oslo"}, {"answer": None}, {"answer": "ada"}]
    assert make().score(records, found) == {
        "f1": pytest.approx(100 * (2 / 3 + 1) / 3, abs=0.01),
        "exact_match": 33.33,
        "has_answer_f1": 66.67,
        "has_answer_exact_match": 0.0,
        "no_answer_accuracy": 50.0,
    }
    assert make().score(records[:1], found[:1]) == {"f1": 66.67, "exact_match": 0.0}


# --------------------------------------------------------------------------------------------- whole


def test_answers_are_learnt_stored_and_given(backbone: Backbone, dock: Dock, tmp_path: Path) -> None:
    names = ["ada", "bob", "eve", "joe"]
    for split, shift in (("train", 0), ("validation", 1)):
        lines = []
        for number in range(40):
            name = names[(number + shift) % 4]
            context = " ".join(["it rains", "in the city", f"and {name} 7 sings"][:: -1 if number % 3 else 1])
            start = context.index("7")
            lines.append({"question": "what?", "context": context, "answers": [{"text": "7", "answer_start": start}]})
            lines.append({"question": "what?", "context": context.replace("7", ""), "answers": []})
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = Source(train=str(tmp_path / "train.jsonl"), validation=str(tmp_path / "validation.jsonl"))
    made = plan(
        backbone, "qa", "lora", source, {"epochs": 6, "learning_rate": 2e-2, "method_options": {"roles": "all"}}
    )
    card = train_plan(made, tmp_path / "run").adapter.card
    assert card.metrics["validation"]["f1"] > 80
    assert card.task.options["no_answer"] == "on"
    assert isinstance(card.task.options["threshold"], float)
    docked = dock.dock(read_file(tmp_path / "run" / "best.safetensors"))
    inputs = [["what?", lines[0]["context"]], {"question": "what?", "context": lines[2]["context"]}]
    assert [found["answer"] for found in dock.predict(docked, inputs)] == ["7", "7"]


def test_a_causal_backbone_learns_it_too(tmp_path: Path) -> None:
    made = plan(writing_backbone("llama"), "qa", "lora", Source(), {"epochs": 1})
    result = train_plan(made, tmp_path)
    assert set(result.adapter.card.metrics["test"]) >= {"f1", "has_answer_f1", "no_answer_accuracy"}
    windows = [feature for unit in made.units for feature in unit]
    assert {feature.inputs["input_ids"][-1] for feature in windows} == {2}  # the end has seen all before it
