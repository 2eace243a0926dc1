"""Self-training: an adapter labels texts that have no label, and is trained anew with those that it is sure of.

Round 0 trains on the labelled records alone. Each further round lets the adapter of the round before label all
texts anew, adds those above the confidence to the labelled records, and trains from the start weights, so that a
wrong label is not kept because it was learnt before (Yarowsky 1995; Lee 2013, "Pseudo-Label"). The best round by
validation wins, the earliest among equals; the last one where validation data is too few to tell.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.pipeline import compute, temporarily_docked
from adaptdock.engine.training.plan import Plan, make_units
from adaptdock.engine.training.progress import Ending, Progress
from adaptdock.engine.training.run import identify, train_plan
from adaptdock.engine.training.run_folders import BEST
from adaptdock.engine.training.task_run import Result
from adaptdock.errors import FileError
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.plugins.contracts import PseudoLabelling, Record

PSEUDO = "self-training"
LOG = "log.jsonl"
"""Written by a round's report, after its metrics: where it is, the round came to its end."""


@dataclass(frozen=True)
class Round:
    """One round: how many texts were added, what labels they got, and what the adapter reached."""

    number: int
    added: int
    labels: dict[str, Any]
    metrics: dict[str, Any]


class SelfTraining:
    """A plan carried out in rounds, each a run in a folder of its own, ``round-0`` and so on."""

    def __init__(self, plan: Plan, folder: Path, name: str | None = None) -> None:
        self.plan, self.folder, self.name = plan, folder, name
        self.rounds: list[Round] = []

    def __call__(self, progress: Callable[[Progress], None] | None = None, resume: bool = False) -> Result:
        """Train all rounds and return the best one's adapter, stored in ``folder / best.safetensors``.

        With ``resume`` rounds that came to their end are not repeated. Ctrl-C ends it with the best adapter so far.
        A round in which no text is added ends it too.
        """
        started = time.monotonic()
        identify(self.folder, self.plan.identity(), resume)
        if not resume:
            for old in self.folder.glob("round-*"):
                shutil.rmtree(old, ignore_errors=True)
        results = [self._round(0, [], progress, resume)]
        interrupted = results[0].ending == "interrupted"
        while not interrupted and len(results) <= self.plan.options.self_training_rounds:
            try:
                found = self._labelled(results[-1].adapter)
            except KeyboardInterrupt:
                interrupted = True
                break
            if not found:
                self.rounds.append(Round(len(results), 0, {}, {}))
                break
            results.append(self._round(len(results), found, progress, resume))
            interrupted = results[-1].ending == "interrupted"
        return self._finish(results, interrupted, time.monotonic() - started)

    def _labelled(self, adapter: AdapterFile) -> list[Record]:
        options = self.plan.options
        return pseudo_labelled(
            Dock(self.plan.backbone), adapter, self.plan.unlabelled, options.confidence, options.batch_size * 2
        )

    def _round(
        self, number: int, added: Sequence[Record], progress: Callable[[Progress], None] | None, resume: bool
    ) -> Result:
        plan, folder = self._with(added), self.folder / f"round-{number}"
        result = _ended(folder) if resume else None
        if result is None:
            result = train_plan(plan, folder, self.name, progress, resume=resume and folder.exists())
            if result.ending != "interrupted":
                _report(folder, plan, result)
        labels = plan.task.describe(added) if added else {}
        self.rounds.append(Round(number, len(added), labels, dict(result.adapter.card.metrics)))
        return result

    def _with(self, added: Sequence[Record]) -> Plan:
        """Return the plan of a round: the same, with texts that have been labelled added to the training data."""
        if not added:
            return replace(self.plan, unlabelled=[])
        records = {**self.plan.records, "train": [*self.plan.records["train"], *added]}
        made = replace(self.plan, records=records, added={**self.plan.added, PSEUDO: len(added)}, unlabelled=[])
        made.units = make_units(made)
        return made

    def _finish(self, results: Sequence[Result], interrupted: bool, seconds: float) -> Result:
        number = self._best(results)
        best = results[number]
        ending: Ending = "interrupted" if interrupted else best.ending
        training = {
            **best.adapter.card.training,
            "self_training": {"best": number, "rounds": [asdict(one) for one in self.rounds]},
            "seconds": round(seconds, 1),
            "ending": ending,
        }
        adapter = AdapterFile(best.adapter.card.model_copy(update={"training": training}), best.adapter.tensors)
        size = write_file(self.folder / BEST, adapter)
        return replace(best, adapter=adapter, file=self.folder / BEST, size=size, seconds=seconds, ending=ending)

    def _best(self, results: Sequence[Result]) -> int:
        """Return the number of the best round by validation, the last one where validation cannot tell.

        A round that was interrupted before its first validation is not compared.
        """
        criterion = self.plan.criterion
        found = {number: criterion.best(result.history) for number, result in enumerate(results)}
        reached = {number: criterion.worth(entry) for number, entry in found.items() if entry is not None}
        if not criterion.decisive:
            return max(reached, default=0)
        return max(reached, key=reached.__getitem__, default=0)


def pseudo_labelled(
    dock: Dock, adapter: AdapterFile, records: Sequence[Record], confidence: float, batch_size: int
) -> list[Record]:
    """Return the records that an adapter labels more surely than ``confidence``, with these labels."""
    with temporarily_docked(dock, adapter) as row:
        encoded = compute(dock, [row] * len(records), records, batch_size)
        task = row[-1].assembly.task
    assert isinstance(task, PseudoLabelling)  # which the plan has checked
    labelled = (task.pseudo(item.record, item.windows, item.digests) for item in encoded if item.windows)
    return [pair[0] for pair in labelled if pair is not None and pair[1] > confidence]


def _ended(folder: Path) -> Result | None:
    """Return what a round left that came to its end, or None."""
    if not (folder / LOG).exists():
        return None
    adapter = read_file(folder / BEST)
    training = adapter.card.training
    return Result(
        adapter=adapter,
        file=folder / BEST,
        size=(folder / BEST).stat().st_size,
        epochs=training["epochs_run"],
        seconds=training["seconds"],
        history=[json.loads(line) for line in (folder / LOG).read_text().splitlines()],
        ending=training["ending"],
    )


def _report(folder: Path, plan: Plan, result: Result) -> None:
    try:
        result.report(folder, plan)
    except OSError as error:
        raise FileError(folder, f"the report of a round could not be written: {error.strerror or error}") from None
