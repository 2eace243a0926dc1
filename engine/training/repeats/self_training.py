"""Self-training: an adapter labels texts without labels, and is trained again with its most confident labels.

Round 0 trains on the labelled records alone. In each further round the adapter of the previous round labels all texts
again. Texts above the confidence join the labelled records, and training restarts from the initial weights, so that a
wrong label is not kept because it was learnt before (Yarowsky 1995; Lee 2013, "Pseudo-Label"). The best round by
validation wins, among equals the earliest; with too little validation data, the last round.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.pipeline import compute, temporarily_docked
from adaptdock.engine.training.loop.progress import Ending, Progress
from adaptdock.engine.training.loop.run import identify, train_plan
from adaptdock.engine.training.loop.run_folders import BEST
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import Plan, make_units
from adaptdock.engine.training.repeats.complete_runs import read_complete, report_complete
from adaptdock.hub.artefact.file import AdapterFile, write_file
from adaptdock.plugins.contracts import PseudoLabelling, Record
from adaptdock.plugins.toolkit.stored import joined

PSEUDO = "self-training"


@dataclass(frozen=True)
class Round:
    """One round: the number of added texts, their labels, and the adapter's metrics."""

    number: int
    added: int
    labels: dict[str, Any]
    metrics: dict[str, Any]


class SelfTraining:
    """A plan that is trained in rounds, each a run in its own folder, ``round-0`` and so on."""

    def __init__(self, plan: Plan, folder: Path, name: str | None = None) -> None:
        self.plan, self.folder, self.name = plan, folder, name
        self.rounds: list[Round] = []

    def __call__(self, progress: Callable[[Progress], None] | None = None, resume: bool = False) -> Result:
        """Train all rounds and return the best one's adapter, stored in ``folder / best.safetensors``.

        With ``resume`` complete rounds are not repeated. Ctrl-C ends the training with the best adapter so far; a round
        that adds no text ends it too.
        """
        started = time.monotonic()
        identify(self.folder, self.plan.identity(), resume)
        if not resume:
            for round_folder in self.folder.glob("round-*"):
                shutil.rmtree(round_folder, ignore_errors=True)
        results = [self._round(0, [], progress, resume)]
        interrupted = results[0].ending == "interrupted"
        while not interrupted and len(results) <= self.plan.options.self_training_rounds:
            try:
                pseudo_labels = self._labelled(results[-1].adapter)
            except KeyboardInterrupt:
                interrupted = True
                break
            if not pseudo_labels:
                self.rounds.append(Round(len(results), 0, {}, {}))
                break
            results.append(self._round(len(results), pseudo_labels, progress, resume))
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
        result = read_complete(folder) if resume else None
        if result is None:
            result = train_plan(plan, folder, self.name, progress, resume=resume and folder.exists())
            if result.ending != "interrupted":
                report_complete(folder, plan, result)
        labels = plan.task.describe(added) if added else {}
        self.rounds.append(Round(number, len(added), labels, dict(result.adapter.card.metrics)))
        return result

    def _with(self, added: Sequence[Record]) -> Plan:
        """Return the plan of a round, with pseudo-labelled texts added to the training data."""
        if not added:
            return replace(self.plan, unlabelled=[])
        records = {**self.plan.records, "train": joined(self.plan.records["train"], added)}
        round_plan = replace(self.plan, records=records, added={**self.plan.added, PSEUDO: len(added)}, unlabelled=[])
        round_plan.units = make_units(round_plan)
        return round_plan

    def _finish(self, results: Sequence[Result], interrupted: bool, seconds: float) -> Result:
        number = self._best(results)
        best = results[number]
        ending: Ending = "interrupted" if interrupted else best.ending
        training = {
            **best.adapter.card.training,
            "self_training": {"best": number, "rounds": [asdict(entry) for entry in self.rounds]},
            "seconds": round(seconds, 1),
            "ending": ending,
        }
        adapter = AdapterFile(best.adapter.card.model_copy(update={"training": training}), best.adapter.tensors)
        size = write_file(self.folder / BEST, adapter)
        return replace(best, adapter=adapter, file=self.folder / BEST, size=size, seconds=seconds, ending=ending)

    def _best(self, results: Sequence[Result]) -> int:
        """Return the number of the best round by validation; with too little validation data, the last round.

        A round that was interrupted before its first validation does not take part.
        """
        criterion = self.plan.criterion
        best_entries = {number: criterion.best(result.history) for number, result in enumerate(results)}
        scores = {number: criterion.worth(entry) for number, entry in best_entries.items() if entry is not None}
        if not criterion.decisive:
            return max(scores, default=0)
        return max(scores, key=scores.__getitem__, default=0)


def pseudo_labelled(
    dock: Dock, adapter: AdapterFile, records: Sequence[Record], confidence: float, batch_size: int
) -> list[Record]:
    """Return the records with labels from an adapter, if their confidence is above ``confidence``."""
    with temporarily_docked(dock, adapter) as row:
        encoded = compute(dock, [row] * len(records), records, batch_size)
        task = row[-1].assembly.task
    assert isinstance(task, PseudoLabelling)  # checked by the plan
    labelled = (task.pseudo(item.record, item.windows, item.digests) for item in encoded if item.windows)
    return [pair[0] for pair in labelled if pair is not None and pair[1] > confidence]
