"""The spans task: forms of data, the loss of each span, windows, thresholds, overlaps, exact metrics."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_tokenizer
from torch.nn import functional

from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import DataError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan
from adaptdock.plugins.contracts import Backbone, Reading
from adaptdock.tasks.spans import Spans

TOKENS = ["The", "mayor", "of", "Porto", "spoke"]
NESTED = [(1, 4, "ROLE"), (3, 4, "LOC")]
LABELS = ("LOC", "ROLE")
READING = Reading(tiny_tokenizer(), 64)


def make(**options: Any) -> Spans:
    return Spans(Spans.Options(**options))


def fitted(**options: Any) -> Spans:
    return make(**options).fit([{"where": "a:1", "tokens": TOKENS, "ranges": NESTED}])


def clean(*rows: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    return make(**options).clean([{"where": f"a:{n}", **row} for n, row in enumerate(rows, 1)], "train").records


FORMS: dict[str, dict[str, Any]] = {
    "GLiNER": {"tokenized_text": TOKENS, "ner": [[1, 3, "ROLE"], [3, 3, "LOC"]]},
    "SpERT": {
        "tokens": [*TOKENS[:4]],
        "entities": [{"type": "ROLE", "start": 1, "end": 4}, {"type": "LOC", "start": 3, "end": 4}],
    },
    "two columns of tags": {
        "tokens": TOKENS,
        "tags": ["O", "B-ROLE", "I-ROLE", "I-ROLE", "O"],
        "inner": ["O", "O", "O", "B-LOC", "O"],
    },
    "spans of characters": {
        "text": "The mayor of Porto spoke",
        "spans": [{"start": 4, "end": 18, "label": "ROLE"}, {"start": 13, "end": 18, "label": "LOC"}],
    },
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_data_gives_the_same_spans(name: str, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(FORMS[name]) + "\n")
    splits, _ = load_splits(Source(data=str(tmp_path)), Spans)
    (record,) = make().clean(splits["train"], "train").records
    assert record["ranges"] == NESTED
    assert make().labels(splits["train"][0]) in (list(LABELS), ["B-ROLE", "I-ROLE"])


def test_ends_that_may_be_either_are_not_guessed() -> None:
    row = {"tokens": TOKENS, "ranges": [[1, 3, "ROLE"]]}
    with pytest.raises(DataError, match=r"\[1, 3, 'ROLE'\] at a:1: say which with --word-ends"):
        clean(row)
    assert clean(row, word_ends="inclusive")[0]["ranges"] == [(1, 4, "ROLE")]
    assert clean(row, word_ends="exclusive")[0]["ranges"] == [(1, 3, "ROLE")]
    with pytest.raises(DataError, match="contradict each other"):
        clean({"tokens": TOKENS, "ranges": [[1, 1, "A"], [3, 5, "B"]]})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": TOKENS, "ranges": [[1, 1, "A"], [3, 7, "B"]]}, "is not in its sentence of 5 words"),
        ({"tokens": TOKENS, "ranges": [[-1, -1, "A"]]}, "is not in its sentence"),
        ({"tokens": TOKENS, "ranges": [[1, "2", "A"]]}, "labelled spans of words are"),
        ({"tokens": TOKENS, "ranges": [[1, 1]]}, "labelled spans of words are"),
        ({"tokens": TOKENS, "ranges": None}, "labelled spans of words are"),
        ({"tokens": TOKENS, "ranges": ["O", "O"]}, "5 tokens but 2 tags"),
        ({"tokens": TOKENS, "ranges": ["O", "B-A", None, "O", "O"]}, "1 words have no tag"),
    ],
)
def test_data_that_says_something_else_is_refused_with_its_place(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"a:1: .*{message}"):
        clean(row)


def test_marked_spans_that_overlap_all_keep_their_characters() -> None:
    marks = (LabelledSpan(4, 18, "ROLE"), LabelledSpan(13, 18, "LOC"), LabelledSpan(15, 24, "ODD"))
    raw = Spans.annotated(AnnotatedText("The mayor of Porto spoke", "a:1", marks))
    assert raw is not None
    cleaned = make().clean([{"where": "a:1", **raw}], "train")
    record = cleaned.records[0]
    extents = {(record["spans"][f][0], record["spans"][e - 1][1], label) for f, e, label in record["ranges"]}
    assert extents == {(4, 18, "ROLE"), (13, 18, "LOC"), (15, 24, "ODD")}
    assert "1 spans begin or end within a word" in cleaned.notes[0]


def test_labels_lengths_and_overlaps_are_learnt() -> None:
    task = fitted()
    assert (task.options.labels, task.options.span_words, task.options.overlap) == (LABELS, 3, "nested")
    flat = make().fit([{"tokens": TOKENS, "ranges": [(1, 4, "ROLE")]}])
    assert flat.options.overlap == "none"
    long = make(span_words=2).fit([{"tokens": TOKENS, "ranges": NESTED}])
    assert "1 training spans have more than 2 words" in long.notes()[-1]
    with pytest.raises(DataError, match="no labelled span"):
        make().fit([{"tokens": TOKENS, "ranges": []}])


def test_the_loss_is_the_binary_cross_entropy_of_the_spans_within_the_sentence() -> None:
    task = fitted()
    labels = torch.tensor([[5, 1, 2, 1, 3, 0, 0], [2, -100, -100, -100, -100, -100, -100]])
    logits = torch.randn(2, 6, 3, 2, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(())
    for row, count in ((0, 5), (1, 2)):
        for first in range(count):
            for more in range(min(3, count - first)):
                for label in range(2):
                    hit = row == 0 and (first, more, label) in {(1, 2, 1), (3, 0, 0)}
                    total += functional.binary_cross_entropy_with_logits(
                        logits[row, first, more, label], torch.tensor(float(hit))
                    )
    torch.testing.assert_close(task.loss(logits, labels, None), total / 7)


def encoded(task: Spans, record: dict[str, Any], reading: Reading = READING) -> Any:
    return task.encode(record, reading, labelled="ranges" in record)


def digest_of(task: Spans, features: Any, spans: dict[tuple[int, int, str], float]) -> list[torch.Tensor]:
    """Digests of logits that give these spans of words their probability, and all others about zero."""
    digests = []
    for feature in features:
        size = len(feature.inputs["input_ids"])
        logits = torch.full((size, task.options.span_words, len(task.options.labels)), -20.0)
        words = feature.alignment.words
        for (first, end, label), probability in spans.items():
            if first in words and end - 1 in words:
                place = words.index(first), end - 1 - first, task.options.labels.index(label)
                logits[place] = torch.tensor(probability).logit()
        digests.append(task.digest(feature, logits))
    return digests


def test_labels_of_a_window_name_its_words_and_spans() -> None:
    record = {"tokens": TOKENS, "ranges": NESTED}
    (feature,) = encoded(fitted(), record)
    assert feature.labels == [5, 1, 2, 1, 3, 0, 0]
    assert feature.row_inputs["firsts"] == [1, 4, 9, 11, 16]
    assert feature.row_inputs["lasts"] == [3, 8, 10, 15, 20]


def test_predicted_spans_may_contain_each_other_and_have_the_offsets_of_the_text() -> None:
    task = fitted()
    record = task.read("The  mayor of Porto spoke")
    features = encoded(task, record)
    prediction = task.decode(
        record, features, digest_of(task, features, {(1, 4, "ROLE"): 0.9, (3, 4, "LOC"): 0.8, (0, 2, "LOC"): 0.7})
    )
    assert [(span["text"], span["label"], span["start"], span["end"]) for span in prediction["spans"]] == [
        ("mayor of Porto", "ROLE", 5, 19),
        ("Porto", "LOC", 14, 19),
    ]
    assert task.render(prediction) == "The  [mayor of [Porto|LOC]|ROLE] spoke"
    flat = fitted(overlap="none")
    assert [
        span["label"]
        for span in flat.decode(record, features, digest_of(flat, features, {(1, 4, "ROLE"): 0.8, (3, 4, "LOC"): 0.9}))[
            "spans"
        ]
    ] == ["LOC"]


def test_each_span_of_a_long_text_is_read_in_one_window() -> None:
    task = fitted()
    record = {"tokens": ["ab"] * 40}
    features = encoded(task, record, Reading(tiny_tokenizer(), 32))
    assert len(features) > 2
    spans = {(first, first + size, "LOC"): 0.9 for first in range(40) for size in (1, 2, 3) if first + size <= 40}
    rows = [tuple(row) for digest in digest_of(task, features, spans) for row in digest.tolist()]
    assert sorted((int(first), int(end)) for first, end, *_ in rows) == sorted((first, end) for first, end, _ in spans)


def test_the_threshold_is_the_one_with_the_best_f1() -> None:
    task = fitted(overlap="any")
    record = {"tokens": TOKENS, "ranges": NESTED}
    features = encoded(task, record)
    digests = digest_of(task, features, {(1, 4, "ROLE"): 0.4, (3, 4, "LOC"): 0.35, (0, 1, "LOC"): 0.25})
    settled = task.settle([record], [digests])
    assert settled.options.threshold == pytest.approx(0.3, abs=1e-3)
    assert settled.score([record], [settled.decode(record, features, digests)])["f1"] == 100.0
    assert task.score([record], [task.decode(record, features, digests)])["f1"] == 0.0


def test_metrics_count_exact_spans_and_the_recall_of_overlapping_ones() -> None:
    task = fitted()
    record = {"tokens": TOKENS, "ranges": NESTED}
    spans = [
        {"start": 4, "end": 18, "label": "ROLE", "text": "", "score": 0.9},
        {"start": 0, "end": 3, "label": "LOC", "text": "", "score": 0.9},
    ]
    metrics = task.score([record], [{"spans": spans}])
    assert (metrics["f1"], metrics["precision"], metrics["recall"]) == (50.0, 50.0, 50.0)
    assert metrics["overlapping"] == {"recall": 50.0, "support": 2}
    assert metrics["by_label"]["ROLE"] == {"f1": 100.0, "precision": 100.0, "recall": 100.0, "support": 1}
    assert task.of_sums(task.sums(record, {"spans": spans})) == 50.0


def test_the_report_draws_overlapping_spans_in_layers() -> None:
    task = fitted()
    outcome = task.outcome({"tokens": TOKENS, "ranges": NESTED}, {"text": " ".join(TOKENS), "spans": []})
    assert [passage.title for passage in outcome.passages] == ["expected", "expected, layer 2", "predicted"]
    assert [mark.label for passage in outcome.passages for mark in passage.marks] == ["ROLE", "LOC"]
    assert outcome.error == 2


def test_the_sample_is_learnt_saved_and_used(backbone: Backbone, dock: Dock, tmp_path: Path) -> None:
    made = plan(
        backbone, "spans", "lora", Source(), {"epochs": 1, "learning_rate": 1e-2, "min_steps": 0, "target_steps": 0}
    )
    result = train_plan(made, tmp_path)
    task = result.adapter.card.task
    assert task.options["overlap"] == "nested"
    adapter = dock.dock(read_file(result.file))
    answer = dock.predict(adapter, ["The mayor of Porto spoke."])[0]
    assert answer["text"] == "The mayor of Porto spoke."
    assert result.adapter.card.probes is not None


def test_a_batch_without_any_labelled_span_has_a_loss() -> None:
    logits = torch.zeros(2, 4, 3, 2)
    loss = fitted().loss(logits, torch.tensor([[4], [3]]), None)
    torch.testing.assert_close(loss, torch.tensor(2.0).log() * 2 * (4 + 3 + 2 + 3 + 2 + 1) / 7)


def test_tags_of_another_scheme_and_repaired_ones_are_said() -> None:
    row = {"where": "a:1", "tokens": TOKENS, "ranges": ["O", "S-A", "B-B", "E-B", "I-A"]}
    cleaned = make().clean([row], "train")
    assert cleaned.records[0]["ranges"] == [(1, 2, "A"), (2, 4, "B"), (4, 5, "A")]
    assert cleaned.notes == [
        "train: tags of ranges read as BIOES",
        "train: 1 tags of ranges repaired that no BIOES sequence can have",
    ]
