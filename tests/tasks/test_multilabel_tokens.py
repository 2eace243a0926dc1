"""The multilabel-tokens task: forms of data, the loss, predictions and metrics beside scikit-learn's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_tokenizer
from sklearn.metrics import precision_recall_fscore_support
from torch.nn import functional

from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import DataError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan
from adaptdock.plugins.contracts import Backbone, Reading
from adaptdock.tasks.multilabel_tokens import MultilabelTokens

TOKENS = ["She", "sings", "songs"]
LABELS = [["Case=Nom", "Number=Sing"], [], ["Number=Plur"]]
NAMES = ("Case=Nom", "Number=Plur", "Number=Sing")


def make(**options: Any) -> MultilabelTokens:
    return MultilabelTokens(MultilabelTokens.Options(**options))


def clean(labels: Any, **options: Any) -> Any:
    row = {"where": "a:1", "tokens": TOKENS, "labels": labels}
    return make(**options).clean([row], "train").records[0]["labels"]


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (LABELS, {}),
        (["Case=Nom|Number=Sing", "_", "Number=Plur"], {}),
        (["Number=Sing|Case=Nom", "O", "Number=Plur"], {}),
        ("Case=Nom|Number=Sing _ Number=Plur", {}),
        ("[['Case=Nom', 'Number=Sing'], [], ['Number=Plur']]", {}),
        (["Case=Nom,Number=Sing", "", "Number=Plur"], {"label_separator": ","}),
    ],
)
def test_every_form_of_data_gives_the_same_labels(labels: Any, options: dict[str, Any]) -> None:
    assert clean(labels, **options) == LABELS


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:2], "3 tokens but labels for 2"),
        ([[1], [], []], "a list of names"),
        ([["A"], None, []], "a list of names"),
        (5, "labels are a list"),
    ],
)
def test_data_that_says_something_else_is_refused_with_its_place(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"a:1: .*{message}"):
        clean(labels)


def test_conllu_is_read_from_its_column_of_features(tmp_path: Path) -> None:
    rows = [
        f"{n}\t{token}\t_\t_\t_\t{'|'.join(labels) or '_'}\t_\t_\t_\t_"
        for n, (token, labels) in enumerate(zip(TOKENS, LABELS, strict=True), 1)
    ]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.conllu").write_text("\n".join(rows) + "\n\n")
    splits, _ = load_splits(Source(data=str(tmp_path)), MultilabelTokens)
    assert make().clean(splits["train"], "train").records[0]["labels"] == LABELS


def test_a_word_has_the_labels_of_all_marked_spans_around_it() -> None:
    raw = MultilabelTokens.annotated(
        AnnotatedText("mayor of Porto", "a:1", (LabelledSpan(0, 14, "ROLE"), LabelledSpan(9, 14, "LOC")))
    )
    assert raw is not None
    record = make().clean([{"where": "a:1", **raw}], "train").records[0]
    assert record["labels"] == [["ROLE"], ["ROLE"], ["LOC", "ROLE"]]


def test_the_loss_is_the_binary_cross_entropy_of_the_words_alone() -> None:
    task = make(labels=NAMES, division="spaces")
    record = {"tokens": TOKENS, "labels": LABELS}
    (feature,) = task.encode(record, Reading(tiny_tokenizer(), 64), labelled=True)
    size = len(feature.inputs["input_ids"])
    logits = torch.randn(1, size, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    words = logits[0, [position for _, position in feature.alignment]]
    expected = functional.binary_cross_entropy_with_logits(words, targets, reduction="sum") / 3
    torch.testing.assert_close(task.loss(logits, torch.tensor([feature.labels]), None), expected)


def test_a_word_gets_each_label_above_the_threshold() -> None:
    task = make(labels=NAMES, division="spaces")
    record = task.read("She sings songs")
    features = task.encode(record, Reading(tiny_tokenizer(), 64), labelled=False)
    logits = torch.full((len(features[0].inputs["input_ids"]), 3), -9.0)
    logits[features[0].alignment[0][1]] = torch.tensor([9.0, -9.0, 0.5])
    prediction = task.decode(record, features, [logits])
    assert [word["labels"] for word in prediction["words"]] == [["Case=Nom", "Number=Sing"], [], []]
    assert prediction["words"][0]["scores"]["Number=Sing"] == pytest.approx(0.6225, abs=1e-4)
    assert task.render(prediction) == "She/Case=Nom|Number=Sing sings songs"


def test_metrics_are_those_of_scikit_learn() -> None:
    task = make(labels=NAMES)
    answers = [["Case=Nom"], ["Number=Plur"], ["Number=Plur"]]
    records, predictions = [{"tokens": TOKENS, "labels": LABELS}], [{"words": [{"labels": names} for names in answers]}]
    gold, predicted = ([[name in labels for name in NAMES] for labels in side] for side in (LABELS, answers))
    expected = precision_recall_fscore_support(gold, predicted, average="micro", zero_division=0)
    metrics = task.score(records, predictions)
    assert [metrics[name] for name in ("precision", "recall", "f1")] == pytest.approx(
        [round(100 * x, 2) for x in expected[:3]]
    )
    assert metrics["exact"] == pytest.approx(33.33)
    assert metrics["by_label"]["Number=Sing"] == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "support": 1}
    assert task.of_sums(task.sums(records[0], predictions[0])) == pytest.approx(metrics["f1"], abs=0.01)


def test_labels_that_training_has_not_seen_count_as_missed() -> None:
    task = make(labels=NAMES[:2])
    record = {"tokens": TOKENS, "labels": LABELS}
    assert task.unknown([record]) == {"Number=Sing": 1}
    assert task.score([record], [{"words": [{"labels": []}] * 3}])["by_label"]["Number=Sing"]["support"] == 1


def test_the_sample_is_learnt_saved_and_used(backbone: Backbone, dock: Dock, tmp_path: Path) -> None:
    options = {"epochs": 1, "learning_rate": 1e-2, "min_steps": 0, "target_steps": 0}
    made = plan(backbone, "multilabel-tokens", "lora", Source(), options)
    result = train_plan(made, tmp_path)
    adapter = dock.dock(read_file(result.file))
    answer = dock.predict(adapter, ["The cats saw a dog."])[0]
    assert [word["text"] for word in answer["words"]] == ["The", "cats", "saw", "a", "dog", "."]
    json.dumps(answer)
    assert result.adapter.card.probes is not None
