"""Pruning: the median rule (Golovin et al. 2017, Vizier) and asynchronous successive halving (Li et al. 2020, ASHA).

Both also compare trials that train in the same pass.
"""

import math
from typing import Any

import numpy as np

UNJUDGED, UNJUDGED_EPOCHS = 4, 2
"""The fewest other trials, and the first epoch, with which a trial may be pruned."""
PRUNED = "pruned"
"""Attribute of a trial in a study that has been pruned while its pass continues."""


class HalfOfOthers:
    """Prunes a trial whose best metric is worse than the median of the other trials after as many epochs.

    The other trials are the complete ones, and those of the same pass that reached this epoch and continue. The rule is
    asynchronous: a trial with smaller batches than others waits for none of them. Optuna's pruner of this rule
    compares with complete trials alone, so it could prune nothing in the first pass.
    """

    def prune(self, study: Any, trial: Any) -> bool:
        """Return whether a frozen trial of an Optuna study ends after its newest report."""
        epoch = trial.last_step
        if epoch is None or epoch < UNJUDGED_EPOCHS:
            return False
        trials = [entry for entry in study.get_trials(deepcopy=False) if entry.number != trial.number]
        complete = [entry for entry in trials if entry.state.name == "COMPLETE"]
        beside = [entry for entry in trials if entry.state.name == "RUNNING" and not entry.user_attrs.get(PRUNED)]
        beside = [entry for entry in beside if epoch in entry.intermediate_values]
        if len(complete) + len(beside) < UNJUDGED:
            return False
        values = [entry.intermediate_values[epoch] for entry in complete + beside if epoch in entry.intermediate_values]
        least = study.direction.name == "MINIMIZE"
        reached = np.array(list(trial.intermediate_values.values()), dtype=float)
        if np.isnan(reached).all():
            return True
        if np.isnan(np.array(values, dtype=float)).all():
            return False
        median = np.nanmedian(np.array(values, dtype=float))
        return bool(np.nanmin(reached) > median if least else np.nanmax(reached) < median)


class SuccessiveHalving:
    """Ends, after epochs 1, 2, 4, 8, ..., each trial that is not in the better half of all trials up to there.

    The comparison has every trial that reached the rung, also the trials that it ended, as in Optuna's pruner of this
    name. Optuna judges a trial when it reports, so in a pass the first to report would always continue.
    """

    def prune(self, study: Any, trial: Any) -> bool:
        """Return whether a frozen trial of an Optuna study ends after its newest report."""
        epoch = trial.last_step
        if epoch is None or not _is_rung(epoch):
            return False
        value = trial.intermediate_values[epoch]
        if math.isnan(value):
            return True
        trials = study.get_trials(deepcopy=False)
        values = [entry.intermediate_values[epoch] for entry in trials if epoch in entry.intermediate_values]
        least = study.direction.name == "MINIMIZE"
        ranking = sorted((number for number in values if not math.isnan(number)), reverse=not least)
        last = ranking[max(1, len(ranking) // 2) - 1]
        return bool(value > last if least else value < last)


def _is_rung(epoch: int) -> bool:
    """Return whether a number of epochs is a power of two."""
    return epoch > 0 and epoch & (epoch - 1) == 0
