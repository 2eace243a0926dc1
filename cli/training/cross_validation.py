"""What ``adapt train --folds`` does before the training: the same settings tried on each fold of the data."""

from dataclasses import asdict
from typing import Any

from adaptdock.cli.common.output import note, say, show_table
from adaptdock.cli.training.output_paths import LOG
from adaptdock.cli.training.progress import watching
from adaptdock.cli.training.settings import Settings
from adaptdock.engine.training.cross_validation import Fold, cross_validate, summary
from adaptdock.engine.training.plan import Plan
from adaptdock.engine.training.progress import Progress


def try_folds(made: Plan, settings: Settings, count: int, as_json: bool) -> dict[str, Any]:
    """Train on all folds but one, for each fold; show a table of what was found, and return it for JSON."""
    metric = type(made.task).metric
    with watching(settings.run_dir / LOG, silent=True) as watch:

        def progress(number: int) -> Any:
            note(f"fold {number} of {count}")

            def hear(now: Progress) -> None:
                watch(now)
                if now.metrics is not None:
                    note(f"fold {number}, epoch {now.epoch:.0f}: validation {metric} {now.metrics[metric]:.2f}")

            return hear

        folds = cross_validate(made, count, settings.run_dir, progress)
    if not all(fold.decisive for fold in folds):
        note("the folds are too small to tell epochs apart: the weights of the last epoch of each are measured")
    if not as_json:
        _show(folds, metric)
    return {**summary(folds), "folds": [asdict(fold) for fold in folds]}


def _show(folds: list[Fold], metric: str) -> None:
    for fold in folds:
        if fold.shortfall:
            say(f"fold {fold.number}: {fold.shortfall}")
    found = summary(folds)
    names = list(found["mean"])
    rows = []
    for fold in folds:
        sizes = str(fold.number), fold.train, fold.held_out, f"{fold.epochs:g}"
        rows.append([*sizes, *(fold.metrics.get(name, "") for name in names)])
    rows.append(["mean", "", "", "", *found["mean"].values()])
    rows.append(["deviation", "", "", "", *found["deviation"].values()])
    show_table(["fold", "trained on", "held out", "epochs", *names], rows)
    say(f"{metric} {found['mean'][metric]:.2f} ± {found['deviation'][metric]:.2f} over {len(folds)} folds")
    say()
