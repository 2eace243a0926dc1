"""``adapt train --curve``: training on shares of the data, to say what more labels would give."""

from collections.abc import Sequence
from typing import Any

from adaptdock.cli.common.output import note, say, show_table
from adaptdock.cli.training.output_paths import LOG
from adaptdock.cli.training.progress import watching
from adaptdock.cli.training.settings import Settings
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.engine.training.repeats.label_shares import FOLDS, label_curve


def try_shares(plan: Plan, settings: Settings, shares: Sequence[float], as_json: bool) -> None:
    """Train on each share of the data in folds; show the mean metric of each share, and the forecast."""
    metric = type(plan.task).metric
    with watching(settings.run_dir / LOG, silent=True) as watch:

        def progress(fold: int, share: float) -> Any:
            note(f"fold {fold} of {FOLDS}, {share:g} % of its training records")
            return watch

        curve = label_curve(plan, shares, settings.run_dir, progress)
    if as_json:  # the document of the run comes last, and label_curve.json has the curve
        note(curve.verdict())
        return
    rows = [[f"{records:.0f}", f"{mean:.2f}", f"{low:.2f} to {high:.2f}"] for records, mean, low, high in curve.means()]
    show_table(["records", metric, "95 %"], rows)
    say(curve.verdict())
    say()
