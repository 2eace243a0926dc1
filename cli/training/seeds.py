"""``adapt train --seeds``: a table of the metrics by seed, with their mean and 95 % interval."""

from collections.abc import Mapping
from typing import Any

from adaptdock.cli.common.output import say, show_table
from adaptdock.engine.training.repeats.seeds import SPLITS


def show_seeds(entry: Mapping[str, Any], metric: str) -> None:
    """Print the metric of each seed; ``entry`` is that of a card on the seeds."""
    spreads = {split: entry[split][metric] for split in SPLITS if metric in entry.get(split, {})}
    rows = [
        [f"{seed} (saved)" if seed == entry["saved"] else seed, *(spread["values"][n] for spread in spreads.values())]
        for n, seed in enumerate(entry["seeds"])
    ]
    rows.append(["mean", *(spread["mean"] for spread in spreads.values())])
    rows.append(["deviation", *(spread["deviation"] for spread in spreads.values())])
    rows.append(["95 %", *(f"{spread['low']:.2f} to {spread['high']:.2f}" for spread in spreads.values())])
    show_table(["seed", *(f"{split} {metric}" for split in spreads)], rows)
    say()
