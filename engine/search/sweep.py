"""Searching settings: what is searched, and the trials of a search, by Optuna (Akiba et al. 2019, arXiv:1907.10902)."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from adaptdock.errors import AdaptError, DataError, UsageError
from adaptdock.plugins.contracts import Options

State = Literal["complete", "pruned", "failed", "interrupted"]
WRITE_SO = "write KEY=A,B,C, KEY=LOW..HIGH or KEY=LOW..HIGH:log"
TRIALS, UNJUDGED, UNJUDGED_EPOCHS = 20, 4, 2
"""Trials of a sweep, unless it is told; trials that come to their end before any is ended early; the epoch
from which on one may be."""


class SearchOptions(Options):
    """How settings are searched."""

    trials: int | None = Field(None, gt=0)
    """Trainings in all, those in --study included; 20, or the whole grid, unless given."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """Settings like those that did well (tpe), at random, or every combination."""
    prune: bool = True
    """End a trial that is worse than half of the others after as many epochs."""
    study: str | None = None
    """Data base (FILE.db) that keeps the trials; those in it are gone on from."""


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched: values to choose from, or a range of numbers."""

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    """Whether the range is one of whole numbers."""

    @classmethod
    def parse(cls, text: str) -> "Dimension":
        """Read ``rank=4,8,16`` or ``learning_rate=1e-4..5e-3:log``; values that hold commas are divided by ``|``.

        Raises :class:`UsageError` for anything else, and for a range in which there is nothing.
        """
        key, equals, values = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key or not values.strip():
            raise UsageError(f"--search {text!r}: {WRITE_SO}")
        if ".." in values:
            return cls._range(key, values, text)
        choices = tuple(part.strip() for part in values.split("|" if "|" in values else ","))
        if "" in choices or len(set(choices)) < len(choices):
            raise UsageError(f"--search {text!r}: a value is empty or stands there twice; {WRITE_SO}")
        return cls(key, choices)

    @classmethod
    def _range(cls, key: str, values: str, text: str) -> "Dimension":
        ends, _, scale = values.partition(":")
        low, _, high = (part.strip() for part in ends.partition(".."))
        try:
            bounds = float(low), float(high)
        except ValueError:
            raise UsageError(f"--search {text!r}: the ends of a range are numbers; {WRITE_SO}") from None
        if scale not in ("", "log"):
            raise UsageError(f"--search {text!r}: a range may be ':log', not {':' + scale!r}")
        if not all(map(math.isfinite, bounds)) or bounds[0] >= bounds[1]:
            raise UsageError(f"--search {text!r}: the range is empty: {low} is not below {high}")
        if scale and bounds[0] <= 0:
            raise UsageError(f"--search {text!r}: a range with :log begins above 0, not at {low}")
        return cls(key, (), *bounds, log=bool(scale), whole=_is_whole(low) and _is_whole(high))

    def samples(self) -> tuple[Any, ...]:
        """Return values with which the dimension can be checked: each choice, or both ends."""
        return self.choices or tuple(map(self._number, (self.low, self.high)))

    def listed(self) -> tuple[Any, ...]:
        """Return every value; raise :class:`UsageError` for a range without steps."""
        if self.choices:
            return self.choices
        if self.whole and not self.log:
            return tuple(range(int(self.low), int(self.high) + 1))
        raise UsageError(
            f"--sampler grid tries every value, so --search {self.key} needs a list of them: {self.key}=A,B"
        )

    def suggest(self, trial: Any) -> Any:
        """Return the value that an Optuna trial proposes."""
        if self.choices:
            return trial.suggest_categorical(self.key, list(self.choices))
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)

    def _number(self, value: float) -> Any:
        return int(value) if self.whole else value


def _is_whole(number: str) -> bool:
    return number.lstrip("+-").isdigit()


@dataclass(frozen=True)
class Space:
    """All that is searched; ``owners`` names the methods that have a setting, where not all of them do."""

    dimensions: tuple[Dimension, ...]
    owners: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "Space":
        """Read every ``--search``; raise :class:`UsageError` where there is none, or a key stands in two."""
        found = tuple(map(Dimension.parse, texts))
        keys = [dimension.key for dimension in found]
        if not found:
            raise UsageError(f"--search is missing: say what is searched; {WRITE_SO}")
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise UsageError(f"--search names {twice} twice: put all its values into one")
        if any(dimension.key == "method" and not dimension.choices for dimension in found):
            raise UsageError("--search method: methods are names, not numbers; write method=A,B")
        return cls(found)

    def methods(self, given: str) -> tuple[str, ...]:
        """Return the methods that are searched, or the one that is given."""
        return next((dimension.choices for dimension in self.dimensions if dimension.key == "method"), (given,))

    def samples(self, method: str) -> list[dict[str, Any]]:
        """Return values with which every dimension that a method has can be checked, one at a time."""
        mine = [dimension for dimension in self.dimensions if self._applies(dimension.key, method)]
        return [
            {dimension.key: value} for dimension in mine if dimension.key != "method" for value in dimension.samples()
        ]

    def suggest(self, trial: Any, method: str) -> dict[str, Any]:
        """Return the values of a trial; a setting that its method lacks is left out."""
        ordered = sorted(self.dimensions, key=lambda dimension: dimension.key != "method")
        values: dict[str, Any] = {}
        for dimension in ordered:
            if self._applies(dimension.key, values.get("method", method)):
                values[dimension.key] = dimension.suggest(trial)
        return values

    def grid(self, method: str) -> list[dict[str, Any]]:
        """Return every combination once."""
        keys = [dimension.key for dimension in self.dimensions]
        found = []
        for picked in itertools.product(*(dimension.listed() for dimension in self.dimensions)):
            values = dict(zip(keys, picked, strict=True))
            mine = values.get("method", method)
            values = {key: value for key, value in values.items() if self._applies(key, mine)}
            if values not in found:
                found.append(values)
        return found

    def _applies(self, key: str, method: str) -> bool:
        return key not in self.owners or method in self.owners[key]


@dataclass
class Trial:
    """One trial of a sweep, and how it ended; ``score`` is the best validation metric."""

    number: int
    values: dict[str, Any]
    state: State
    score: float | None = None
    epochs: float = 0.0
    seconds: float = 0.0
    folder: Path | None = None
    reason: str = ""
    loss: float | None = None
    """The validation loss, which decides between trials with the same score."""


class Pruned(Exception):
    """A trial that is ended early, since others did better after as many epochs."""


@dataclass(frozen=True)
class Finished:
    """What a trial's run leaves."""

    score: float
    epochs: float
    seconds: float
    folder: Path
    interrupted: bool = False
    loss: float | None = None


Report = Callable[[float, float], None]
"""Told the epoch and the validation metric; raises :class:`Pruned`."""


class Sweep:
    """Trials, one after the other, each proposed by what the ones before have shown.

    ``identity`` is what all trials have in common; with a study, a SQLite data base, the trials are kept, and
    another sweep with the same identity goes on from them. Raises :class:`UsageError` where Optuna is
    not installed, or the file belongs to another sweep.
    """

    def __init__(
        self,
        space: Space,
        method: str,
        lower_is_better: bool,
        options: SearchOptions,
        seed: int = 0,
        identity: str = "",
    ) -> None:
        optuna = _optuna()
        self.space, self.method, self.lower_is_better, self.prune = space, method, lower_is_better, options.prune
        grid = space.grid(method) if options.sampler == "grid" else []
        self.trials = min(options.trials or math.inf, len(grid)) if grid else options.trials or TRIALS
        self._optuna = optuna
        self._study = self._open(Path(options.study) if options.study else None, identity)
        self._drop_unfinished()
        known = seed + len(self._study.get_trials(deepcopy=False))  # one that goes on must not draw the same again
        samplers = optuna.samplers
        kind = samplers.TPESampler if options.sampler == "tpe" else samplers.RandomSampler
        self._study.sampler = kind(seed=known)
        self._enqueue(grid)

    def _open(self, file: Path | None, identity: str) -> Any:
        optuna = self._optuna
        try:
            study = optuna.create_study(
                storage=f"sqlite:///{file.absolute()}" if file else None,
                study_name="adaptdock",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=UNJUDGED, n_warmup_steps=UNJUDGED_EPOCHS),
                direction="minimize" if self.lower_is_better else "maximize",
                load_if_exists=True,
            )
        except Exception as error:  # SQLAlchemy has many kinds, all of them about this file
            reason = str(error).strip().splitlines()[0]
            raise DataError(f"{file}: it cannot be used as a study of trials: {reason}") from error
        if study.user_attrs.setdefault("identity", identity) != identity:
            raise UsageError(
                f"{file}: the trials in it are of another task, backbone, data or other settings: name another --study"
            )
        study.set_user_attr("identity", identity)
        return study

    def _enqueue(self, grid: Sequence[Mapping[str, Any]]) -> None:
        """Let the trials of a grid come that have not come yet."""
        waiting = self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.WAITING,))
        known = [trial.values for trial in self.ended()]
        known += [trial.system_attrs.get("fixed_params") for trial in waiting]
        for values in grid:
            if values not in known:
                self._study.enqueue_trial(values)

    def _drop_unfinished(self) -> None:
        """End what a killed process left unfinished."""
        for trial in self._study.get_trials(states=(self._optuna.trial.TrialState.RUNNING,)):
            self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)

    def run(
        self, one: Callable[[int, Mapping[str, Any], Report], Finished], done: Callable[[Trial], None]
    ) -> Literal["complete", "interrupted"]:
        """Try until there are as many trials as asked for; ``one`` trains, ``done`` hears of each trial.

        A trial that ends in an error is recorded as failed, and the others go on. Ctrl-C ends them all.
        """
        while len(self.ended()) < self.trials:
            asked = self._study.ask()
            try:
                values = self.space.suggest(asked, self.method)
                found = self._try(asked, values, one)
            except KeyboardInterrupt:
                found = Trial(asked.number, dict(asked.params), "interrupted", reason="interrupted")
            self._keep(asked, found)
            done(found)
            if found.state == "interrupted":
                return "interrupted"
        return "complete"

    def found(self) -> list[Trial]:
        """Return the trials so far, those of the file included."""
        return [_read(trial) for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()]

    def ended(self) -> list[Trial]:
        """Return the trials that came to an end of their own."""
        return [trial for trial in self.found() if trial.state != "interrupted"]

    def best(self) -> Trial | None:
        """Return the trial with the best validation metric, then the lowest loss; None if none is complete."""
        complete = [trial for trial in ranked(self.found(), self.lower_is_better) if trial.state == "complete"]
        return complete[0] if complete else None

    def _try(self, asked: Any, values: dict[str, Any], one: Callable[..., Finished]) -> Trial:
        def report(epoch: float, score: float) -> None:
            asked.report(score, round(epoch))
            if self.prune and asked.should_prune():
                raise Pruned

        number = asked.number
        try:
            found = one(number, values, report)
        except Pruned:
            last = asked.study.get_trials(deepcopy=False)[number].intermediate_values
            return Trial(number, values, "pruned", last[max(last)], float(max(last)), reason="ended early")
        except (AdaptError, MemoryError, torch.OutOfMemoryError) as error:
            return Trial(number, values, "failed", reason=" ".join(str(error).split()))
        if not math.isfinite(found.score):
            return Trial(number, values, "failed", reason=f"the validation metric is {found.score}")
        state: State = "interrupted" if found.interrupted else "complete"
        return Trial(number, values, state, found.score, found.epochs, found.seconds, found.folder, loss=found.loss)

    def _keep(self, asked: Any, found: Trial) -> None:
        states = self._optuna.trial.TrialState
        kept: dict[str, Any] = {
            "values": found.values,
            "state": found.state,
            "score": found.score,
            "epochs": found.epochs,
        }
        kept |= {
            "seconds": found.seconds,
            "folder": str(found.folder or ""),
            "reason": found.reason,
            "loss": found.loss,
        }
        asked.set_user_attr("trial", kept)
        if found.state == "complete":
            self._study.tell(asked, found.score)
        else:
            self._study.tell(asked, state=states.PRUNED if found.state == "pruned" else states.FAIL)


def ranked(trials: Sequence[Trial], lower_is_better: bool) -> list[Trial]:
    """Return trials from the best to the worst; then those ended early; then those without a metric.

    Trials with the same metric are ordered by their validation loss.
    """
    order = ("complete", "pruned", "interrupted", "failed")
    sign = 1 if lower_is_better else -1
    return sorted(
        trials,
        key=lambda trial: (
            order.index(trial.state),
            sign * trial.score if trial.score is not None else math.inf,
            trial.loss if trial.loss is not None else math.inf,
        ),
    )


def _read(trial: Any) -> Trial:
    kept = trial.user_attrs.get("trial")
    if kept is None:
        return Trial(trial.number, dict(trial.params), "interrupted", reason="its process was killed")
    return Trial(trial.number, **{**kept, "folder": Path(kept["folder"]) if kept["folder"] else None})


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UsageError("adapt sweep needs optuna: pip install 'adaptdock[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
