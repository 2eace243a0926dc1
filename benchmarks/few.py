"""Few labels: an adapter trained with no option but its task, beside the answers that anyone gets in one line.

    python benchmarks/few.py FOLDER [--sets sms_spam,banking77] [--sizes 4,8,32] [--draws 3] [--sides lr,adapt]
        [--rows FILE] [--part 2/8] [--device cuda]

FOLDER holds the data sets by name; a set that is not named here is a folder with train.jsonl and test.jsonl, of texts
with labels. ``--rows`` adds a line to a file after each side of a draw; the same command later does only what the file
lacks. ``--part 2/8`` does the second of eight parts, for several processes. A size is the labelled texts of each class
(the sentences, for words); ``all`` is everything. Each draw takes other records, the same for every side; the metric is
measured on the same test records (``--tested``). Sides:

    majority  the most frequent class, or the most frequent tag of each word
    tfidf     logistic regression on TF-IDF of words and pairs of words
    lr        logistic regression on the frozen mean states, C by cross-validation
    setfit    SetFit on the same checkpoint, its defaults, which take all pairs (``--setfit-steps`` limits them);
              needs the package setfit
    peft      PEFT LoRA of rank 8 on query and value; rate and epochs tuned on a fifth of the records held out
    full      full fine-tuning; rate and epochs tuned likewise
    adapt     adapt train --task TASK --train FILE

``tfidf``, ``lr`` and ``setfit`` are for texts alone. Means over the draws stand with the half width of their 95 %
interval.
"""

import argparse
import csv
import json
import logging
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

import torch
from baselines import most_frequent_class, most_frequent_tag
from machine import machine
from torch import Tensor, nn
from transformers import AutoModel

from adaptdock.backbones.transformers.checkpoint import resolve
from adaptdock.engine.core.batches import by_length, collate, collate_labels, length, shuffled_by_length
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.engine.training.planning.run_plan import RunPlan
from adaptdock.engine.training.train import carry_out
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Feature, LoadOptions, Record
from adaptdock.plugins.toolkit.heads import mean_state

T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
RATES = {"peft": (5e-4, 2e-3), "full": (5e-5, 2e-4)}
STEPS = (50, 200)
BATCH = 16


@dataclass(frozen=True)
class DataSet:
    """A data set: its task, and how training and test records are read from its folder."""

    task: str
    read: Callable[[Path], tuple[list[Record], list[Record]]]


def sms_spam(folder: Path) -> tuple[list[Record], list[Record]]:
    lines = (folder / "sms_spam" / "SMSSpamCollection").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("\t") for line in lines if line]
    return divided([{"text": text, "label": label} for label, _, text in pairs])


def banking77(folder: Path) -> tuple[list[Record], list[Record]]:
    def rows(split: str) -> list[Record]:
        with (folder / "banking77" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            return [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(file)]

    return rows("train"), rows("test")


def genres(folder: Path) -> tuple[list[Record], list[Record]]:
    """Sentences of the English Web Treebank, and the kind of text each is from (its id begins with it)."""

    def sentences(split: str) -> list[Record]:
        found, genre = [], ""
        for line in (folder / "ud_en_ewt" / f"en_ewt-ud-{split}.conllu").read_text(encoding="utf-8").splitlines():
            if line.startswith("# sent_id = "):
                genre = line[12:].partition("-")[0]
            elif line.startswith("# text = ") and len(line) > 30:
                found.append({"text": line[9:], "label": genre})
        return found

    return sentences("dev"), sentences("test")


def of_files(name: str) -> DataSet:
    """Return the set of texts in train.jsonl and test.jsonl of the folder ``name``."""

    def read(folder: Path) -> tuple[list[Record], list[Record]]:
        train, test = (
            [json.loads(line) for line in (folder / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
            for split in ("train", "test")
        )
        return train, test

    return DataSet("classification", read)


def words_of(task: str, train: str, test: str) -> Callable[[Path], tuple[list[Record], list[Record]]]:
    """Return what reads sentences of tagged words from two files."""

    def read(folder: Path) -> tuple[list[Record], list[Record]]:
        kind = registry.load("task", task)
        formats = {"format": "conllu" if train.endswith("conllu") else "conll"}
        files = {"train": str(folder / train), "validation": str(folder / test)}
        splits, _ = load_splits(Source(**files, **formats), kind)
        keep = ("tokens", "tags")
        train_records, test_records = ([{key: r[key] for key in keep} for r in splits[name]] for name in files)
        return train_records, test_records

    return read


SETS = {
    "sms_spam": DataSet("classification", sms_spam),
    "banking77": DataSet("classification", banking77),
    "ewt_genres": DataSet("classification", genres),
    "ud_en_ewt": DataSet("pos", words_of("pos", "ud_en_ewt/en_ewt-ud-dev.conllu", "ud_en_ewt/en_ewt-ud-test.conllu")),
    "wnut17": DataSet("ner", words_of("ner", "wnut17/wnut17train.conll", "wnut17/emerging.test.annotated")),
}


def divided(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """Return two thirds of the records, and one third to test on."""
    order = Random(0).sample(records, len(records))
    return order[len(order) // 3 :], order[: len(order) // 3]


def drawn(records: Sequence[Record], size: int | None, seed: int) -> list[Record]:
    """Return so many records of each class, or so many sentences, in random order."""
    order = Random(seed).sample(list(records), len(records))
    if size is None:
        return order
    if "label" not in order[0]:
        return order[:size]
    by_label: dict[str, list[Record]] = defaultdict(list)
    for record in order:
        by_label[record["label"]].append(record)
    chosen = [record for label in sorted(by_label) for record in by_label[label][:size]]
    return Random(seed).sample(chosen, len(chosen))


# ------------------------------------------------------------------------------------------------ sides


@dataclass
class Case:
    """One draw: the plan of the product (with its test records), the files it reads, and the backbone."""

    made: Plan
    folder: Path
    backbone: Backbone
    seed: int
    setfit_steps: int = -1
    details: dict[str, Any] = field(default_factory=dict)
    """What the product says of its choice."""

    @property
    def metric(self) -> str:
        return type(self.made.task).metric

    @property
    def texts(self) -> tuple[list[str], list[str], list[str], list[str]]:
        """Training texts and labels, test texts and labels."""
        train, test = self.made.records["train"], self.made.records["test"]
        return (
            [record["text"] for record in train],
            [record["label"] for record in train],
            [record["text"] for record in test],
            [record["label"] for record in test],
        )


def majority(case: Case) -> float:
    baseline = most_frequent_class if "label" in case.made.records["train"][0] else most_frequent_tag
    return float(baseline(case.made)[case.metric])


def share(found: Sequence[str], gold: Sequence[str]) -> float:
    return 100 * sum(a == b for a, b in zip(found, gold, strict=True)) / len(gold)


def regression(vectors: Any, labels: Sequence[str], seed: int) -> Any:
    """Return logistic regression with C by cross-validation, as far as each class has records for folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    folds = min(5, min(list(labels).count(label) for label in set(labels)))
    model = LogisticRegression(max_iter=1000)
    if folds < 2:
        return model.fit(vectors, labels)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return GridSearchCV(model, {"C": [0.1, 1, 10, 100, 1000]}, cv=splitter, scoring="neg_log_loss").fit(vectors, labels)


def tfidf(case: Case) -> float:
    from sklearn.feature_extraction.text import TfidfVectorizer

    train, labels, test, gold = case.texts
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(train)
    return share(regression(words.transform(train), labels, case.seed).predict(words.transform(test)), gold)


def lr(case: Case) -> float:
    train, labels, test, gold = case.texts
    model = regression(mean_vectors(case, train), labels, case.seed)
    return share(model.predict(mean_vectors(case, test)), gold)


@torch.inference_mode()
def mean_vectors(case: Case, texts: Sequence[str]) -> Any:
    """Return the mean states of texts, of length 1, by the model alone."""
    tokenizer, model = case.backbone.tokenizer, case.backbone.model
    found = []
    for start in range(0, len(texts), 64):
        batch = tokenizer(list(texts[start : start + 64]), padding=True, truncation=True, return_tensors="pt")
        batch = batch.to(case.backbone.device)
        states = model(**batch).last_hidden_state.float()
        found.append(mean_state(states, batch["attention_mask"]).squeeze(1).cpu())
    return nn.functional.normalize(torch.cat(found), dim=-1).numpy()


def setfit(case: Case) -> float:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, models
    from setfit import SetFitModel, Trainer, TrainingArguments

    train, labels, test, gold = case.texts
    alike = sum(count * (count - 1) // 2 for count in Counter(labels).values())
    unlike, most = len(labels) * (len(labels) - 1) // 2 - alike, case.setfit_steps
    transformer = models.Transformer(str(resolve("minilm").folder))
    pooling = models.Pooling(transformer.get_word_embedding_dimension())
    body = SentenceTransformer(modules=[transformer, pooling], device=str(case.backbone.device))
    from sklearn.linear_model import LogisticRegression

    model = SetFitModel(model_body=body, model_head=LogisticRegression(max_iter=1000))
    arguments = TrainingArguments(
        batch_size=BATCH,
        num_epochs=1,
        max_steps=most if -1 < most < math.ceil(2 * max(alike, unlike) / BATCH) else -1,
        seed=case.seed,
        output_dir=str(case.folder / "setfit"),
    )
    Trainer(model=model, args=arguments, train_dataset=Dataset.from_dict({"text": train, "label": labels})).train()
    return share([str(answer) for answer in model.predict(test)], gold)


def adapt(case: Case) -> float:
    made = plan(case.backbone, case.made.task_name, source=source_of(case.folder), options={"seed": case.seed})
    (result,) = carry_out(RunPlan.of(made), case.folder / "run").values()
    training = result.adapter.card.training
    case.details = {name: training[name] for name in ("folds", "fitted_head", "shortfall") if name in training}
    case.details["bytes"] = result.size
    return float(result.adapter.card.metrics["test"][case.metric])


class Tuned(nn.Module):
    """A model with a linear head on its mean state or on each state, trained by the task's own loss."""

    def __init__(self, case: Case, body: nn.Module) -> None:
        super().__init__()
        self.body, self.task, self.backbone = body, case.made.task, case.backbone
        self.head = nn.Linear(case.backbone.width, case.made.assembly.head.classes)  # type: ignore[attr-defined]
        self.pooled = "label" in case.made.records["train"][0]

    def forward(self, features: Sequence[Feature]) -> Tensor:
        inputs = collate(self.backbone, features)
        states = self.body(**inputs).last_hidden_state
        if self.pooled:
            states = mean_state(states, inputs["attention_mask"]).squeeze(1)
        logits: Tensor = self.head(states)
        return logits

    def loss(self, features: Sequence[Feature]) -> Tensor:
        return self.task.loss(self(features), collate_labels(features, self.backbone.device), None)


def body_of(side: str) -> nn.Module:
    body = AutoModel.from_pretrained(str(resolve("minilm").folder))
    if side == "full":
        return body  # type: ignore[no-any-return]
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=["query", "value"])
    return get_peft_model(body, config)  # type: ignore[no-any-return]


def fine_tuned(case: Case, side: str, records: Sequence[Record], rate: float, steps: int) -> Tuned:
    """Train with a linear schedule, batches grouped by length, at least five epochs."""
    torch.manual_seed(case.seed)
    model = Tuned(case, body_of(side)).to(case.backbone.device)
    units = [f for record in records for f in case.made.task.encode(record, case.made.reading, labelled=True)]
    epochs = max(5, math.ceil(steps * BATCH / len(units)))
    total = epochs * math.ceil(len(units) / BATCH)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
    model.train()
    for epoch in range(epochs):
        order = shuffled_by_length([length(unit) for unit in units], BATCH, case.seed * 1000 + epoch)
        for start in range(0, len(order), BATCH):
            optimizer.zero_grad()
            model.loss([units[number] for number in order[start : start + BATCH]]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.inference_mode()
def scored(case: Case, model: Tuned, records: Sequence[Record]) -> float:
    task = case.made.task
    encoded = [task.encode(record, case.made.reading, labelled=False) for record in records]
    windows = [(row, window) for row, own in enumerate(encoded) for window in range(len(own))]
    digests: list[list[Any]] = [[None] * len(own) for own in encoded]
    for batch in by_length([length(encoded[row][window]) for row, window in windows], 32, 4096):
        features = [encoded[windows[number][0]][windows[number][1]] for number in batch]
        for number, feature, logits in zip(batch, features, model(features).cpu(), strict=True):
            row, window = windows[number]
            digests[row][window] = logits if model.pooled else logits[: length(feature)]
    rows = zip(records, encoded, digests, strict=True)
    metrics = task.score(records, [task.decode(record, own, found) for record, own, found in rows])
    return float(metrics[case.metric])


def tuned(case: Case, side: str) -> float:
    """Choose rate and steps on a fifth of the records, then train on all of them."""
    records = case.made.records["train"]
    cut = max(1, len(records) // 5)
    tried = {
        (rate, steps): scored(case, fine_tuned(case, side, records[cut:], rate, steps), records[:cut])
        for rate in RATES[side]
        for steps in STEPS
    }
    rate, steps = max(tried, key=tried.__getitem__)
    return scored(case, fine_tuned(case, side, records, rate, steps), case.made.records["test"])


SIDES: dict[str, Callable[[Case], float]] = {
    "majority": majority,
    "tfidf": tfidf,
    "lr": lr,
    "setfit": setfit,
    "peft": lambda case: tuned(case, "peft"),
    "full": lambda case: tuned(case, "full"),
    "adapt": adapt,
}
TEXTS_ALONE = ("tfidf", "lr", "setfit")


# --------------------------------------------------------------------------------------------- measuring


def source_of(folder: Path) -> Source:
    return Source(train=str(folder / "train.jsonl"), test=str(folder / "test.jsonl"))


def cases(arguments: argparse.Namespace, backbone: Backbone) -> Iterator[tuple[str, str, Case]]:
    """Yield data set, size and case of each draw, all sets and sizes before the next draw."""
    sets = {name: SETS.get(name) or of_files(name) for name in arguments.sets.split(",")}
    records = {name: data_set.read(Path(arguments.folder)) for name, data_set in sets.items()}
    part, parts = (int(number) for number in arguments.part.split("/"))
    for seed, size, name in list(product(range(arguments.draws), arguments.sizes.split(","), sets))[part - 1 :: parts]:
        train, test = records[name]
        test = Random(1).sample(test, min(arguments.tested, len(test)))
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            known = drawn(train, None if size == "all" else int(size), seed)
            for split, rows in (("train", known), ("test", learnable(known, test))):
                (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            options = {"hold_out": "auto", "seed": seed}
            made = plan(backbone, sets[name].task, source=source_of(folder), options=options)
            made.records["train"] += made.records.pop("validation", [])
            yield name, size, Case(made, folder, backbone, seed, arguments.setfit_steps)


def learnable(train: Sequence[Record], test: Sequence[Record]) -> list[Record]:
    """Return the test records whose labels, or types of entities, the training records have."""
    if "label" in train[0]:
        labels = {record["label"] for record in train}
        return [record for record in test if record["label"] in labels]
    types = {tag.rpartition("-")[2] for record in train for tag in record["tags"]}
    return [record for record in test if {tag.rpartition("-")[2] for tag in record["tags"]} <= types | {"O"}]


def interval(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    half = T_95.get(len(values), 1.96) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.1f} ± {half:.1f}"


def rows_of(file: Path | None) -> list[dict[str, Any]]:
    """Return the rows of an earlier run."""
    if file is None or not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def show(rows: Sequence[dict[str, Any]], sides: Sequence[str]) -> None:
    """Print means with intervals, and the CPU seconds of each side over the draws that it has."""
    values: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    seconds: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        values[row["set"], row["size"]][row["side"]].append(row["value"])
        seconds[row["side"]].append(row["seconds"])
    print("| set | size | draws | " + " | ".join(sides) + " |\n|" + "---|" * (len(sides) + 3))
    for (name, size), by_side in values.items():
        cells = [interval(by_side[side]) if by_side[side] else "" for side in sides]
        print(f"| {name} | {size} | {max(map(len, by_side.values()))} | " + " | ".join(cells) + " |")
    means = [f"{side} {statistics.fmean(seconds[side]):.0f}" for side in sides if seconds[side]]
    print("CPU seconds a draw:", ", ".join(means))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--sizes", default="4,8,16,32,64,all")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--tested", type=int, default=1000)
    parser.add_argument("--backbone", default="minilm", help="that of lr and adapt; the other sides use MiniLM")
    parser.add_argument("--dtype", default="float32", help="precision of the backbone of lr and adapt")
    parser.add_argument(
        "--setfit-steps", type=int, default=-1, help="most steps of SetFit; -1: as many as its pairs give"
    )
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--part", default="1/1", help="K/N: every Nth draw of a set, from the Kth on")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    sides = arguments.sides.split(",")
    backbone = load_backbone(arguments.backbone, LoadOptions(device=arguments.device, dtype=arguments.dtype))
    rows = rows_of(arguments.rows)
    done = {(row["set"], row["size"], row["draw"], row["side"]) for row in rows}
    for name, size, case in cases(arguments, backbone):
        for side in sides:
            texts = case.made.task_name == "classification"
            if (side in TEXTS_ALONE and not texts) or (name, size, case.seed, side) in done:
                continue
            started = time.process_time()
            value = SIDES[side](case)
            seconds = round(time.process_time() - started, 1)
            draw = {"set": name, "size": size, "draw": case.seed, "side": side, "value": value, "seconds": seconds}
            rows.append({**draw, **case.details} if side == "adapt" else draw)
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            if arguments.rows:
                with arguments.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    show(rows, sides)


if __name__ == "__main__":
    main()
