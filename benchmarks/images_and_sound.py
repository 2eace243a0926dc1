"""Adapters on models of images and sounds: accuracy on the test split of the sample, beside logistic regression.

    python benchmarks/images_and_sound.py

The models are tiny and have random weights, so the figures say only whether training and prediction are sound. The
logistic regression of scikit-learn reads the same frozen vectors: the mean of the last hidden states that a head reads.
"""

import tempfile
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression

from adaptdock import train
from adaptdock.engine.conformance.bench import fitted
from adaptdock.engine.conformance.models import Shape, tiny_backbone
from adaptdock.engine.core.batches import collate, reading
from adaptdock.plugins.contracts import Backbone, Batch, Record

CASES: dict[str, Shape] = {"image-classification": "image encoder", "audio-classification": "sound encoder"}
METHODS = ("features", "lora", "bottleneck")
SEEDS = (0, 1, 2)


def vectors(backbone: Backbone, task: str, records: list[Record]) -> torch.Tensor:
    """Return the mean state (N, W) of each record."""
    instance = fitted(task)[0]
    features = [instance.encode(record, reading(backbone, 1, 0), labelled=False)[0] for record in records]
    inputs = collate(backbone, features)
    mask = inputs["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        states = backbone.forward(Batch(inputs))
    return (states * mask).sum(1) / mask.sum(1)


def regression(backbone: Backbone, task: str) -> float:
    """Return the accuracy of logistic regression on frozen vectors, in percent."""
    splits = fitted(task)[1]
    parts = {split: vectors(backbone, task, list(records)).numpy() for split, records in splits.items()}
    labels = {split: [record["label"] for record in records] for split, records in splits.items()}
    model = LogisticRegression(C=1e4, max_iter=10_000).fit(parts["train"], labels["train"])
    return 100 * float(model.score(parts["test"], labels["test"]))


def main() -> None:
    """Print the accuracy of each method and seed."""
    for task, shape in CASES.items():
        backbone = tiny_backbone(shape)
        print(f"{task}: logistic regression on the frozen vectors {regression(backbone, task):.1f}")
        for method in METHODS:
            accuracies = []
            for seed in SEEDS:
                with tempfile.TemporaryDirectory() as folder:
                    run = train(task, method, backbone, folder=Path(folder) / "run", seed=seed)
                    accuracies.append(run.adapter.card.metrics["test"]["accuracy"])
            print(f"{task}: {method} {' '.join(f'{accuracy:.1f}' for accuracy in accuracies)}")


if __name__ == "__main__":
    main()
