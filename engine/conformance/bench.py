"""A bench: a backbone with a fitted task, on which adapters are built, docked, compared and trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaptdock.engine.conformance.check import Unmet, expect
from adaptdock.engine.core.assembly import Assembly, assemble, entry, make_task
from adaptdock.engine.core.batches import collate, collate_labels, collate_row_inputs, counts, encoder_inputs, length
from adaptdock.engine.core.batches import reading as read_by
from adaptdock.engine.core.open_ports import OpenPorts
from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.members.trainable import TaskStart, Trainable
from adaptdock.hub.artefact.card import BackboneEntry, Card, PluginEntry, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone, Feature, Record, Task

TOLERANCE = 1e-5
"""Largest difference of float32 results that count as equal."""
RECORDS, WINDOWS, STEPS, RATE = 4, 8, 4, 0.05
"""The number of sample records (the shortest) and of their windows; training steps, learning rate."""
NOISE = 0.1
SLACK = 1e-3
"""Largest relative difference of a loss that is computed by two paths."""


@dataclass
class Bench:
    """A backbone, a task fitted on its sample data, and a few records of the sample."""

    backbone: Backbone
    task_name: str
    task: Task
    raw: Sequence[Record]
    """The shortest records of the sample, before cleaning."""

    @classmethod
    def of(cls, backbone: Backbone, task_name: str) -> "Bench":
        """Fit a task on its sample data."""
        task = fitted(task_name)[0].suit(read_by(backbone, backbone.max_length, 0))
        raw, _ = load_splits(Source(), type(task))
        shortest = sorted(raw["train"], key=lambda record: len(str(record)))[:RECORDS]
        return cls(backbone, task_name, task, shortest)

    @property
    def records(self) -> Sequence[Record]:
        """The records, cleaned by the task."""
        return self.task.clean(self.raw, "train").records

    @contextmanager
    def dock(self) -> Iterator[Dock]:
        """Open a dock, and close it at the end, which restores the backbone."""
        opened = Dock(self.backbone)
        try:
            yield opened
        finally:
            opened.close()

    def assembly(self, methods: Sequence[PluginEntry]) -> Assembly:
        """Put an adapter together; methods that cannot act on this backbone raise their own errors."""
        return assemble(self.backbone, methods, self.task)

    def adapter(self, methods: Sequence[PluginEntry], name: str, seed: int = 0, noise: float = NOISE) -> AdapterFile:
        """Return an adapter with its start weights plus noise, so that it acts."""
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            key: tensor + noise * torch.randn(tensor.shape, generator=generator)
            for key, tensor in self.assembly(methods).start(generator).items()
        }
        backbone = self.backbone
        card = Card(
            name=name,
            task=entry("task", self.task_name, self.task.options),
            methods=list(methods),
            backbone=BackboneEntry(
                id=backbone.id, architecture=backbone.architecture, fingerprint=backbone.fingerprint
            ),
            preprocessing=Preprocessing(max_length=backbone.max_length),
        )
        return AdapterFile(card, tensors)

    def features(self, methods: Sequence[PluginEntry]) -> list[Feature]:
        """Return labelled windows of the records, as short as an adapter with these methods needs."""
        reading = read_by(self.backbone, self.backbone.max_length, self.assembly(methods).positions)
        windows = [feature for record in self.records for feature in self.task.encode(record, reading, labelled=True)]
        counted = [feature for feature in windows if counts(feature.labels)]
        expect(counted, "no window of the sample has a label that counts")
        longest = max(map(length, counted))
        expect(longest <= reading.max_length, f"a window has {longest} tokens; there is room for {reading.max_length}")
        return counted[:WINDOWS]

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the backbone's weights."""
        return {name: tensor.clone() for name, tensor in self.backbone.model.state_dict().items()}

    def hidden(self, dock: Dock, names: Sequence[str | None], features: Sequence[Feature]) -> list[Tensor]:
        """Return the hidden states (T, W) of each row, without padding."""
        inputs = collate(self.backbone, [encoder_inputs(feature) for feature in features])
        with dock.boarding(names) as rows:
            hidden_states = dock.hidden(rows, inputs)
        return [states[mask.bool()] for states, mask in zip(hidden_states, inputs["attention_mask"], strict=True)]

    def logits(self, dock: Dock, name: str, features: Sequence[Feature]) -> list[Tensor]:
        """Return the logits of a docked adapter's head for each row."""
        with dock.boarding([name] * len(features)) as rows:
            return dock.run(rows, features)

    def train(self, adapter: AdapterFile) -> dict[str, Tensor]:
        """Take a few steps and return the weights; raise :class:`Unmet` for missing or non-finite gradients."""
        methods, ports = adapter.card.methods, OpenPorts(self.backbone)
        assembly, features = self.assembly(methods), self.features(methods)
        model = Trainable(self.backbone, ports, [[TaskStart(assembly)]]).train()
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if not trained:
            return model.tensors()[0]
        optimiser = torch.optim.AdamW(trained.values(), lr=RATE)
        before, frozen = model.tensors()[0], self.state()
        ports.acquire(assembly.sites)
        try:
            for step in range(STEPS):
                optimiser.zero_grad()
                _loss(model, self.backbone, features).backward()  # type: ignore[no-untyped-call]
                for name, weight in trained.items():
                    expect(weight.grad is not None, f"the weight {name} has no gradient: nothing depends on it")
                    expect(weight.grad is None or weight.grad.isfinite().all(), f"the gradient of {name} is not finite")
                optimiser.step()
                model.after_step(0, step + 1, STEPS)
        finally:
            ports.release(assembly.sites)
        after = model.tensors()[0]
        _check_moved(assembly, before, after)
        expect(same(frozen, self.state()), "training has changed the backbone")
        return after

    def losses(self, adapter: AdapterFile) -> tuple[float, float]:
        """Return the loss of start weights with noise, as computed by training and by the dock."""
        ports, features = OpenPorts(self.backbone), self.features(adapter.card.methods)
        assembly = self.assembly(adapter.card.methods)
        model = Trainable(self.backbone, ports, [[TaskStart(assembly)]]).eval()
        generator = torch.Generator().manual_seed(1)
        ports.acquire(assembly.sites)
        try:
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(NOISE * torch.randn(weight.shape, generator=generator))
                trained = _loss(model, self.backbone, features).item()
        finally:
            ports.release(assembly.sites)
        with self.dock() as dock:
            logits = self.logits(dock, dock.dock(replace(adapter, tensors=model.tensors()[0])), features)
        padded = torch.nn.utils.rnn.pad_sequence([window_logits.float() for window_logits in logits], batch_first=True)
        return trained, float(self.task.loss(padded, collate_labels(features, torch.device("cpu")), None))


def fitted(task_name: str) -> tuple[Task, dict[str, Sequence[Record]]]:
    """Return a task fitted on its sample data, and the sample's cleaned splits."""
    blank = make_task(task_name, {})
    raw, _ = load_splits(Source(), type(blank))
    splits = {split: blank.clean(records, split).records for split, records in raw.items()}
    task = blank.fit(splits["train"])
    for split, records in splits.items():
        task.check(records, split)
    return task, splits


def _loss(model: Trainable, backbone: Backbone, features: Sequence[Feature]) -> Tensor:
    row_inputs = collate_row_inputs(model.answering[0].assembly.head, features, backbone.device)
    labels = collate_labels(features, backbone.device)
    loss: Tensor = model(labels=[labels], row_inputs=[row_inputs], **collate(backbone, features))["loss"]
    expect(loss.ndim == 0 and loss.isfinite(), f"the loss has to be one finite number, found {loss}")
    return loss


def _check_moved(assembly: Assembly, before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    trained = [f"{place}.{name}" for place, name, declared in assembly.declared() if declared.trained]
    still = [name for name in trained if torch.equal(before[name], after[name])]
    if still:
        raise Unmet(f"{STEPS} steps have not moved {still[0]} ({len(still)} tensors in all)")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether two sets of weights are equal, bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
