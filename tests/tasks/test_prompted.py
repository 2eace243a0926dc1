"""Classification by prompts: the language model's own logits at the words, before any training and after some."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from writers import writing_backbone

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.core.batches import reading
from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import BackboneError, DataError, UsageError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins.contracts import Backbone

ROWS = [{"text": "the cat sat on the mat", "label": "land"}, {"text": "a text about the sea", "label": "water"}] * 4
WORDS = "land=the,water=a|is"
SHORT = "land=l,water=w|s"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return tmp_path


def run(backbone: Backbone, rows: Path, method: str = "lora", epochs: int = 1, **options: Any) -> Result:
    given = {"verbalizer": WORDS, "template": "{text} is", **options}
    training = {"epochs": epochs, "batch_size": 4, "learning_rate": 1e-2, "patience": 0}
    return train_plan(plan(backbone, "prompted", method, Source(data=str(rows)), training, {}, given), rows / "run")


def logits(backbone: Backbone, file: Path, text: str) -> torch.Tensor:
    dock = Dock(backbone)
    name = dock.load(file)
    task = dock.assembly(name).task
    (feature,) = task.encode(task.read(text), dock.reading(128), labelled=False)
    with dock.boarding([name]) as aboard:
        (found,) = dock.run(aboard, [feature])
    dock.close()
    return task.digest(feature, found)


def test_without_training_the_logits_are_those_of_the_language_model_at_the_words(rows: Path) -> None:
    backbone = writing_backbone("llama")
    result = run(backbone, rows, "features")
    assert result.adapter.tensors == {}
    tokenizer = backbone.tokenizer
    inputs = tokenizer("the sea is", return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        whole = backbone.generator(**inputs).logits[0, -1]
    the, a, i_s = (tokenizer(word)["input_ids"][0] for word in (" the", " a", " is"))
    expected = torch.stack([whole[the], (whole[a] + whole[i_s]) / 2])
    torch.testing.assert_close(logits(backbone, result.file, "the sea"), expected, atol=1e-5, rtol=1e-4)


def test_what_has_no_weights_is_measured_and_stored_as_it_is(rows: Path) -> None:
    result = run(writing_backbone("llama"), rows, "features")
    assert (result.ending, result.epochs) == ("complete", 0)
    metrics = result.adapter.card.metrics
    assert metrics["before"]["accuracy"] == metrics["validation"]["accuracy"] == metrics["test"]["accuracy"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_few_examples_are_learnt_and_validation_tells_what_the_bare_model_does(architecture: str, rows: Path) -> None:
    backbone = writing_backbone(architecture)
    options = {"verbalizer": "land=l,water=w|s", "template": "{text}:"} if architecture == "t5" else {}
    result = run(backbone, rows, epochs=12, **options)
    metrics = result.adapter.card.metrics
    assert metrics["validation"]["accuracy"] == 100
    assert "accuracy" in metrics["before"]
    found = Dock(backbone)
    name = found.load(result.file)
    assert found.predict(name, [row["text"] for row in ROWS[:2]])[1]["label"] == "water"


def test_a_masked_model_fills_the_blank_with_a_word_of_the_class(backbone: Backbone, rows: Path) -> None:
    result = run(backbone, rows, epochs=12, verbalizer=SHORT, template="{text} it is [MASK].")
    card = read_file(result.file).card
    assert card.metrics["validation"]["accuracy"] == 100
    tokenizer = backbone.tokenizer
    assert card.task.options["words"] == {
        "land": [tokenizer.convert_tokens_to_ids("l")],
        "water": [tokenizer.convert_tokens_to_ids("w"), tokenizer.convert_tokens_to_ids("s")],
    }
    task = make_task("prompted", card.task.options)
    (feature,) = task.encode(task.read("a [MASK] of two"), reading(backbone, 64, 0), labelled=False)
    assert feature.inputs["input_ids"][feature.alignment] == tokenizer.mask_token_id
    assert feature.alignment == len(feature.inputs["input_ids"]) - 3  # the template's own, not the text's


def test_rows_of_both_kinds_of_head_share_a_batch(rows: Path) -> None:
    backbone = writing_backbone("llama")
    first = run(backbone, rows).file.rename(rows / "first.safetensors")
    second = run(backbone, rows, verbalizer="land=a,water=the").file
    dock = Dock(backbone)
    names = [dock.load(first, "first"), dock.load(second, "second")]
    texts = ["the sea", "the cat"]
    mixed = dock.predict([names[0], names[1]], texts)
    alone = [dock.predict(name, [text])[0] for name, text in zip(names, texts, strict=True)]
    assert mixed == alone


def test_a_text_that_is_too_long_is_cut_and_the_template_stays(rows: Path) -> None:
    backbone = writing_backbone("llama")
    result = run(backbone, rows)
    task = make_task("prompted", result.adapter.card.task.options)
    (feature,) = task.encode(task.read("the cat " * 100), reading(backbone, 32, 0), labelled=False)
    assert len(feature.inputs["input_ids"]) == 32
    assert backbone.tokenizer.decode(feature.inputs["input_ids"]).endswith(" is")
    assert feature.cut > 0
    longer = make_task("prompted", {**result.adapter.card.task.options, "template": "{text} and it is"})
    with pytest.raises(DataError, match="the template alone"):
        longer.encode(task.read("the cat"), reading(backbone, 1, 0), labelled=False)


def test_a_word_of_several_tokens_is_refused_with_ones_that_are_single(rows: Path) -> None:
    with pytest.raises(UsageError, match=r"the word 'tho' of the label 'land' is \d tokens .* such as the"):
        run(writing_backbone("llama"), rows, verbalizer="land=tho,water=a")
    with pytest.raises(UsageError, match="the word 'land' of the label 'land' is"):
        run(writing_backbone("llama"), rows, verbalizer="water=a")  # a class stands for itself


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"template": "nothing"}, "has to name"),
        ({"template": "{text} [MASK] [MASK]"}, "one \\[MASK\\] or none"),
        ({"template": "{text} {label}"}, "nothing else in braces"),
        ({"verbalizer": "land"}, "LABEL=WORD"),
        ({"verbalizer": "land=a,sea=the"}, "the label 'sea', which is not in the data: land, water"),
        ({"verbalizer": "land=a,water=a"}, "'a' stands for 'land' and for 'water'"),
        ({"multi_label": True}, "one blank"),
    ],
)
def test_templates_and_words_that_cannot_be_are_refused(rows: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run(writing_backbone("llama"), rows, **options)


def test_a_blank_that_the_backbone_cannot_fill_is_refused(backbone: Backbone, rows: Path) -> None:
    with pytest.raises(BackboneError, match=r"put \[MASK\] into the template"):
        run(backbone, rows)
    with pytest.raises(BackboneError, match="let the template end where the answer begins"):
        run(writing_backbone("llama"), rows, template="{text} [MASK]")


def test_a_pair_fills_both_fields(rows: Path) -> None:
    backbone = writing_backbone("llama")
    result = run(backbone, rows)
    options = {**result.adapter.card.task.options, "template": "{text} and {second} is"}
    task = make_task("prompted", options)
    (feature,) = task.encode(task.read(["the sea", "a cat"]), reading(backbone, 64, 0), labelled=False)
    assert backbone.tokenizer.decode(feature.inputs["input_ids"]) == "the sea and a cat is"
    with pytest.raises(DataError, match=r"the template asks for \{second\}"):
        task.encode(task.read("the sea"), reading(backbone, 64, 0), labelled=False)
