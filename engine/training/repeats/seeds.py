"""Seeds: the same training with several seeds, as members of one pass, on the same division of the data."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from adaptdock.engine.core.distributed import check_alone
from adaptdock.engine.evaluation.intervals import Spread
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.loop.run import identify
from adaptdock.engine.training.loop.run_folders import BEST
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.engine.training.repeats.few_labels import choose_by_folds
from adaptdock.engine.training.repeats.joint_run import Training, resumable
from adaptdock.errors import AdaptError, UsageError
from adaptdock.hub.artefact.file import AdapterFile, write_file
from adaptdock.plugins.contracts import Options

PASSES = "seed-passes"
"""The folder, in that of the run, with the checkpoints of the passes."""
SPLITS = ("validation", "test", "folds")


class SeedOptions(Options):
    """Whether the training is repeated with several seeds."""

    seeds: int | None = Field(None, ge=2)
    """Number of seeds: train as often, from --seed upwards, in one pass; the metrics get a mean and a 95 % interval,
    and the adapter that is best on validation is saved."""

    def check(self, others: Mapping[str, Any]) -> None:
        """Raise :class:`UsageError` for ``others``, options by their flags, that repeat the training too."""
        flags = [flag for flag, value in others.items() if value]
        if self.seeds and flags:
            raise UsageError(f"--seeds and {flags[0]} each repeat the training: give one of them")


def train_seeds(
    plan: Plan,
    count: int,
    folder: Path,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    resume: bool = False,
) -> Result:
    """Train with ``count`` seeds, from that of the plan upwards, and return the result of the saved one.

    Runs differ in their initial weights, order of batches and dropout. The data is divided once, with the first seed.
    The run of each seed is in ``folder / seed-N``. The card of the result has the spread of each metric over the seeds,
    and says why its seed is saved. With ``resume`` complete runs are not repeated. Raises :class:`AdaptError` for a
    seed whose loss is no longer a number.
    """
    check_alone("training with several seeds")
    identify(folder, {**plan.identity(), "seeds": str(count)}, resume)
    trainings = {f"seed-{seed}": _training(plan, seed, folder, name, progress) for seed in _seeds(plan, count)}
    results: dict[int, Result] = {}
    for label, outcome in resumable(trainings, folder / PASSES, resume, progress).items():
        seed = trainings[label].plan.options.seed
        if isinstance(outcome, AdaptError):
            raise AdaptError(f"seed {seed}: {outcome}")
        results[seed] = outcome
    return _saved(plan, results, folder)


def _seeds(plan: Plan, count: int) -> range:
    return range(plan.options.seed, plan.options.seed + count)


def _training(
    plan: Plan, seed: int, folder: Path, name: str | None, progress: Callable[[Progress], None] | None
) -> Training:
    seed_plan = replace(plan, options=plan.options.model_copy(update={"seed": seed}))
    place = folder / f"seed-{seed}"
    try_folds = partial(choose_by_folds, seed_plan, place, _of_seed(progress, seed)) if plan.undivided else None
    return Training(seed_plan, place, name, try_folds)


def _of_seed(progress: Callable[[Progress], None] | None, seed: int) -> Callable[[Progress], None] | None:
    """Return a callback that puts the seed before the stage."""
    if progress is None:
        return None
    return lambda now: progress(replace(now, stage=f"seed {seed}, {now.stage}"))


def _saved(plan: Plan, results: Mapping[int, Result], folder: Path) -> Result:
    """Store the result of the chosen seed in the run's folder, with the spread unless the run was interrupted."""
    interrupted = any(result.ending == "interrupted" for result in results.values())
    seed, reason = _choice(plan, results)
    result, seconds = results[seed], max(result.seconds for result in results.values())
    training = {**result.adapter.card.training, "seconds": round(seconds, 1)}
    if interrupted:
        training["ending"] = "interrupted"
    else:
        training["seeds"] = _summary(plan, results, seed, reason)
    adapter = AdapterFile(result.adapter.card.model_copy(update={"training": training}), result.adapter.tensors)
    size = write_file(folder / BEST, adapter)
    return replace(result, adapter=adapter, file=folder / BEST, size=size, seconds=seconds, ending=training["ending"])


def _choice(plan: Plan, results: Mapping[int, Result]) -> tuple[int, str]:
    """Return the seed whose adapter is saved, and the reason: the best on validation, else the first.

    Among equals the lower validation loss decides, then the lower seed. The folds of few labels do not measure the
    weights that are saved, so they choose no seed.
    """
    first = min(results)
    if plan.undivided:
        return first, "the first, as no validation data can choose a seed"
    if not plan.criterion.decisive:
        return first, "the first, as there is too little validation data to choose a seed"
    best = max(results, key=lambda seed: (plan.criterion.worth(_validation(plan, results[seed])), -seed))
    return best, "the best on validation"


def _validation(plan: Plan, result: Result) -> dict[str, float]:
    """Return the validation metric and loss of a result, by the names of a history."""
    training, metric = result.adapter.card.training, type(plan.task).metric
    head = training.get("fitted_head", {})
    entry = plan.criterion.best(result.history)
    loss = head["validation"]["loss"] if head.get("kept") else (entry or {}).get("eval_loss", math.inf)
    value = result.adapter.card.metrics.get("validation", {}).get(metric, math.nan)
    return {plan.criterion.metric: value, plan.criterion.loss: loss}


def _summary(plan: Plan, results: Mapping[int, Result], seed: int, reason: str) -> dict[str, Any]:
    """Return the card's entry on the seeds: the spread of each metric, the saved seed, and both in a sentence."""
    metric, metrics = type(plan.task).metric, [result.adapter.card.metrics for result in results.values()]
    spreads = {split: _spreads([by_split[split] for by_split in metrics]) for split in SPLITS if split in metrics[0]}
    shown = [f"{split} {spread[metric]}" for split, spread in spreads.items() if metric in spread]
    sentences = [
        f"{metric} over {len(results)} seeds, mean and 95 % interval (Student's t): {', '.join(shown)}."
        if shown
        else "",
        f"The file has the adapter of seed {seed}, {reason}.",
        _without_training([result.adapter.card.training for result in results.values()]),
    ]
    return {
        "seeds": list(results),
        "saved": seed,
        **{split: {name: asdict(spread) for name, spread in spread.items()} for split, spread in spreads.items()},
        "verdict": " ".join(sentence for sentence in sentences if sentence),
    }


def _spreads(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    """Return the spread of each metric that is a number for all seeds."""
    numbers = [{name: value for name, value in entry.items() if _is_finite(value)} for entry in metrics]
    common = [name for name in numbers[0] if all(name in entry for entry in numbers)]
    return {name: Spread.of([float(entry[name]) for entry in numbers]) for name in common}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _without_training(trainings: Sequence[Mapping[str, Any]]) -> str:
    """Say for how many seeds the fitted head alone was saved."""
    with_fitted_head = [
        training.get("fitted_head", {}).get("kept") or training.get("folds", {}).get("kept") == "fitted head"
        for training in trainings
    ]
    if not any(with_fitted_head):
        return ""
    return (
        f"For {sum(map(bool, with_fitted_head))} of the seeds the fitted head alone is saved: training was no better."
    )
