"""WNUT-17 on MiniLM: this project's methods beside PEFT LoRA and full fine-tuning, in one run.

    python benchmarks/ner_wnut17.py FOLDER [--sides lora,lora@int8,peft,full] [--epochs 3] [--seed 0] [--moved]
        [--head-start fitted] [--start-strength C]

All sides see the same data, epochs and batch size, and group sentences by length. Ours run with their
recipes; PEFT and full fine-tuning run with transformers' Trainer as its documentation shows it. F1 is
seqeval's, of whole entities; dev decides (the best epoch is kept on every side), test is reported. Times
are of training with its validations, the loading of data and models left out.
"""

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

import numpy as np
import torch
from machine import machine
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, Trainer, TrainingArguments
from transformers.utils import logging as transformers_logging

from adaptdock.backbones.transformers.checkpoint import resolve
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.evaluation.measurement import evaluate
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.heads import head_fit
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.hyperparameters import fast_precision, merge_options
from adaptdock.engine.training.planning.plan import plan
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone, LoadOptions
from adaptdock.tasks.ner import NER, NEROptions

OURS = ("lora", "bottleneck", "prefix")
BATCH = 16
FILES = {"train": "wnut17train.conll", "validation": "emerging.dev.conll", "test": "emerging.test.annotated"}


@dataclass
class Row:
    """One side's result."""

    side: str
    dev: float
    test: float
    trained: int
    share: float
    file_bytes: int
    seconds: float


def source(folder: Path) -> Source:
    return Source(**{split: str(folder / name) for split, name in FILES.items()})


def load(precision: str) -> Backbone:
    """Load MiniLM in fp32, bf16, int8 or nf4, with the library that is chosen for the device."""
    if precision in ("int8", "nf4"):
        return load_backbone("minilm", LoadOptions(quantize=precision))
    return load_backbone("minilm", LoadOptions(dtype={"fp32": "float32", "bf16": "bfloat16"}[precision]))


def ours(method: str, folder: Path, arguments: argparse.Namespace, precision: str) -> tuple[Row, AdapterFile]:
    """Train one of our methods with its recipe."""
    options = {
        "epochs": arguments.epochs,
        "batch_size": BATCH,
        "seed": arguments.seed,
        "patience": 0,
        "head_start": arguments.head_start,
    }
    made = plan(load(precision), "ner", method, source(folder), options)
    with tempfile.TemporaryDirectory() as runs:
        started = time.perf_counter()
        result = train_plan(made, Path(runs))
        seconds = time.perf_counter() - started
    summary = made.summary()
    metrics = result.adapter.card.metrics
    row = Row(
        f"{method} ({precision})",
        metrics["validation"]["f1"],
        metrics["test"]["f1"],
        summary["trained_parameters"],
        summary["share_of_backbone"],
        result.size,
        seconds,
    )
    return row, result.adapter


def theirs(side: str, folder: Path, arguments: argparse.Namespace, rate: float) -> Row:
    """Train PEFT LoRA (``peft``) or all weights (``full``) with transformers' Trainer."""
    torch.manual_seed(arguments.seed)
    checkpoint = resolve("minilm").folder
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    splits, _ = load_splits(source(folder), NER)
    task = NER(NEROptions()).fit(splits["train"])
    tags = task.tags
    model = AutoModelForTokenClassification.from_pretrained(checkpoint, num_labels=len(tags), dtype=torch.float32)
    total = sum(parameter.numel() for parameter in model.parameters())
    if side.startswith("peft"):
        from peft import LoraConfig, TaskType, get_peft_model

        targets = "all-linear" if side == "peft-all" else ["query", "value"]
        model = get_peft_model(
            model, LoraConfig(task_type=TaskType.TOKEN_CLS, r=8, lora_alpha=16, target_modules=targets)
        )
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

    def encode(record: dict[str, Any]) -> dict[str, Any]:
        encoded = tokenizer(record["tokens"], is_split_into_words=True, truncation=True, max_length=256)
        words = encoded.word_ids()
        labels, before = [], None
        for word in words:
            labels.append(-100 if word is None or word == before else tags.index(record["tags"][word]))
            before = word
        return {**encoded, "labels": labels}

    def score(prediction: Any) -> dict[str, float]:
        from seqeval.metrics import f1_score

        found = np.argmax(prediction.predictions, -1)
        gold = [[tags[label] for label in row if label != -100] for row in prediction.label_ids]
        guess = [
            [tags[number] for number, label in zip(numbers, row, strict=True) if label != -100]
            for numbers, row in zip(found, prediction.label_ids, strict=True)
        ]
        return {"f1": round(100 * f1_score(gold, guess), 2)}

    features = {split: [encode(record) for record in records] for split, records in splits.items()}
    with tempfile.TemporaryDirectory() as output:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=output,
                num_train_epochs=arguments.epochs,
                per_device_train_batch_size=BATCH,
                per_device_eval_batch_size=2 * BATCH,
                train_sampling_strategy="group_by_length",
                learning_rate=rate,
                warmup_steps=0.1,
                weight_decay=0.01,
                seed=arguments.seed,
                eval_strategy="epoch",
                save_strategy="epoch",
                load_best_model_at_end=True,
                metric_for_best_model="f1",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=features["train"],
            eval_dataset=features["validation"],
            data_collator=DataCollatorForTokenClassification(tokenizer),
            compute_metrics=score,
        )
        started = time.perf_counter()
        trainer.train()
        dev = trainer.evaluate()["eval_f1"]
        test = trainer.evaluate(features["test"])["eval_f1"]
        seconds = time.perf_counter() - started
        model.save_pretrained(output + "/saved")
        size = sum(file.stat().st_size for file in Path(output, "saved").rglob("*.safetensors"))
    return Row(f"{side} (fp32, {rate:g})", dev, test, trained, trained / total, size, seconds)


def moved(adapters: dict[str, AdapterFile], folder: Path) -> None:
    """Measure trained adapters on the backbone in other precisions than they were trained on."""
    splits, _ = load_splits(source(folder), NER)
    print("\n| moved to | adapter | dev F1 | test F1 | lost on test | seconds |\n|---|---|---|---|---|---|")
    reference: dict[str, float] = {}
    for label in ("fp32", "bf16", "int8", "nf4"):
        dock = Dock(load(label))
        for method, adapter in adapters.items():
            started = time.perf_counter()
            dev, test = (evaluate(dock, adapter, splits[split]).metrics["f1"] for split in ("validation", "test"))
            seconds = time.perf_counter() - started
            lost = reference.setdefault(method, test) - test
            print(f"| {label} | {method} | {dev:.2f} | {test:.2f} | {lost:+.2f} | {seconds:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sides", default="lora,bottleneck,prefix,peft,full")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full-rates", default="1e-4", help="learning rates of full fine-tuning, to tune it on dev")
    parser.add_argument("--peft-rates", default="1e-3")
    parser.add_argument("--head-start", choices=("fitted", "random"), default="fitted", help="of our methods")
    parser.add_argument(
        "--start-strength",
        type=float,
        default=head_fit.START_STRENGTH,
        help="inverse regularisation (C) of the fitted head that training starts from",
    )
    parser.add_argument("--precision", default=fast_precision("cpu"))
    parser.add_argument("--moved", action="store_true", help="measure the adapters in other precisions too")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    head_fit.START_STRENGTH = arguments.start_strength
    print(machine(), flush=True)
    rows: list[Row] = []
    adapters: dict[str, AdapterFile] = {}
    for side in arguments.sides.split(","):
        method, _, precision = side.partition("@")
        if method in OURS:
            recipe = merge_options("ner", method, {})
            print(f"{side}: {recipe.model_dump(exclude_defaults=True)}", flush=True)
            row, adapters[side] = ours(method, arguments.folder, arguments, precision or arguments.precision)
            rows.append(row)
            print(row, flush=True)
        else:
            rates = arguments.full_rates if side == "full" else arguments.peft_rates
            for rate in rates.split(","):
                rows.append(theirs(side, arguments.folder, arguments, float(rate)))
                print(rows[-1], flush=True)
    peft = next((row.seconds for row in rows if row.side.startswith("peft ")), None)
    print("\n| side | dev F1 | test F1 | trained | share | file | seconds | of PEFT's time |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        ratio = f"{row.seconds / peft:.2f}" if peft else "-"
        print(
            f"| {row.side} | {row.dev:.2f} | {row.test:.2f} | {row.trained:,} | {row.share:.2%} "
            f"| {row.file_bytes / 1e3:,.0f} kB | {row.seconds:.0f} | {ratio} |"
        )
    if arguments.moved:
        moved(adapters, arguments.folder)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()
