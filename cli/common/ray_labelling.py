"""``adapt predict --output FOLDER/ --ray``: the shares of a labelling run, divided among workers on Ray.

Each worker has its own backbone and labels whole shares, with the parts and rules of a run without Ray. A share whose
worker is lost is repeated by another, which continues after the parts that are complete.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.cli.common.auto_install import located
from adaptdock.cli.common.labelling import Progress, check_labelling, finish, prepared
from adaptdock.engine.core.ray_cluster import connected, gpus_for, require_ray
from adaptdock.errors import AdaptError, DataError, UsageError
from adaptdock.hub.artefact.locks import changing

if TYPE_CHECKING:
    from adaptdock.engine.inference.labelling import LabellingCounts
    from adaptdock.engine.inference.row_adapters import RowAdapters

SHARES = 4
"""Shares of the work for each worker, so that a slow worker does not keep the others waiting."""
Run = tuple[Sequence[str], str | None, str, Mapping[str, Any]]
"""The arguments of :func:`prepared` that are the same for all shares."""


@dataclass(frozen=True)
class ShareOutcome:
    """The counts of a share and the notes of its readers, or the error that ended it."""

    counts: "LabellingCounts | None"
    notes: list[str]
    error: str = ""
    data_error: bool = False


class ShareWorker:
    """Labels shares one after the other, with one backbone. ``folder`` is where relative paths begin."""

    def __init__(self, run: Run, folder: str) -> None:
        os.chdir(folder)
        self._run = run
        self._adapters: RowAdapters | None = None

    def label(self, share: int, shares: int) -> ShareOutcome:
        """Label a share, numbered from 0."""
        try:
            labelling = prepared(*self._run, (share, shares), lambda counts: None, say=lambda line: None)
            self._adapters = labelling.adapters = self._adapters or labelling.adapters
            with changing(Path(self._run[3]["output"]) / f"shard-{share + 1}-of-{shares}", seconds=0.0):
                if labelling.check():
                    labelling.adapters.open()
                return ShareOutcome(labelling.run(), labelling.adapters.notes)
        except AdaptError as error:  # by its text: errors with arguments of their own cannot travel
            return ShareOutcome(None, [], str(error), error.exit_status == DataError.exit_status)


def label_on_ray(words: Sequence[str], source: str | None, layout: str, values: Mapping[str, Any]) -> None:
    """Label the rows of files into a folder with workers on Ray; raise :class:`DataError` if rows were rejected."""
    check_labelling(words, source, layout, values)
    if values["shard"]:
        raise UsageError("--shard divides the work among processes, and --ray does so by itself: leave one out")
    require_ray("adapt predict --ray")
    words = [str(located(word, values["yes"])) for word in words]  # the workers ask nobody
    output, progress = Path(values["output"]), Progress()
    run = (words, source, layout, {**values, "on_ray": False})
    labelling = prepared(*run, (0, 1), progress)
    with changing(output / "shard-1-of-1", seconds=0.0):
        progress.total = labelling.check()
        counts = labelling.counts if not progress.total else _divided(run, values, progress)
    progress.show(counts)
    finish(counts, output)


def _divided(run: Run, values: Mapping[str, Any], progress: Progress) -> "LabellingCounts":
    """Return the counts of all shares."""
    import ray
    from ray.util import ActorPool

    from adaptdock.engine.inference.labelling import LabellingCounts

    total = LabellingCounts()
    with connected(values["ray_address"]):
        workers = values["workers"] or max(1, int(ray.cluster_resources().get("CPU", 1)))
        shares = workers * SHARES
        remote = ray.remote(num_cpus=1, num_gpus=gpus_for(values["device"] or "auto", workers), max_restarts=-1)
        labeller = remote(ShareWorker).options(max_task_retries=-1)
        pool = ActorPool([labeller.remote(run, str(Path.cwd())) for _ in range(workers)])
        for outcome in pool.map_unordered(lambda worker, share: worker.label.remote(share, shares), range(shares)):
            if outcome.counts is None:
                raise (DataError if outcome.data_error else AdaptError)(outcome.error)
            _add(total, outcome.counts)
            progress.notes = lambda outcome=outcome: outcome.notes  # type: ignore[misc]
            progress(total)
    return total


def _add(total: "LabellingCounts", counts: "LabellingCounts") -> None:
    total.rows += counts.rows
    total.rejected += counts.rejected
    total.earlier += counts.earlier
    total.parts += counts.parts
    total.skipped += counts.skipped
    total.first_reason = total.first_reason or counts.first_reason
    total.unreadable += [problem for problem in counts.unreadable if problem not in total.unreadable]
