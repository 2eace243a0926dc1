"""Classic answers that need no backbone, beside an adapter: where they do better, the report says so."""

import json
from pathlib import Path
from typing import Any

import pytest
from sklearn import model_selection
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.training.heads.classic_comparison import beside_classics, classic_answers
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.engine.training.planning.run_plan import RunPlan
from adaptdock.engine.training.train import carry_out
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone
from adaptdock.plugins.toolkit import classic_answers as classic_answers_module
from adaptdock.plugins.toolkit.classic_answers import CHARACTERS, DECISIONS, MOST, bag_of_words, most_frequent_tags
from adaptdock.tasks.classification import Classification

TEXTS = ["good fine food", "a fine day", "good work", "bad food", "a bad day", "poor work"]
LABELS = ["up", "up", "up", "down", "down", "down"]


def test_a_bag_of_words_is_logistic_regression_on_tfidf() -> None:
    asked = ["fine work", "bad work"]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    vectors = words.fit_transform(TEXTS[:2] + TEXTS[3:4])
    model = LogisticRegression(C=10.0, max_iter=300).fit(vectors, ["up", "up", "down"])
    expected = model.predict_proba(words.transform(asked))
    found = bag_of_words(TEXTS[:2] + TEXTS[3:4], ["up", "up", "down"], asked)
    assert found is not None
    assert [row["down"] for row in found] == pytest.approx(expected[:, 0].tolist())
    best = [max(row, key=row.__getitem__) for row in bag_of_words(TEXTS, LABELS, asked) or []]
    assert best == ["up", "down"]


def test_each_of_several_labels_has_a_regression_against_the_others() -> None:
    texts = [f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("car", "house", "tree", "sky")]
    labels = [text.split()[0] for text in texts]
    asked = ["red boat", "a green car", "house of blue"]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    search = GridSearchCV(LogisticRegression(max_iter=300), {"C": [1.0, 10.0, 100.0]}, cv=3, scoring="neg_log_loss")
    joint = search.fit(words.fit_transform(texts), labels).predict_proba(words.transform(asked))
    rows = bag_of_words(texts, labels, asked)
    assert rows is not None
    assert [max(row, key=row.__getitem__) for row in rows] == ["red", "green", "blue"]
    assert [sum(row.values()) for row in rows] == pytest.approx([1.0] * 3)
    assert [[row[name] for name in ("blue", "green", "red")] for row in rows] == [
        pytest.approx(expected, abs=0.1) for expected in joint.tolist()
    ]


def test_strengths_are_compared_on_texts_of_all_labels_in_whatever_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted by label, the first texts alone would have one label."""
    searched: list[list[str]] = []

    class Recorded(GridSearchCV):  # type: ignore[misc]
        def fit(self, vectors: Any, targets: Any) -> Any:
            searched.append(targets.tolist())
            return super().fit(vectors, targets)

    monkeypatch.setattr(model_selection, "GridSearchCV", Recorded)
    monkeypatch.setattr(classic_answers_module, "COMPARED", 6)
    rows = bag_of_words(TEXTS[:3] * 8 + TEXTS[3:] * 4, ["up"] * 24 + ["down"] * 12, ["fine work", "bad work"])
    assert searched == [["down"] * 2 + ["up"] * 4]
    assert [max(row, key=row.__getitem__) for row in rows or []] == ["up", "down"]


def test_a_label_too_rare_for_the_comparison_of_strengths_is_learnt_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(classic_answers_module, "COMPARED", 5)
    texts = [*(f"a fine day {word}" for word in "bcdefghijklmnopqrs"), "bad"]
    rows = bag_of_words(texts, ["down"] * 18 + ["up"], ["bad", "a fine day"])
    assert rows is not None
    assert rows[0]["up"] > rows[1]["up"]


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (["a"] * 3, ["x"] * 3),
        (["!", "?"], ["x", "y"]),
        (["a"] * (MOST + 1), ["x", "y"] * MOST),
        (["a", "b" * CHARACTERS], ["x", "y"]),
        (["a"] * 2_000, [str(number) for number in range(DECISIONS // 2_000 + 1)] * 5),
    ],
    ids=["one label", "no words", "many texts", "long texts", "many labels"],
)
def test_a_bag_of_words_of_one_label_no_words_or_too_much_work_is_left_out(texts: list[str], labels: list[str]) -> None:
    assert bag_of_words(texts, labels[: len(texts)], ["a"]) is None


def test_a_word_gets_its_most_frequent_tag_and_an_unknown_word_the_commonest() -> None:
    sentences = [(["Ada", "ran"], ["B-PER", "O"]), (["ada", "sat"], ["B-PER", "O"]), (["ADA", "fell"], ["O", "O"])]
    assert most_frequent_tags(sentences, [["Ada", "ran", "home"]]) == [["B-PER", "O", "O"]]


@pytest.mark.parametrize("name", ["classification", "pair", "ner", "pos", "chunking"])
def test_a_task_scores_its_classic_answers_to_its_sample(name: str) -> None:
    task = registry.load("task", name)
    splits, _ = load_splits(Source(), task)
    blank = task(task.Options())
    records = {split: blank.clean(rows, split).records for split, rows in splits.items()}
    fitted = blank.fit(records["train"])
    classics = classic_answers(fitted, records["train"], records["test"])
    for answers in classics.values():
        assert fitted.score(records["test"], answers)[task.metric] > fitted.baseline(records["test"])[task.metric]
    assert classics


def test_the_most_frequent_tags_of_words_become_legal_tags() -> None:
    task = registry.load("task", "ner")(registry.load("task", "ner").Options(labels=("LOC",)))
    train = [{"tokens": ["The", "Hague"], "tags": ["B-LOC", "I-LOC"]}, {"tokens": ["the", "sea"], "tags": ["O", "O"]}]
    records = [{"tokens": ["Hague", "sea"], "tags": ["B-LOC", "O"]}]
    classics = classic_answers(task, train, records)
    assert classics["the most frequent tag of each word"][0]["tags"] in (["B-LOC", "O"], ["O", "O"])
    assert beside_classics(task, records, [{"tags": ["B-LOC", "O"]}], classics, "4 folds")["classic"]["f1"] == 100


def carried_out(training_plan: Plan, folder: Path, **options: Any) -> Result:
    """Train one task with everything that a run of few labels does."""
    (result,) = carry_out(RunPlan.of(training_plan), folder, **options).values()
    return result


def answer(label: str) -> dict[str, Any]:
    return {"label": label, "score": 1.0, "scores": {label: 1.0}}


def test_a_classic_answer_is_better_only_beyond_a_standard_error() -> None:
    task = Classification(Classification.Options(labels=("x", "y")))
    records = [{"text": "a", "label": "x"}] * 30
    right, wrong = answer("x"), answer("y")
    adapter = [right] * 20 + [wrong] * 10
    better = beside_classics(task, records, adapter, {"a rule": [right] * 28 + [wrong] * 2}, "4 folds")["classic"]
    assert better["better"].startswith("A simpler answer is better than this adapter: a rule reaches accuracy 93.33")
    assert better["methods"] == {"a rule": 93.33}
    near = beside_classics(task, records, adapter, {"a rule": [wrong] * 9 + [right] * 21}, "4 folds")["classic"]
    assert near["better"] is None
    assert beside_classics(task, records, adapter, {}, "4 folds") == {}


def test_the_verdict_of_a_run_begins_with_the_classic_answer_that_is_better(backbone: Backbone, tmp_path: Path) -> None:
    """Each text has one word of its class among random ones; two steps at a rate of nearly 0 teach nothing of them."""
    words = "abcdefghijklmnop"
    rows = [
        {"text": f"{words[n % 7]} {words[n % 11]} {'ada' if n % 2 else 'bob'}", "label": "xy"[n % 2]} for n in range(48)
    ]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"epochs": 1, "learning_rate": 1e-9, "head_start": "random"}
    training_plan = plan(backbone, "classification", "lora", Source(train=str(file)), options)
    result = carried_out(training_plan, tmp_path / "run")
    verdict = result.report(tmp_path / "run", training_plan)
    assert verdict[0].startswith("A simpler answer is better than this adapter: logistic regression on TF-IDF")
    assert json.loads((tmp_path / "run/metrics.json").read_text())["verdict"] == verdict
    assert result.adapter.card.training["classic"]["where"] == "4 folds"
