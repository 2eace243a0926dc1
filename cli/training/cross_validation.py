"""``adapt train --folds``: the same settings tried on each fold of the data, before the training."""

from dataclasses import asdict, replace
from typing import Any

from adaptdock.cli.common.output import note, say, show_table
from adaptdock.cli.training.output_paths import LOG
from adaptdock.cli.training.progress import watching
from adaptdock.cli.training.settings import Settings
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.engine.training.repeats.cross_validation import Fold, cross_validate, summary


def try_folds(plan: Plan, settings: Settings, count: int, as_json: bool) -> dict[str, Any]:
    """Train on all folds but one, for each fold; show a table of the metrics, and return it for JSON."""
    metric = type(plan.task).metric
    with watching(settings.run_dir / LOG, silent=True) as watch:

        def progress(number: int) -> Any:
            def report(state: Progress) -> None:
                watch(replace(state, stage=f"fold {number} of {count}"))
                if state.metrics is not None:
                    note(f"fold {number}, epoch {state.epoch:.0f}: validation {metric} {state.metrics[metric]:.2f}")

            return report

        folds = cross_validate(plan, count, settings.run_dir, progress)
    if not all(fold.decisive for fold in folds):
        note("the folds are too small to rank epochs: for each fold the weights of the last epoch are measured")
    if not as_json:
        _show(folds, metric)
    return {**summary(folds), "folds": [asdict(fold) for fold in folds]}


def _show(folds: list[Fold], metric: str) -> None:
    for fold in folds:
        if fold.shortfall:
            say(f"fold {fold.number}: {fold.shortfall}")
    statistics = summary(folds)
    names = list(statistics["mean"])
    rows = []
    for fold in folds:
        sizes = str(fold.number), fold.train, fold.held_out, f"{fold.epochs:g}"
        rows.append([*sizes, *(fold.metrics.get(name, "") for name in names)])
    rows.append(["mean", "", "", "", *statistics["mean"].values()])
    rows.append(["deviation", "", "", "", *statistics["deviation"].values()])
    show_table(["fold", "trained on", "held out", "epochs", *names], rows)
    say(f"{metric} {statistics['mean'][metric]:.2f} ± {statistics['deviation'][metric]:.2f} over {len(folds)} folds")
    say()
