"""The head fitted on frozen vectors: what it starts from, what it is compared with, and what is saved."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.heads import head_fit
from adaptdock.engine.training.heads.head_fit import fit_heads
from adaptdock.engine.training.loop.run import run_of, train_plan
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.plugins.contracts import Backbone


def topics(folder: Path, count: int = 30, labels: Any = ("x", "y")) -> str:
    """Texts whose first word tells the label, as a file."""
    words = ("ada", "bob")
    rows = [
        {"text": f"{words[n % 2]} {'the ' * (n % 3)}{'abcdefgh'[n % 8]}", "label": labels[n % 2]} for n in range(count)
    ]
    file = folder / f"{count}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def made(backbone: Backbone, folder: Path, task: str = "classification", method: str = "lora", **options: Any) -> Plan:
    labels = (1.0, 2.5) if task == "regression" else (["x"], ["x", "y"]) if options.pop("sets", 0) else ("x", "y")
    file = topics(folder, labels=labels)
    own = {"multi_label": True} if isinstance(labels[0], list) else {}
    given = {"epochs": 1, "batch_size": 8, **options}
    return plan(backbone, task, method, Source(train=file, validation=file), given, None, own)


def test_the_start_is_logistic_regression_on_the_mean_states(backbone: Backbone, tmp_path: Path) -> None:
    own = made(backbone, tmp_path)
    run = run_of(own, tmp_path / "run")
    (start,) = run.members.trainable().tensors()
    with Dock(backbone) as dock, torch.inference_mode():
        answers = []
        for unit in own.units:
            ids = torch.tensor([unit[0].inputs["input_ids"]])
            answers.append(dock.backbone.model(ids).last_hidden_state.mean(1).squeeze(0))
    scaled = torch.stack(answers)
    scaled = scaled / scaled.pow(2).mean(-1, keepdim=True).sqrt()  # the head reads directions
    vectors = scaled.double().numpy()
    labels = [unit[0].labels for unit in own.units]
    centred = vectors - vectors.mean(0)
    centred /= (centred**2).sum(1).__pow__(0.5).mean()
    expected = torch.tensor(LogisticRegression(C=1.0, max_iter=1000).fit(centred, labels).predict_proba(centred))
    found = scaled @ start["head.weight"].T + start["head.bias"]
    assert torch.allclose(found.softmax(-1).double(), expected, atol=5e-3)


@pytest.mark.parametrize("method", ["lora", "bottleneck", "prefix", "features"])
@pytest.mark.parametrize(
    ("task", "more"), [("classification", {}), ("classification", {"sets": 1}), ("regression", {})]
)
def test_a_head_is_fitted_for_every_task_of_a_text(
    backbone: Backbone, tmp_path: Path, task: str, more: dict[str, Any], method: str
) -> None:
    own = made(backbone, tmp_path, task, method, **more)
    run = run_of(own, tmp_path / "run")
    run.members.begin_with(run.members.trainable().tensors())
    (single,) = run.members.tasks
    answer = single.fitted_answer()
    assert answer is not None
    assert single.measured(answer, own.records["validation"]).metrics[type(own.task).metric] > 90


def test_a_head_is_fitted_on_words_wherever_windows_end(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    own = plan(backbone, "ner", "lora", Source(data=str(data)), {"epochs": 1, "max_length": 8})
    run = run_of(own, tmp_path / "run")
    run.members.begin_with(run.members.trainable().tensors())
    (single,) = run.members.tasks
    answer = single.fitted_answer()
    assert answer is not None
    assert (
        single.measured(answer, own.records["validation"]).metrics["f1"] > 85
    )  # the words are told by their embeddings


LABELS = {"ada": ["person", "woman"], "bob": ["person"], "runs": ["verb"], "sings": ["verb", "sound"]}


def test_a_head_with_several_labels_a_word_is_fitted_on_words_wherever_windows_end(
    backbone: Backbone, tmp_path: Path
) -> None:
    sentences = [
        [("ada", "bob")[n % 2], "runs", "in", "the", "rain", "and", ("sings", "ada")[n % 3 > 0]] for n in range(24)
    ]
    rows = [{"tokens": words, "labels": [LABELS.get(word, []) for word in words]} for words in sentences]
    file = tmp_path / "words.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(train=str(file), validation=str(file))
    own = plan(backbone, "multilabel-tokens", "lora", source, {"epochs": 1, "max_length": 6})
    run = run_of(own, tmp_path / "run")
    run.members.begin_with(run.members.trainable().tensors())
    (single,) = run.members.tasks
    answer = single.fitted_answer()
    assert answer is not None
    assert single.measured(answer, own.records["validation"]).metrics["exact"] == 100  # embeddings tell the words


def test_a_head_of_spans_is_fitted_on_the_spans_of_each_window(backbone: Backbone, tmp_path: Path) -> None:
    sentences = [
        [("ada", "bob")[n % 2], "runs", "in", "the", "rain", "and", ("sings", "ada")[n % 3 > 0]] for n in range(24)
    ]
    spans = [[[word, word + 1, "PER"] for word in (0, 6) if words[word] in ("ada", "bob")] for words in sentences]
    rows = [
        {"tokens": words, "ranges": [*ranges, [2, 5, "PLACE"]]} for words, ranges in zip(sentences, spans, strict=True)
    ]
    file = tmp_path / "spans.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source, own_options = Source(train=str(file), validation=str(file)), {"word_ends": "exclusive"}
    own = plan(backbone, "spans", "lora", source, {"epochs": 1}, None, own_options)
    run = run_of(own, tmp_path / "run")
    run.members.begin_with(run.members.trainable().tensors())
    (single,) = run.members.tasks
    answer = single.fitted_answer()
    assert answer is not None
    assert single.measured(answer, own.records["validation"]).metrics["f1"] > 95


@pytest.mark.parametrize(
    ("options", "task_options"), [({"head_start": "random"}, {}), ({}, {"hidden_layers": ["tanh"]})]
)
def test_a_head_with_layers_before_its_map_or_where_it_is_asked_for_starts_at_random(
    backbone: Backbone, tmp_path: Path, options: dict[str, Any], task_options: dict[str, Any]
) -> None:
    file = topics(tmp_path)
    source = Source(train=file, validation=file)
    own = plan(backbone, "classification", "lora", source, {"epochs": 1, **options}, None, task_options)
    assert own.options.head_start == own.summary()["options"]["head_start"] == "random"
    run = run_of(own, tmp_path / "run")
    weight = run.members.trainable().tensors()[0]["head.weight"]
    assert run.members.tasks[0].heads is None
    assert 0.01 < weight.std() < 0.03


def test_the_fitted_head_is_saved_where_training_is_no_better(backbone: Backbone, tmp_path: Path) -> None:
    own = made(backbone, tmp_path, learning_rate=1.0)  # which ruins every weight
    result = train_plan(own, tmp_path / "run")
    head = result.adapter.card.training["fitted_head"]
    assert head["kept"]
    assert result.adapter.card.metrics["validation"]["accuracy"] == head["validation"]["accuracy"] == 100
    assert result.adapter.card.training["best_epoch"] == 0
    assert not any(tensor.any() for name, tensor in result.adapter.tensors.items() if name.endswith("lora_b"))
    assert result.shortfall == ""


def test_the_fitted_head_that_is_saved_has_seen_the_records_held_out_too(backbone: Backbone, tmp_path: Path) -> None:
    file = topics(tmp_path, 240)
    options = {"epochs": 1, "batch_size": 32, "learning_rate": 1.0, "seed": 3}
    divided = plan(backbone, "classification", "lora", Source(train=file), options)
    assert divided.held_out
    result = train_plan(divided, tmp_path / "divided")
    head = result.adapter.card.training["fitted_head"]
    assert head["kept"]
    assert head["validation"]["accuracy"] == result.adapter.card.metrics["validation"]["accuracy"]
    whole = plan(backbone, "classification", "lora", Source(train=file, validation=file), options)
    whole.records["train"] = [*divided.records["train"], *divided.records["validation"]]
    assert not whole.held_out
    expected = train_plan(whole, tmp_path / "whole").adapter
    for name in ("head.weight", "head.bias"):
        assert torch.allclose(result.adapter.tensors[name].float(), expected.tensors[name].float(), atol=2e-2)


def test_the_trained_adapter_is_saved_where_it_is_better(backbone: Backbone, tmp_path: Path) -> None:
    """Two words in either order: no linear map of the mean state tells the order well, an adapter does."""
    rows = [{"text": f"{a} {b}", "label": "x" if a < b else "y"} for a in "abcdef" for b in "abcdef" if a != b]
    file = tmp_path / "order.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(train=str(file), validation=str(file))
    options = {"epochs": 30, "learning_rate": 2e-2, "batch_size": 10}
    own = plan(backbone, "classification", "lora", source, options, {"roles": "all"})
    result = train_plan(own, tmp_path / "run")
    head = result.adapter.card.training["fitted_head"]
    assert not head["kept"]
    assert result.adapter.card.metrics["validation"]["accuracy"] >= head["validation"]["accuracy"]
    assert any(tensor.any() for name, tensor in result.adapter.tensors.items() if name.endswith("lora_b"))


def test_a_fit_gives_the_same_head_each_time(backbone: Backbone, tmp_path: Path) -> None:
    own = made(backbone, tmp_path)
    run = run_of(own, tmp_path / "run")
    members = run.members
    acting = members.trainable().acting[0]
    one, other = (fit_heads(own, members.dock.ports, acting) for _ in range(2))
    assert one is not None
    assert other is not None
    assert all(torch.equal(tensor, other.answer[name]) for name, tensor in one.answer.items())


def test_records_with_many_words_are_read_until_there_are_enough_vectors(
    backbone: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = plan(backbone, "ner", "lora", Source(data=str(data)), {"epochs": 1})
    members = run_of(own, tmp_path / "run").members
    monkeypatch.setattr(head_fit, "SHARE", len(own.given) // 3)
    monkeypatch.setattr(head_fit, "VECTORS", 1)
    fitted = fit_heads(own, members.dock.ports, members.trainable().acting[0])
    assert fitted is not None
    assert fitted.read is not None
    read = sorted({number for number, _, _ in fitted.read.sources})
    assert read[0] == 0
    assert read[-1] >= len(own.given) - 4  # from the whole of the data
    assert len(own.given) // 4 <= len(read) <= len(own.given) // 2
