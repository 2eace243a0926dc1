"""What the comparison of a run with a bag of words costs: CPU seconds, and accuracy on texts that it has not seen.

    python benchmarks/bag_of_words.py FOLDER

FOLDER holds the data sets by name. ``joint`` is one multinomial regression of all classes, with the same choice of its
strength, in place of a regression for each class. The last two rows are sentences that name a species or do not, alone
and ten in a row.
"""

import argparse
import csv
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
from machine import machine
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from adaptdock.plugins.toolkit.blas_threads import one_blas_thread
from adaptdock.plugins.toolkit.classic_answers import COMPARED, FOLDS, STRENGTHS, bag_of_words

Labelled = list[tuple[str, str]]


def banking77(folder: Path) -> tuple[Labelled, Labelled]:
    def rows(split: str) -> Labelled:
        with (folder / "banking77" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            return [(row["text"], row["category"]) for row in csv.DictReader(file)]

    return rows("train"), rows("test")


def sms_spam(folder: Path) -> tuple[Labelled, Labelled]:
    lines = (folder / "sms_spam" / "SMSSpamCollection").read_text(encoding="utf-8").splitlines()
    messages = [(text, label) for label, _, text in (line.partition("\t") for line in lines if line)]
    Random(0).shuffle(messages)
    return messages[:4500], messages[4500:]


def species(folder: Path) -> tuple[Labelled, Labelled]:
    def sentences(split: str) -> Labelled:
        text = (folder / "lm_biomed_linnaeus" / f"{split}.tsv").read_text(encoding="utf-8")
        blocks = [[line.split("\t") for line in block.splitlines()] for block in text.split("\n\n") if block.strip()]
        return [(" ".join(row[0] for row in rows), str(any(row[-1] != "O" for row in rows))) for rows in blocks]

    test = sentences("test")
    return [*sentences("train"), *sentences("devel"), *test[:4500]], test[4500:]


def paragraphs(folder: Path) -> tuple[Labelled, Labelled]:
    def joined(part: Labelled) -> Labelled:
        tens = [part[start : start + 10] for start in range(0, len(part), 10)]
        return [(" ".join(text for text, _ in ten), str(any(label == "True" for _, label in ten))) for ten in tens]

    train, test = species(folder)
    return joined(train), joined(test)


@one_blas_thread()
def joint(texts: Sequence[str], labels: Sequence[str], asked: Sequence[str]) -> list[str]:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    vectors, targets = words.fit_transform(texts), np.asarray(labels)
    model = LogisticRegression(max_iter=300)
    rows = np.random.default_rng(0).permutation(len(texts))[:COMPARED]
    search = GridSearchCV(model, {"C": STRENGTHS}, cv=FOLDS, scoring="neg_log_loss", refit=False)
    model.set_params(**search.fit(vectors[rows], targets[rows]).best_params_).fit(vectors, targets)
    return [str(label) for label in model.predict(words.transform(asked))]


def separate(texts: Sequence[str], labels: Sequence[str], asked: Sequence[str]) -> list[str]:
    rows = bag_of_words(texts, labels, asked)
    assert rows is not None
    return [max(row, key=row.__getitem__) for row in rows]


SETS: list[tuple[Callable[[Path], tuple[Labelled, Labelled]], int]] = [
    (banking77, 2_000),
    (banking77, 10_003),
    (sms_spam, 4_500),
    (species, 20_000),
    (paragraphs, 2_000),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    warnings.simplefilter("ignore")
    print(machine(), flush=True)
    print("| set | texts | characters | classes | side | accuracy | CPU seconds |\n|---|---|---|---|---|---|---|")
    for read, count in SETS:
        train, test = read(folder)
        train = Random(1).sample(train, min(count, len(train)))
        texts, labels = zip(*train, strict=True)
        for side in (separate, joint):
            if side is joint and len(set(labels)) == 2:  # the same regression
                continue
            started = time.process_time()
            answers = side(texts, labels, [text for text, _ in test])
            seconds = time.process_time() - started
            accuracy = 100 * np.mean([answer == label for answer, (_, label) in zip(answers, test, strict=True)])
            print(
                f"| {read.__name__} | {len(texts):,} | {sum(map(len, texts)):,} | {len(set(labels))} "
                f"| {side.__name__} | {accuracy:.2f} | {seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
