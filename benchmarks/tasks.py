"""Every task on real data: an adapter beside a trivial baseline and full fine-tuning with transformers alone.

    python benchmarks/tasks.py FOLDER [--rows spam,intent] [--sample 1000] [--method lora] [--epochs 4]

FOLDER holds the data sets by name (wnut17, ud_en_ewt, ...). All sides see the same records, split alike, and the same
epochs and batch size; ``--sample`` takes that many training records, and ``--tested`` that many to validate and to
test on. The metrics are the task's own, on the test split. Full fine-tuning trains transformers' own class for the
task (tags of words, labels of texts, spans, masked and next tokens), and for vectors the mean of its model's states,
with the task's loss. Where no new head is needed, the backbone alone is measured too, before it is trained. What these
write is written by transformers' own ``generate``. With ``--precision bf16`` the adapter's backbone is in bfloat16, and
full fine-tuning computes in it (its weights stay in float32).
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

import torch
from baselines import (
    Metrics,
    bags_of_words,
    copied,
    first_sentence,
    frequencies,
    most_frequent_answer,
    most_frequent_class,
    most_frequent_tag,
    most_similar_sentence,
)
from machine import machine
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from adaptdock.backbones.transformers.checkpoint import Checkpoint, resolve
from adaptdock.engine.core.batches import by_length, collate, collate_labels, length
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.hyperparameters import DTYPES
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import LoadOptions, Record, Writer
from adaptdock.plugins.task_abilities import group
from adaptdock.plugins.toolkit.heads import mean_state
from adaptdock.tasks.qa import END, START

TEST_SHARE = 0.1
TEST_ROWS, TEST_TOKENS = 32, 4096
VOCABULARY_TOKENS = 1024
"""Of a batch whose logits are as wide as the vocabulary."""
CONVERTER = Path(__file__).parents[1] / "scripts" / "convert_llama2c.py"


@dataclass(frozen=True)
class Row:
    """One task on one set of data, and how they are measured."""

    task: str
    data: str
    files: Mapping[str, str]
    layout: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "minilm"
    options: Mapping[str, Any] = field(default_factory=dict)
    task_options: Mapping[str, Any] = field(default_factory=dict)
    baseline: Callable[[Plan], Metrics] | None = None
    kind: str = field(kw_only=True)
    """What transformers' own class for it labels: tokens, sequences, spans, masked or next tokens; or vectors."""
    groups: bool = False
    """Whether test data that is not given is held out by the task's groups (articles)."""
    ordered: bool = False
    """Whether the file has an order (of length): its groups are taken in that of their hashes then."""
    metrics: Sequence[str] = ()
    """What is shown; the task's own metric unless given."""


@dataclass
class Found:
    """What was measured."""

    row: str
    trivial: Metrics
    bare: Metrics
    ours: Metrics
    full: Metrics
    file_bytes: int
    seconds: float
    full_seconds: float | None
    train: int
    test: int
    metrics: Sequence[str]


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
    "embedding": Row(
        "embedding",
        "banking77",
        {"train": "train.csv", "test": "test.csv"},
        baseline=bags_of_words,
        kind="vectors",
        metrics=("recall@1", "recall@5"),
    ),
    "mlm": Row(
        "mlm",
        "lm_biomed_linnaeus",
        {"train": "train.tsv", "validation": "devel.tsv", "test": "test.tsv"},
        {"format": "conll", "columns": {"text": "0"}},
        baseline=frequencies,
        kind="masked",
    ),
    "clm": Row(
        "clm",
        "lm_state_union",
        {},
        {"encoding": "auto"},
        backbone="smollm2",
        options={"max_length": 256},
        baseline=frequencies,
        kind="next",
    ),
    "clm-plays": Row(
        "clm",
        "tinyshakespeare",
        {"train": "input.txt"},
        {"format": "lines"},
        backbone="stories260k",
        options={"max_length": 256},
        task_options={"separator": "line"},
        baseline=frequencies,
        kind="next",
    ),
    "generation": Row(
        "generation",
        "sms_spam",
        {"train": "SMSSpamCollection"},
        {"format": "tsv", "columns": {"answer": "0", "prompt": "1"}},
        backbone="smollm2",
        task_options={"prompt": r"Message: {prompt}\nIs this message ham or spam?", "max_new_tokens": 4},
        baseline=most_frequent_answer,
        kind="next",
        metrics=("exact_match", "perplexity"),
    ),
    "summarization": Row(
        "summarization",
        "scitldr",
        {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"},
        backbone="smollm2",
        options={"max_length": 512},
        task_options={"written": 60},
        baseline=first_sentence,
        kind="next",
        metrics=("rouge1", "rougeL", "perplexity"),
    ),
    "translation": Row(
        "translation",
        "tatoeba_en_sv",
        {"train": "swe.txt"},
        {"format": "tsv", "columns": {"source": "0", "target": "1"}},
        backbone="smollm2",
        task_options={"max_new_tokens": 32},
        baseline=copied,
        kind="next",
        groups=True,
        ordered=True,
        metrics=("chrf", "bleu", "perplexity"),
    ),
}


# ------------------------------------------------------------------------------------------- sides


def divided(row: Row, root: Path, folder: Path, sample: int | None, tested: int | None) -> Source:
    """Write the records of each split as JSON lines, so that every side reads the same; hold out what is not given."""
    task = registry.load("task", row.task)
    files = {split: str(root / row.data / name) for split, name in row.files.items()}
    source = Source(**(files or {"data": str(root / row.data)}), **row.layout)
    splits, _ = load_splits(source, task)
    if row.ordered:
        splits["train"].sort(key=lambda record: sha256(str(group(task, record)).encode()).digest())
    if "test" not in splits:
        splits["test"], splits["train"] = held_out(splits["train"], partial(group, task) if row.groups else None)
    splits["train"] = splits["train"][:sample]
    for split in splits.keys() - {"train"}:
        splits[split] = splits[split][:tested]
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


def placed(row: Row, root: Path, folder: Path) -> str:
    """Return the backbone as it can be loaded; a checkpoint of llama2.c is converted first."""
    if not (root / row.backbone).is_dir():
        return row.backbone
    weights, pieces, made = (
        root / row.backbone / "stories260K.bin",
        root / row.backbone / "tok512.bin",
        folder / "own",
    )
    subprocess.run([sys.executable, CONVERTER, weights, pieces, made], check=True, stdout=subprocess.DEVNULL)
    return str(made)


def ours(made: Plan, folder: Path) -> tuple[Metrics, int, float]:
    started = time.perf_counter()
    result = train_plan(made, folder)
    seconds = time.perf_counter() - started
    return result.adapter.card.metrics["test"], result.size, seconds


CLASSES = {
    "tokens": AutoModelForTokenClassification,
    "sequences": AutoModelForSequenceClassification,
    "spans": AutoModelForQuestionAnswering,
    "masked": AutoModelForMaskedLM,
    "next": AutoModelForCausalLM,
}


class Means(torch.nn.Module):
    """The mean hidden state of each text."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Any:
        states = self.model(**inputs).last_hidden_state
        return SimpleNamespace(logits=mean_state(states, inputs["attention_mask"]).squeeze(1))


def untuned(kind: Any, checkpoint: Checkpoint, **arguments: Any) -> Any:
    """Load a model of transformers, in float32."""
    if checkpoint.gguf is None:
        return kind.from_pretrained(checkpoint.folder, dtype=torch.float32, **arguments).eval()
    read = kind.from_pretrained(checkpoint.folder, dtype=torch.float32, gguf_file=checkpoint.gguf, **arguments)
    del read.config.quantization_config  # of the file; its weights are floats by now, which Trainer does not believe
    made = kind.from_config(read.config)
    made.load_state_dict(read.state_dict())
    return made.eval()


def untrained(row: Row, made: Plan, checkpoint: Checkpoint) -> Any:
    """Return what full fine-tuning begins with."""
    if row.kind == "vectors":
        return Means(untuned(AutoModel, checkpoint))
    headed = {} if row.kind in ("masked", "next") else {"num_labels": made.task.head().classes}
    return untuned(CLASSES[row.kind], checkpoint, **headed)


def bare(made: Plan, row: Row, checkpoint: Checkpoint) -> Metrics:
    """Measure the backbone alone, where nothing has to be put on it; nothing is found elsewhere."""
    return measured(untrained(row, made, checkpoint), made) if row.kind in ("vectors", "next") else {}


def full(
    made: Plan, row: Row, checkpoint: Checkpoint, rate: float, folder: Path, precision: str
) -> tuple[Metrics, float]:
    """Train all weights with transformers' own class and Trainer, on the same windows and labels."""
    model = untrained(row, made, checkpoint)

    def collator(units: Any) -> dict[str, Any]:
        features = [feature for unit in units for feature in unit]
        labels = collate_labels(features, made.backbone.device)
        named = bounds(labels) if row.kind == "spans" else {"labels": labels}
        if row.kind == "next":
            named["shift_labels"] = labels  # they stand at the tokens before them already
        return {**collate(made.backbone, features), **named}

    def ranking(output: Any, labels: torch.Tensor, **_: Any) -> torch.Tensor:
        return made.task.loss(output.logits, labels, None)

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
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=made.units,
        data_collator=collator,
        compute_loss_func=ranking if row.kind == "vectors" else None,
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    return measured(model.eval(), made), seconds


def bounds(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what transformers calls the labels of qa: the first and the last position of each answer."""
    given = labels.clamp(min=0)
    starts, ends = ((given & part).argmax(1) for part in (START, END))
    return {"start_positions": starts, "end_positions": ends}


@torch.inference_mode()
def measured(model: Any, made: Plan) -> Metrics:
    task, records = made.task, made.records["test"]
    windows = [task.encode(record, made.reading, labelled=True) for record in records]
    flat = [feature for own in windows for feature in own]
    found: dict[int, torch.Tensor] = {}
    tokens = TEST_TOKENS if task.head().over == "hidden" else VOCABULARY_TOKENS
    for batch in by_length([length(feature) for feature in flat], TEST_ROWS, tokens):
        output = model(**collate(made.backbone, [flat[number] for number in batch]))
        spans = hasattr(output, "start_logits")
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1) if spans else output.logits
        for number, row in zip(batch, logits, strict=True):
            own = row[: length(flat[number])] if row.ndim == 2 else row
            found[id(flat[number])] = task.digest(flat[number], own)
    answers = [
        task.decode(record, own, [found[id(feature)] for feature in own])
        for record, own in zip(records, windows, strict=True)
    ]
    return {**task.score(records, answers), **(written(model, made) if isinstance(task, Writer) else {})}


def written(model: Any, made: Plan) -> Metrics:
    """Return what the task makes of the answers that transformers writes."""
    task, tokenizer = made.task, made.backbone.tokenizer
    records = made.records["test"][: task.written]
    answers = []
    for record in records:
        ids = torch.tensor([task.prompt(record, made.reading).inputs["input_ids"]])
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **task.search())
        answers.append(task.answer(record, tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)))
    return task.compare(records, answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--method", default="lora")
    parser.add_argument("--sample", type=int, help="training records of each row; all unless given")
    parser.add_argument("--tested", type=int, help="validation and test records of each row; all unless given")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--full-rate", type=float, default=1e-4)
    parser.add_argument("--no-full", action="store_true")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    print(machine())
    found: list[Found] = []
    for name in arguments.rows.split(","):
        with tempfile.TemporaryDirectory() as place:
            found.append(compare(name, ROWS[name], arguments, Path(place)))
        print(json.dumps(asdict(found[-1])), flush=True)
    show(found, arguments.method)


def compare(name: str, row: Row, arguments: argparse.Namespace, folder: Path) -> Found:
    """Measure every side of a row."""
    (folder / "data").mkdir()
    source = divided(row, arguments.folder, folder / "data", arguments.sample, arguments.tested)
    named = placed(row, arguments.folder, folder)
    backbone = load_backbone(named, LoadOptions(dtype=DTYPES[arguments.precision]))
    checkpoint = resolve(named, LoadOptions())
    options = {
        **row.options,
        "patience": 0,
        **({"epochs": arguments.epochs} if arguments.epochs else {}),
    }
    made = plan(backbone, row.task, arguments.method, source, options, task_options=row.task_options)
    trivial = row.baseline(made) if row.baseline else {}
    alone = bare(made, row, checkpoint)
    own, size, seconds = ours(made, folder / "run")
    theirs: tuple[Metrics, float | None] = ({}, None)
    if not arguments.no_full:
        theirs = full(made, row, checkpoint, arguments.full_rate, folder / "full", arguments.precision)
    return Found(
        row=f"{name} ({row.data})",
        trivial=trivial,
        bare=alone,
        ours=own,
        full=theirs[0],
        file_bytes=size,
        seconds=seconds,
        full_seconds=theirs[1],
        train=len(made.records["train"]),
        test=len(made.records["test"]),
        metrics=row.metrics or (type(made.task).metric,),
    )


def show(found: Sequence[Found], method: str) -> None:
    head = [
        "task (data)",
        "metric",
        "trivial",
        "backbone alone",
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
        sides = (line.trivial, line.bare, line.ours, line.full)
        for metric in line.metrics:
            cells = [
                line.row,
                metric,
                *(f"{side[metric]:.2f}" if metric in side else "" for side in sides),
                f"{line.file_bytes / 1000:.0f} kB",
                f"{line.seconds:.0f}",
                "" if line.full_seconds is None else f"{line.full_seconds:.0f}",
                f"{line.train} / {line.test}",
            ]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
