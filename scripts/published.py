"""The adapters of registry.json, made again from their data sets: trained by the recipe, measured, and published.

    python scripts/published.py NAME... --data FOLDER [--registry .] [--runs build/published] [--resume]

FOLDER holds the data sets by name (wnut17, ud_en_ewt, ...). The metrics are those of the test split, which is neither
trained on nor used to choose an epoch; the deciding one has its 95 % interval (bootstrap over records). An adapter that
is useless, or below a simple answer without a backbone, is not published. ``--resume`` continues an interrupted run.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.evaluation.resampling import Metric, interval
from adaptdock.engine.training.members.task_run import Measured
from adaptdock.engine.training.train import train
from adaptdock.errors import AdaptError, UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import AdapterFile, write_file
from adaptdock.hub.registry.publishing import Published, publish
from adaptdock.plugins.contracts import Task

PUBLISHER = "adaptdock"
EWT = "UD English EWT"
EWT_AUTHORS = f"{EWT} (Universal Dependencies contributors, CC BY-SA 4.0)"


@dataclass(frozen=True)
class Publication:
    """An adapter to publish: its task, its data set, and the fields of its card."""

    task: str
    data: Callable[[Path, Path], Source]
    """Returns the source, given the folder of the data sets and a folder for files that are made from them."""
    description: str
    licence: str
    test_set: str
    version: str = "1"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Training options in place of the recipe's."""


def files(folder: str, **splits: str) -> Callable[[Path, Path], Source]:
    """Return what reads the files of a data set as they are."""

    def source(data: Path, _: Path) -> Source:
        return Source(**{split: str(data / folder / name) for split, name in splits.items()})

    return source


def messages(data: Path, work: Path) -> Source:
    """Divide the messages, which have no split; the copies of a text, whatever its numbers, stay in one split."""
    lines = (data / "sms_spam" / "SMSSpamCollection").read_text(encoding="utf-8").splitlines()
    by_letters: dict[str, dict[str, str]] = {}
    for label, _, text in (line.partition("\t") for line in lines if line):
        by_letters.setdefault(" ".join(re.findall("[a-z]+", text.lower())), {"text": text, "label": label})
    splits: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for letters, record in by_letters.items():
        is_test = hashlib.sha256(letters.encode()).digest()[0] % 5 == 0
        splits["test" if is_test else "train"].append(record)
    return written(splits, work)


def genres(data: Path, work: Path) -> Source:
    """Take the sentences of 22 characters or more, with the kind of text that the number of each begins with."""
    splits = {}
    for split, name in (("train", "dev"), ("test", "test")):
        lines = (data / "ud_en_ewt" / f"en_ewt-ud-{name}.conllu").read_text(encoding="utf-8").splitlines()
        numbers = [line.removeprefix("# sent_id = ") for line in lines if line.startswith("# sent_id = ")]
        texts = [line.removeprefix("# text = ") for line in lines if line.startswith("# text = ")]
        splits[split] = [
            {"text": text, "label": number.partition("-")[0]}
            for number, text in zip(numbers, texts, strict=True)
            if len(text) >= 22
        ]
    return written(splits, work)


def written(splits: Mapping[str, list[dict[str, str]]], work: Path) -> Source:
    """Write records as JSON lines, a file for each split."""
    work.mkdir(parents=True, exist_ok=True)
    for split, records in splits.items():
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (work / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return Source(**{split: str(work / f"{split}.jsonl") for split in splits})


PUBLICATIONS = {
    "english-pos": Publication(
        "pos",
        files("ud_en_ewt", train="en_ewt-ud-dev.conllu", test="en_ewt-ud-test.conllu"),
        f"Universal part-of-speech tags for English, trained on the development set of {EWT_AUTHORS}.",
        "CC-BY-SA-4.0",
        f"{EWT}, test",
        version="2",
    ),
    "english-names": Publication(
        "ner",
        files("wnut17", train="wnut17train.conll", validation="emerging.dev.conll", test="emerging.test.annotated"),
        "Names of persons, places, groups, companies, products and creative works in English, trained on WNUT 2017 "
        "(emerging entities in tweets and comments; Derczynski et al., CC BY 4.0).",
        "CC-BY-4.0",
        "WNUT 2017, test",
    ),
    "english-species": Publication(
        "ner",
        files("lm_biomed_linnaeus", train="train.tsv", validation="devel.tsv", test="test.tsv"),
        "Names of species in English biomedical articles, trained on the LINNAEUS corpus (Gerner et al. 2010) as "
        "tokens and tags (Crichton et al. 2017, CC BY 4.0).",
        "CC-BY-4.0",
        "LINNAEUS, test",
        options={"epochs": 1},  # of 746 steps, more than the recipe aims at
    ),
    "banking-intents": Publication(
        "intent",
        files("banking77", train="train.csv", test="test.csv"),
        "77 intents of questions to a bank, trained on Banking77 (PolyAI, CC BY 4.0).",
        "CC-BY-4.0",
        "Banking77, test",
    ),
    "sms-spam": Publication(
        "spam",
        messages,
        "Spam in English text messages, trained on the SMS Spam Collection v.1 (copyright Almeida and Gomez Hidalgo, "
        "free to use, modify and publish, without warranty).",
        "LicenseRef-SMS-Spam-Collection",
        "SMS Spam Collection, a fifth of the texts",
    ),
    "english-genres": Publication(
        "classification",
        genres,
        f"Kind of text of an English sentence (answers, email, newsgroup, reviews, weblog), trained on the development "
        f"set of {EWT_AUTHORS}.",
        "CC-BY-SA-4.0",
        f"{EWT}, sentences of test",
    ),
}


def make(name: str, data: Path, registry: Path, runs: Path, resume: bool) -> Published:
    """Train, measure and publish an adapter; raise :class:`UsageError` for a useless one."""
    publication, work = PUBLICATIONS[name], runs / name
    source = publication.data(data, work / "data")
    result = train(publication.task, data=source, folder=work / "run", resume=resume, **publication.options)
    assert result.measured is not None
    if result.shortfall:
        raise UsageError(f"{name} is not published: {result.shortfall}")
    return release(name, result.adapter, result.measured, source, registry, work)


def release(
    name: str, adapter: AdapterFile, measured: Measured, source: Source, registry: Path, work: Path
) -> Published:
    """Publish a trained adapter with the interval of its metric.

    Raises :class:`UsageError` if an answer without a backbone is as good.
    """
    assert measured.split == "test"
    publication, card = PUBLICATIONS[name], adapter.card
    task = make_task(card.task.name, card.task.options)
    key = type(task).metric
    value, simple = measured.evaluation.metrics[key], simple_metric(task, card, source, measured)
    if value <= simple:
        raise UsageError(f"{name} is not published: a simple answer reaches {key} {simple:g}, the adapter {value:g}")
    low, high = bounds(task, measured)
    metrics = {**card.metrics, "test": {**measured.evaluation.metrics, f"{key}_low": low, f"{key}_high": high}}
    file = work / f"{name}.safetensors"
    write_file(file, AdapterFile(card.model_copy(update={"metrics": metrics}), adapter.tensors))
    figures = f"{key} {value:.2f} (95 % interval {low:.2f} to {high:.2f}; without a backbone {simple:.2f})"
    return publish(
        file,
        registry,
        PUBLISHER,
        publication.test_set,
        name=name,
        version=publication.version,
        description=f"{publication.description} On test: {figures}.",
        licence=publication.licence,
        languages=["en"],
    )


def simple_metric(task: Task, card: Card, source: Source, measured: Measured) -> float:
    """Return the metric of the best answer without a backbone: TF-IDF, or the most frequent tag of each word."""
    known: Mapping[str, float] = card.training.get("classic", {}).get("methods", {})
    if known:
        return max(known.values())
    # The run itself compares with a bag of words up to a limit only (plugins/toolkit/classic_answers.py).
    splits, _ = load_splits(source, type(task))
    texts, labels = ([record[field] for record in splits["train"]] for field in ("text", "label"))
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LinearSVC()).fit(texts, labels)
    answers = model.predict([record["text"] for record in measured.records])
    scored = [{"label": label, "score": 1.0, "scores": {label: 1.0}} for label in answers]
    return float(task.score(measured.records, scored)[type(task).metric])


def bounds(task: Task, measured: Measured) -> tuple[float, float]:
    """Return the 95 % interval of the deciding metric."""
    metric = Metric(task, measured.records, measured.evaluation.scored)
    limits = interval(metric, np.arange(len(measured.records)))
    assert limits is not None
    return round(limits[0], 2), round(limits[1], 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=PUBLICATIONS, metavar="NAME", help=", ".join(PUBLICATIONS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--registry", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--runs", type=Path, default=Path("build/published"))
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.names:
        try:
            published = make(name, arguments.data, arguments.registry, arguments.runs, arguments.resume)
        except AdaptError as error:
            raise SystemExit(f"{error}") from None
        print(f"{published.file}: {published.entry.size:,} bytes. {published.entry.description}", flush=True)


if __name__ == "__main__":
    main()
