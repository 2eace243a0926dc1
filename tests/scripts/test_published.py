"""The project's adapters: each is made by the script, complete, small, and never below an answer without a backbone."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.sources import Source
from adaptdock.engine.evaluation.measurement import Evaluation
from adaptdock.engine.training.members.task_run import Measured
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.file import AdapterFile, read_file
from adaptdock.hub.artefact.strict_json import read
from adaptdock.hub.registry.index import Index
from adaptdock.hub.registry.publishing import Published

ROOT = Path(__file__).parents[2]
INDEX = read(ROOT / "registry.json", Index)
NEWEST = [entry for entry in INDEX.adapters if INDEX.find(entry.name) == entry]


Release = Callable[..., Published]


def lines_of(file: str) -> list[Any]:
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("published", ROOT / "scripts" / "published.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_makes_each_adapter_of_the_index_in_its_newest_version(script: ModuleType) -> None:
    assert {entry.name: entry.version for entry in NEWEST} == {
        name: publication.version for name, publication in script.PUBLICATIONS.items()
    }
    assert len(NEWEST) >= 6


@pytest.mark.parametrize("entry", NEWEST, ids=lambda entry: entry.label)
def test_a_published_adapter_has_its_metrics_their_interval_and_golden_probes(entry: Any) -> None:
    card = read_file(ROOT / entry.file).card
    metric = type(make_task(card.task.name, card.task.options)).metric
    ((_, metrics),) = entry.metrics.items()
    assert metrics[f"{metric}_low"] <= metrics[metric] <= metrics[f"{metric}_high"]
    assert card.probes is not None
    assert card.licence == entry.licence
    assert entry.size < 800_000


def test_the_page_of_registries_has_each_adapter_with_its_metric_and_licence() -> None:
    page = (ROOT / "docs" / "registry.md").read_text()
    for entry in NEWEST:
        (metrics,) = entry.metrics.values()
        metric = next(name.removesuffix("_low") for name in metrics if name.endswith("_low"))
        figures = f"{metrics[metric]:.2f} ({metrics[f'{metric}_low']:.2f} to {metrics[f'{metric}_high']:.2f})"
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{entry.name}` |"))
        assert figures in row
        assert entry.licence in row


def test_copies_of_a_message_stay_in_one_split_whatever_their_numbers(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "sms_spam").mkdir()
    lines = [f"spam\tCall {number} now, offer {number % 7}!" for number in range(50)]
    lines += [f"ham\tsee you at {'abcdefghij'[number % 10]} {'klmnopqrst'[number // 10]}" for number in range(100)]
    (tmp_path / "sms_spam" / "SMSSpamCollection").write_text("\n".join(lines) + "\n")
    source = script.messages(tmp_path, tmp_path / "work")
    train, test = lines_of(source.train), lines_of(source.test)
    assert len(train) + len(test) == 101
    assert 5 < len(test) < 40
    assert not {row["text"] for row in train} & {row["text"] for row in test}
    assert script.messages(tmp_path, tmp_path / "work") == source


def test_the_genre_of_a_sentence_is_that_of_its_number(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "ud_en_ewt").mkdir()
    for split in ("dev", "test"):
        sentences = [("weblog-a-1", "A sentence that is long enough."), ("email-b-2", "Too short.")]
        text = "".join(f"# sent_id = {number}\n# text = {text}\n1\tA\n\n" for number, text in sentences)
        (tmp_path / "ud_en_ewt" / f"en_ewt-ud-{split}.conllu").write_text(text)
    source = script.genres(tmp_path, tmp_path / "work")
    assert lines_of(source.test) == [{"text": "A sentence that is long enough.", "label": "weblog"}]


TEXTS = [{"text": f"{word} {number}", "label": word} for word in ("red", "blue") for number in range(12)]


@pytest.fixture
def released(script: ModuleType, adapters: dict[str, AdapterFile], tmp_path: Path) -> Release:
    """Publish an adapter with so many right answers, beside a training set that tells colours by their word."""

    def release(records: list[dict[str, str]], right: int) -> Published:
        labels = [row["label"] if place < right else "none" for place, row in enumerate(records)]
        scored = [{"label": label, "score": 1.0, "scores": {label: 1.0}} for label in labels]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TEXTS))
        task = {"name": "classification", "options": {"labels": ["blue", "red"]}}
        card = adapters["lora"].card
        card = card.model_copy(update={"task": card.task.model_copy(update=task), "training": {}})
        metrics = make_task("classification", {"labels": ["blue", "red"]}).score(records, scored)
        measured = Measured("test", records, Evaluation(metrics, 0.0, scored, [], scored))
        source = Source(train=str(tmp_path / "train.jsonl"))
        trained = AdapterFile(card, adapters["lora"].tensors)
        return script.release("english-genres", trained, measured, source, tmp_path / "registry", tmp_path)  # type: ignore[no-any-return]

    return release


def test_an_adapter_below_a_simple_answer_is_not_published(released: Release, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a simple answer reaches accuracy 100, the adapter 83\.33"):
        released(TEXTS, 20)
    assert not (tmp_path / "registry").exists()


def test_the_description_has_the_metric_its_interval_and_the_simple_answer(released: Release) -> None:
    texts = [{**row, "text": f"text {place}"} for place, row in enumerate(TEXTS)]  # without a word of a colour
    description = released(texts, 24).entry.description
    assert "accuracy 100.00 (95 % interval 100.00 to 100.00; without a backbone 50.00)" in description
