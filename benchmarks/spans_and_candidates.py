"""The tasks spans, multilabel-tokens, choice and rerank on real data, beside simple methods and other tasks.

    python benchmarks/spans_and_candidates.py FOLDER [--rows flat,nested,...] [--train 1000] [--epochs 3]

FOLDER holds the data sets by name (wnut17, ud_en_ewt, banking77, xquad_en). All runs are lora on MiniLM with the recipe
of the task, seed 0. The data of each row:

- flat: WNUT-17, as ``spans`` and as ``ner``.
- nested: UD English EWT. A span is the subtree of a noun, proper noun or pronoun that is a subject, object, oblique or
  modifier, if its words are consecutive; its label is the relation. ``ner`` learns the outermost spans of the same
  sentences, and is measured on all.
- features: the morphological features of the words of UD English EWT, beside the most frequent set of each word.
- choice: the requests of banking77, each with the name of its intent and three others, drawn with seed 0; beside the
  cosine of the frozen vectors of request and name.
- rerank: the questions of XQuAD, each with the ten sentences of all articles that BM25 ranks highest; the one with the
  answer is relevant, and articles are in one split. Beside BM25 and the cosine of the frozen vectors of question and
  sentence.
"""

import argparse
import csv
import json
import logging
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

import torch
from machine import machine
from torch.nn import functional
from transformers.utils import logging as transformers_logging

from adaptdock.engine.core.batches import collate, reading
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Batch, LoadOptions
from adaptdock.plugins.toolkit.bm25 import BM25
from adaptdock.plugins.toolkit.heads import mean_state
from adaptdock.plugins.toolkit.windowing import windows

RELATIONS = ("nsubj", "obj", "obl", "nmod")
CANDIDATES = 10
VALIDATED, RANKED = 300, 50
"""Records to validate on; queries, which have several candidates each."""

Row = dict[str, Any]


def write(folder: Path, splits: dict[str, Sequence[Row]]) -> Source:
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(data=str(folder))


def trained(backbone: Backbone, task: str, source: Source, arguments: argparse.Namespace, **options: Any) -> Any:
    """Train with the recipe, and return the plan, the adapter, the metrics on the test data and the seconds."""
    settings = {"epochs": arguments.epochs, "patience": 0, "max_length": arguments.max_length}
    settings |= {"learning_rate": arguments.rate} if arguments.rate else {}
    made = plan(backbone, task, "lora", source, settings, task_options=options)
    with tempfile.TemporaryDirectory() as runs:
        started = time.perf_counter()
        result = train_plan(made, Path(runs))
        seconds = time.perf_counter() - started
    return made, result.adapter, result.adapter.card.metrics["test"], seconds


def show(row: str, side: str, metrics: Row, seconds: float | None = None, made: Plan | None = None) -> None:
    """Print the figures of a side on one line."""
    plain = {name: value for name, value in metrics.items() if not isinstance(value, dict)}
    plain |= {"overlapping_recall": metrics["overlapping"]["recall"]} if "overlapping" in metrics else {}
    sizes = {} if made is None else {split: len(records) for split, records in made.records.items()}
    print(json.dumps({"row": row, "side": side, **plain, "seconds": seconds and round(seconds), **sizes}), flush=True)


# --------------------------------------------------------------------------------------------- words


def words_of(path: Path, task: str) -> list[Row]:
    splits, _ = load_splits(Source(train=str(path), validation=str(path)), registry.load("task", task))
    return splits["train"]


def flat(folder: Path, place: Path, backbone: Backbone, arguments: argparse.Namespace) -> None:
    files = {"train": "wnut17train.conll", "validation": "emerging.dev.conll", "test": "emerging.test.annotated"}
    splits = {}
    for split, name in files.items():
        most = {"train": arguments.train, "validation": VALIDATED}.get(split)
        splits[split] = [
            {"tokens": row["tokens"], "tags": row["tags"]} for row in words_of(folder / "wnut17" / name, "ner")
        ][:most]
    source = write(place, splits)
    for task in ("ner", "spans"):
        made, _, metrics, seconds = trained(backbone, task, source, arguments)
        show("flat", task, metrics, seconds, made)


def trees(path: Path) -> Iterator[Row]:
    """Yield the sentences of a CoNLL-U file with the spans of their subtrees."""
    for block in path.read_text("utf-8").split("\n\n"):
        words = [cells for line in block.splitlines() if (cells := line.split("\t"))[0].isdigit()]
        if not words:
            continue
        heads = [int(cells[6]) - 1 for cells in words]
        spans = []
        for number, cells in enumerate(words):
            relation = cells[7].partition(":")[0]
            if relation in RELATIONS and cells[3] in ("NOUN", "PROPN", "PRON"):
                inside = [word for word in range(len(words)) if number in ancestors(word, heads)]
                if inside == list(range(inside[0], inside[-1] + 1)):
                    spans.append([inside[0], inside[-1], relation])
        yield {"tokens": [cells[1] for cells in words], "ranges": spans}


def ancestors(word: int, heads: Sequence[int]) -> set[int]:
    seen = set()
    while word >= 0:
        seen.add(word)
        word = heads[word]
    return seen


def as_tags(row: Row) -> Row:
    """Return the outermost spans of a sentence as tags."""
    tags = ["O"] * len(row["tokens"])
    for first, last, label in sorted(row["ranges"], key=lambda span: span[0] - span[1]):
        if all(tag == "O" for tag in tags[first : last + 1]):
            tags[first : last + 1] = [f"B-{label}", *[f"I-{label}"] * (last - first)]
    return {"tokens": row["tokens"], "tags": tags}


def nested(folder: Path, place: Path, backbone: Backbone, arguments: argparse.Namespace) -> None:
    rows = list(trees(folder / "ud_en_ewt" / "en_ewt-ud-dev.conllu"))
    splits = {
        "train": rows[VALIDATED:][: arguments.train],
        "validation": rows[:VALIDATED],
        "test": list(trees(folder / "ud_en_ewt" / "en_ewt-ud-test.conllu"))[: arguments.tested],
    }
    made, _, metrics, seconds = trained(backbone, "spans", write(place, splits), arguments, word_ends="inclusive")
    show("nested", "spans", metrics, seconds, made)
    source = write(place / "flat", {split: list(map(as_tags, rows)) for split, rows in splits.items()})
    _, adapter, metrics, seconds = trained(backbone, "ner", source, arguments)
    show("nested", "ner, outermost spans only", metrics, seconds)
    records = made.records["test"]
    with_dock = Dock(backbone)
    answers = with_dock.predict(with_dock.dock(adapter), [{"tokens": record["tokens"]} for record in records])
    with_dock.close()
    predictions = [{"spans": answer["entities"]} for answer in answers]
    show("nested", "ner, all spans", made.task.score(records, predictions))
    oracle = [{"spans": spans_of_tags(record)} for record in records]
    show("nested", "the outermost spans, all right", made.task.score(records, oracle))


def spans_of_tags(record: Row) -> list[Row]:
    """Return the outermost labelled spans of a record as predictions."""
    ner = registry.load("task", "ner")
    ranges = [[first, end - 1, label] for first, end, label in record["ranges"]]
    tags = as_tags({"tokens": record["tokens"], "ranges": ranges})["tags"]
    task = ner(ner.Options(labels=RELATIONS))
    outcome = task.outcome({**record, "tags": tags}, {"entities": [], "tags": ["O"] * len(tags)})
    return [{"start": mark.start, "end": mark.end, "label": mark.label} for mark in outcome.passages[0].marks]


def features(folder: Path, place: Path, backbone: Backbone, arguments: argparse.Namespace) -> None:
    files = {"train": "en_ewt-ud-dev.conllu", "test": "en_ewt-ud-test.conllu"}
    rows = {
        split: [
            {"tokens": row["tokens"], "labels": row["labels"]}
            for row in words_of(folder / "ud_en_ewt" / name, "multilabel-tokens")
        ]
        for split, name in files.items()
    }
    splits = {
        "train": rows["train"][VALIDATED:][: arguments.train],
        "validation": rows["train"][:VALIDATED],
        "test": rows["test"][: arguments.tested],
    }
    made, _, metrics, seconds = trained(backbone, "multilabel-tokens", write(place, splits), arguments)
    for name, answers in made.task.classic_answers(made.records["train"], made.records["test"]).items():
        show("features", name, made.task.score(made.records["test"], answers))
    show("features", "multilabel-tokens", metrics, seconds, made)


# ---------------------------------------------------------------------------------------- candidates


@torch.inference_mode()
def vectors(backbone: Backbone, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the mean hidden state of each text, of length 1; a long text is read in its first window."""
    settings, found = reading(backbone, 256, 0), {}
    order = sorted(set(texts), key=len)
    for start in range(0, len(order), 32):
        part = order[start : start + 32]
        inputs = collate(backbone, [windows(text, None, settings)[0] for text in part])
        states = mean_state(backbone.forward(Batch(inputs)).float(), inputs["attention_mask"]).squeeze(1)
        found.update(zip(part, functional.normalize(states, dim=-1), strict=True))
    return found


def choice(folder: Path, place: Path, backbone: Backbone, arguments: argparse.Namespace) -> None:
    draw, splits = Random(0), {}
    names = [name.replace("_", " ") for name in json.loads((folder / "banking77" / "categories.json").read_text())]
    for split, most in (("train", arguments.train + VALIDATED), ("test", arguments.tested)):
        with (folder / "banking77" / f"{split}.csv").open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        rows = draw.sample(rows, most)
        splits[split] = []
        for row in rows:
            right = row["category"].replace("_", " ")
            choices = [right, *draw.sample([name for name in names if name != right], 3)]
            draw.shuffle(choices)
            splits[split].append({"question": row["text"], "choices": choices, "answer": right})
    splits["validation"], splits["train"] = splits["train"][:VALIDATED], splits["train"][VALIDATED:]
    made, _, metrics, seconds = trained(backbone, "choice", write(place, splits), arguments)
    records = made.records["test"]
    found = vectors(backbone, [text for record in records for text in (record["question"], *record["choices"])])
    answers = []
    for record in records:
        cosines = torch.stack([found[text] for text in record["choices"]]) @ found[record["question"]]
        answers.append({"index": int(cosines.argmax())})
    show("choice", "cosine of frozen vectors", made.task.score(records, answers))
    for name, classic in made.task.classic_answers(made.records["train"], records).items():
        show("choice", name, made.task.score(records, classic))
    show("choice", "choice", metrics, seconds, made)


def divided(text: str) -> list[tuple[int, str]]:
    """Return the sentences of a text, each with the place where it begins."""
    starts = [0, *(mark.end() for mark in re.finditer(r"(?<=[.!?])\s+(?=[A-Z\"'])", text))]
    return [(start, text[start:end].strip()) for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def rerank(folder: Path, place: Path, backbone: Backbone, arguments: argparse.Namespace) -> None:
    articles = json.loads((folder / "xquad_en" / "xquad.en.json").read_text())["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    sentences = [sentence for paragraph in paragraphs for _, sentence in divided(paragraph["context"])]
    collection, splits = BM25(sentences), {"train": [], "validation": [], "test": []}
    for number, article in enumerate(articles):
        split = "test" if number % 5 == 0 else "validation" if number % 10 == 1 else "train"
        for paragraph in article["paragraphs"]:
            parts = divided(paragraph["context"])
            for question in paragraph["qas"]:
                start = question["answers"][0]["answer_start"]
                right = next(sentence for place, sentence in reversed(parts) if place <= start)
                scores = collection.scores(question["question"], sentences)
                candidates = [
                    sentences[place] for place in sorted(range(len(sentences)), key=lambda n: -scores[n])[:CANDIDATES]
                ]
                relevance = [int(text == right) for text in candidates]
                splits[split].append({"query": question["question"], "candidates": candidates, "relevance": relevance})
    for split, most in (("train", arguments.train), ("validation", RANKED), ("test", arguments.tested)):
        splits[split] = Random(0).sample(splits[split], min(most, len(splits[split])))
    made, _, metrics, seconds = trained(
        backbone, "rerank", write(place, splits), arguments, negatives=arguments.negatives
    )
    records = made.records["test"]
    texts = [candidate["text"] for record in records for candidate in record["candidates"]]
    found = vectors(backbone, [*texts, *(record["query"] for record in records)])
    for side in ("BM25", "cosine of frozen vectors"):
        answers = []
        for record in records:
            own = [candidate["text"] for candidate in record["candidates"]]
            if side == "BM25":
                scores = collection.scores(record["query"], own)
            else:
                scores = (torch.stack([found[text] for text in own]) @ found[record["query"]]).tolist()
            answers.append({"candidates": [{"index": n, "score": score} for n, score in enumerate(scores)]})
        answers = [{"candidates": sorted(a["candidates"], key=lambda c: -c["score"])} for a in answers]
        show("rerank", side, made.task.score(records, answers))
    show("rerank", "rerank", metrics, seconds, made)


ROWS = {"flat": flat, "nested": nested, "features": features, "choice": choice, "rerank": rerank}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--tested", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--negatives", type=int, default=3)
    parser.add_argument("--rate", type=float, help="learning rate; that of the recipe unless given")
    parser.add_argument("--max-length", type=int, default=256)
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    print(machine())
    backbone = load_backbone("minilm", LoadOptions(dtype="float32"))
    for name in arguments.rows.split(","):
        with tempfile.TemporaryDirectory() as place:
            ROWS[name](arguments.folder, Path(place), backbone, arguments)


if __name__ == "__main__":
    main()
