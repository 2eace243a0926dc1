"""Every task on real data: an adapter beside a trivial baseline and full fine-tuning with transformers alone.

    python benchmarks/tasks.py FOLDER [--rows spam,intent] [--sample 1000] [--method lora] [--epochs 4]

FOLDER holds the data sets by name (wnut17, ud_en_ewt, ...). All sides see the same records, split alike, and the same
epochs and batch size; ``--sample`` takes that many training records. The metric is the task's own, on the test split.
Full fine-tuning runs where transformers has a class for the task (tags of words, labels of texts, spans). With
``--precision bf16`` the adapter's backbone is in bfloat16, and full fine-tuning computes in it (its weights stay in
float32).
"""

import argparse
import json
import logging
import os
import re
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

import torch
from machine import machine
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from adaptdock.backbones.checkpoint import resolve
from adaptdock.engine.batches import by_length, collate, collate_labels, length
from adaptdock.engine.data import Source, load_splits
from adaptdock.engine.dock import load_backbone
from adaptdock.engine.options import DTYPES
from adaptdock.engine.planning import Plan, plan
from adaptdock.engine.training import Run
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, LoadOptions, Record
from adaptdock.tasks.qa import END, START

TEST_SHARE = 0.1
TEST_ROWS, TEST_TOKENS = 32, 4096
Baseline = Callable[[Any, Sequence[Record], Sequence[Record]], float]


@dataclass(frozen=True)
class Row:
    """One line of the table: a task, its data, and how they are measured."""

    task: str
    data: str
    files: Mapping[str, str]
    layout: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "minilm"
    options: Mapping[str, Any] = field(default_factory=dict)
    baseline: Baseline | None = None
    kind: str = ""
    """What transformers' own class for it labels: tokens, sequences or spans; none where it has no such class."""
    groups: bool = False
    """Whether test data that is not given is held out by the task's groups (articles)."""


@dataclass
class Found:
    """What was measured."""

    row: str
    metric: str
    baseline: float | None
    ours: float
    full: float | None
    file_bytes: int
    seconds: float
    full_seconds: float | None
    train: int
    test: int


# --------------------------------------------------------------------------------------- baselines


def most_frequent_class(task: Any, train: Sequence[Record], test: Sequence[Record]) -> float:
    (label, _), *_ = Counter(record["label"] for record in train).most_common(1)
    answer = {"label": label, "score": 1.0, "scores": {label: 1.0}}
    return float(task.score(test, [answer] * len(test))[task.metric])


def most_frequent_tag(task: Any, train: Sequence[Record], test: Sequence[Record]) -> float:
    """Give each word the tag that it has most often; an unknown word the most frequent of all."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for record in train:
        for word, tag in zip(record["tokens"], record["tags"], strict=True):
            seen[word.lower()][tag] += 1
    (common, _), *_ = sum(seen.values(), Counter()).most_common(1)
    tagged = [[(seen.get(w.lower()) or Counter([common])).most_common(1)[0][0] for w in r["tokens"]] for r in test]
    answers = [{"tags": tags, "words": [{"tag": tag} for tag in tags]} for tags in tagged]
    return float(task.score(test, answers)[task.metric])


def most_similar_sentence(task: Any, train: Sequence[Record], test: Sequence[Record]) -> float:
    """Answer with the sentence of the context that has most words in common with the question."""
    answers = []
    for record in test:
        asked = set(re.findall(r"\w+", record["question"].lower()))
        sentences = re.split(r"(?<=[.!?])\s+", record["context"])
        best = max(sentences, key=lambda sentence: len(asked & set(re.findall(r"\w+", sentence.lower()))))
        answers.append({"answer": best})
    return float(task.score(test, answers)[task.metric])


ROWS = {
    "ner": Row(
        "ner",
        "wnut17",
        {"train": "wnut17train.conll", "validation": "emerging.dev.conll", "test": "emerging.test.annotated"},
        baseline=most_frequent_tag,
        kind="tokens",
    ),
    "pos": Row(
        "pos",
        "ud_en_ewt",
        {"train": "en_ewt-ud-dev.conllu", "test": "en_ewt-ud-test.conllu"},
        baseline=most_frequent_tag,
        kind="tokens",
    ),
    "pos-atis": Row(
        "pos",
        "ud_en_atis",
        {"train": "en_atis-ud-train.conllu", "validation": "en_atis-ud-dev.conllu", "test": "en_atis-ud-test.conllu"},
        baseline=most_frequent_tag,
        kind="tokens",
    ),
    "intent": Row(
        "intent",
        "banking77",
        {"train": "train.csv", "test": "test.csv"},
        options={"epochs": 4},
        baseline=most_frequent_class,
        kind="sequences",
    ),
    "spam": Row(
        "spam",
        "sms_spam",
        {"train": "SMSSpamCollection"},
        {"format": "tsv", "columns": {"label": "0", "text": "1"}},
        baseline=most_frequent_class,
        kind="sequences",
    ),
    "qa": Row("qa", "xquad_en", {"train": "xquad.en.json"}, baseline=most_similar_sentence, kind="spans", groups=True),
    "embedding": Row("embedding", "banking77", {"train": "train.csv", "test": "test.csv"}),
    "mlm": Row(
        "mlm",
        "lm_biomed_linnaeus",
        {"train": "train.tsv", "validation": "devel.tsv", "test": "test.tsv"},
        {"format": "conll", "columns": {"text": "0"}},
    ),
    "clm": Row("clm", "lm_state_union", {}, {"encoding": "auto"}, backbone="smollm2"),
    "generation": Row("generation", "", {}, backbone="smollm2"),
    "summarization": Row(
        "summarization",
        "scitldr",
        {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"},
        backbone="smollm2",
        options={"max_length": 512},
    ),
    "translation": Row(
        "translation",
        "tatoeba_en_sv",
        {"train": "swe.txt"},
        {"format": "tsv", "columns": {"source": "0", "target": "1"}},
        backbone="smollm2",
    ),
}


# ------------------------------------------------------------------------------------------- sides


def divided(row: Row, root: Path, sample: int | None, folder: Path) -> Source:
    """Write the records of each split as JSON lines, so that every side reads the same; hold out what is not given."""
    if not row.data:
        return Source()
    task = registry.load("task", row.task)
    files = {split: str(root / row.data / name) for split, name in row.files.items()}
    source = Source(**(files or {"data": str(root / row.data)}), **row.layout)
    splits, _ = load_splits(source, task)
    if "test" not in splits:
        splits["test"], splits["train"] = held_out(splits["train"], task.group if row.groups else None)
    splits["train"] = splits["train"][:sample]
    for split, records in splits.items():
        lines = [json.dumps({key: value for key, value in record.items() if key != "where"}) for record in records]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    columns = {name: name for name in splits["train"][0] if name in task.columns}
    return Source(data=str(folder), columns=columns)


def held_out(records: list[Record], group: Callable[[Record], Any] | None) -> tuple[list[Record], list[Record]]:
    """Return the first records, up to the end of the group in which their share is reached, and the others."""
    cut = int(len(records) * TEST_SHARE)
    while group is not None and group(records[cut - 1]) == group(records[cut]):
        cut += 1
    return records[:cut], records[cut:]


def ours(made: Plan, folder: Path) -> tuple[float, int, float]:
    started = time.perf_counter()
    result = Run(made, folder)()
    seconds = time.perf_counter() - started
    metrics = result.adapter.card.metrics
    found = metrics.get("test", metrics.get("validation", {}))
    return float(found[type(made.task).metric]), result.size, seconds


def full(made: Plan, row: Row, rate: float, folder: Path, precision: str) -> tuple[float, float]:
    """Train all weights with transformers' own class and Trainer, on the same windows and labels."""
    kinds = {
        "tokens": AutoModelForTokenClassification,
        "sequences": AutoModelForSequenceClassification,
        "spans": AutoModelForQuestionAnswering,
    }
    checkpoint, task = resolve(row.backbone, LoadOptions()), made.task
    model = kinds[row.kind].from_pretrained(checkpoint.folder, num_labels=task.head().classes)
    backbone = made.backbone

    def collator(features: Any) -> dict[str, Any]:
        labels = collate_labels(features, backbone.device)
        named = bounds(labels) if row.kind == "spans" else {"labels": labels}
        return {**collate(backbone, features), **named}

    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=made.options.epochs,
        per_device_train_batch_size=made.options.batch_size,
        learning_rate=rate,
        warmup_steps=0.1,
        seed=made.options.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=True,
        bf16=precision == "bf16",
        logging_strategy="no",
        dataloader_pin_memory=False,
    )
    features = [feature for unit in made.units for feature in unit]
    started = time.perf_counter()
    Trainer(model=model, args=arguments, train_dataset=features, data_collator=collator).train()
    seconds = time.perf_counter() - started
    return measured(model.eval(), backbone, made), seconds


def bounds(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what transformers calls the labels of qa: the first and the last position of each answer."""
    given = labels.clamp(min=0)
    starts, ends = ((given & part).argmax(1) for part in (START, END))
    return {"start_positions": starts, "end_positions": ends}


@torch.inference_mode()
def measured(model: Any, backbone: Backbone, made: Plan) -> float:
    task, records = made.task, made.records["test"]
    windows = [task.encode(record, made.reading, labelled=False) for record in records]
    flat = [feature for own in windows for feature in own]
    found: dict[int, torch.Tensor] = {}
    for batch in by_length([length(feature) for feature in flat], TEST_ROWS, TEST_TOKENS):
        output = model(**collate(backbone, [flat[number] for number in batch]))
        spans = "start_logits" in output
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1) if spans else output.logits
        for number, row in zip(batch, logits, strict=True):
            own = row[: length(flat[number])] if row.ndim == 2 else row
            found[id(flat[number])] = task.digest(flat[number], own)
    answers = [
        task.decode(record, own, [found[id(feature)] for feature in own])
        for record, own in zip(records, windows, strict=True)
    ]
    return float(task.score(records, answers)[type(task).metric])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--method", default="lora")
    parser.add_argument("--sample", type=int, help="training records of each row; all unless given")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--full-rate", type=float, default=1e-4)
    parser.add_argument("--no-full", action="store_true")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    print(machine())
    found, backbones = [], {}
    for name in arguments.rows.split(","):
        row = ROWS[name]
        backbones[row.backbone] = backbones.get(row.backbone) or load_backbone(
            row.backbone, LoadOptions(dtype=DTYPES[arguments.precision])
        )
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "data").mkdir()
            source = divided(row, arguments.folder, arguments.sample, folder / "data")
            options = {**row.options, "patience": 0, **({"epochs": arguments.epochs} if arguments.epochs else {})}
            made = plan(backbones[row.backbone], row.task, arguments.method, source, options)
            value, size, seconds = ours(made, folder / "run")
            trivial = None
            if row.baseline:
                trivial = row.baseline(made.task, made.records["train"], made.records["test"])
            other = None
            if row.kind and not arguments.no_full:
                other = full(made, row, arguments.full_rate, folder / "full", arguments.precision)
        line = Found(
            row=f"{name} ({row.data or 'sample'})",
            metric=type(made.task).metric,
            baseline=trivial,
            ours=value,
            full=other[0] if other else None,
            file_bytes=size,
            seconds=seconds,
            full_seconds=other[1] if other else None,
            train=len(made.records["train"]),
            test=len(made.records.get("test", ())),
        )
        found.append(line)
        print(json.dumps(asdict(line)), flush=True)
    show(found, arguments.method)


def show(found: Sequence[Found], method: str) -> None:
    head = [
        "task (data)",
        "metric",
        "trivial",
        method,
        "full fine-tuning",
        "file",
        "seconds",
        "its seconds",
        "train / test",
    ]
    print(f"\n| {' | '.join(head)} |")
    print(f"|{'---|' * len(head)}")
    for line in found:
        cells = [
            line.row,
            line.metric,
            "" if line.baseline is None else f"{line.baseline:.2f}",
            f"{line.ours:.2f}",
            "" if line.full is None else f"{line.full:.2f}",
            f"{line.file_bytes / 1000:.0f} kB",
            f"{line.seconds:.0f}",
            "" if line.full_seconds is None else f"{line.full_seconds:.0f}",
            f"{line.train} / {line.test}",
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
