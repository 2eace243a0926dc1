"""Sweeps: the search space, and the trials of a search, by Optuna (Akiba et al. 2019, arXiv:1907.10902)."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from adaptdock.engine.search.pruning import PRUNED, HalfOfOthers, SuccessiveHalving
from adaptdock.errors import AdaptError, DataError, UsageError
from adaptdock.plugins.contracts import Options

State = Literal["complete", "pruned", "failed", "interrupted"]
WRITE_SO = "write KEY=A,B,C, KEY=LOW..HIGH or KEY=LOW..HIGH:log"
TRIALS, TOGETHER = 20, 8
"""The default number of trials, and of trials in one pass at most."""

PASS, PROPOSED, JUDGED = "pass", "proposed", "judged"
"""Attributes of a running trial in a study: the folder of its pass, its values, and whether it is pruned, by epoch."""


class SearchOptions(Options):
    """How settings are searched."""

    trials: int | None = Field(None, gt=0)
    """Trials in all, including those in --study; 20, or the whole grid, unless given."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """Propose settings close to the best trials (tpe), at random, or every combination (grid)."""
    prune: bool = True
    """End a trial early if it is worse than half of the others after as many epochs."""
    halving: bool = False
    """In place of this rule, end the worse half of the trials after 1, 2, 4, 8, ... epochs (successive halving)."""
    together: int | None = Field(None, gt=0)
    """Trials that train in one pass, each as if alone; by default as many as memory allows, at most 8."""
    study: str | None = None
    """Database (FILE.db) for the trials; a sweep with the same FILE.db continues from its trials."""

    @model_validator(mode="after")
    def _halving_prunes(self) -> Self:
        if self.halving and not self.prune:
            raise ValueError("halving ends trials early, and no-prune ends none: give one of them")
        return self


@dataclass(frozen=True)
class Dimension:
    """One searched setting: values to choose from, or a range of numbers."""

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    """Whether the range is a range of whole numbers."""

    @classmethod
    def parse(cls, text: str) -> "Dimension":
        """Read ``rank=4,8,16`` or ``learning_rate=1e-4..5e-3:log``; ``|`` divides values that contain commas.

        Raises :class:`UsageError` for anything else, and for an empty range.
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
        """Return values for checking the dimension: each choice, or both ends of the range."""
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
    """The search space; ``owners`` has the methods of each setting that not every method has."""

    dimensions: tuple[Dimension, ...]
    owners: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "Space":
        """Read every ``--search``; raise :class:`UsageError` if there is none, or if two have the same key."""
        dimensions = tuple(map(Dimension.parse, texts))
        keys = [dimension.key for dimension in dimensions]
        if not dimensions:
            raise UsageError(f"--search is missing: name the settings to search; {WRITE_SO}")
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise UsageError(f"--search names {twice} twice: put all its values into one")
        if any(dimension.key == "method" and not dimension.choices for dimension in dimensions):
            raise UsageError("--search method: methods are names, not numbers; write method=A,B")
        return cls(dimensions)

    def methods(self, given: str) -> tuple[str, ...]:
        """Return the searched methods, or the given method alone."""
        return next((dimension.choices for dimension in self.dimensions if dimension.key == "method"), (given,))

    def samples(self, method: str) -> list[dict[str, Any]]:
        """Return values for checking every dimension that applies to a method, one setting at a time."""
        applicable = [dimension for dimension in self.dimensions if self._applies(dimension.key, method)]
        return [
            {dimension.key: value}
            for dimension in applicable
            if dimension.key != "method"
            for value in dimension.samples()
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
        combinations = []
        for picked in itertools.product(*(dimension.listed() for dimension in self.dimensions)):
            values = dict(zip(keys, picked, strict=True))
            trial_method = values.get("method", method)
            values = {key: value for key, value in values.items() if self._applies(key, trial_method)}
            if values not in combinations:
                combinations.append(values)
        return combinations

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


@dataclass(frozen=True)
class Finished:
    """The result of a trial's training run."""

    score: float
    epochs: float
    seconds: float
    folder: Path
    interrupted: bool = False
    loss: float | None = None


@dataclass(frozen=True)
class Proposals:
    """Trials to train in one pass: values by the number of the trial, and the folder of the pass.

    ``resumed``: an earlier process was killed in this pass.
    """

    values: Mapping[int, dict[str, Any]]
    folder: Path
    resumed: bool = False


Halving = Callable[[Mapping[int, tuple[float, float]]], set[int]]
"""Called with the epoch and the newest validation metric of trials; returns the numbers of those to end early."""
Outcome = Finished | AdaptError | MemoryError | torch.OutOfMemoryError | None
"""How a trial ended: None where it was ended early."""
Train = Callable[[Proposals, Halving], Mapping[int, Outcome]]
"""Trains the trials of a pass."""


class Sweep:
    """Trials, some at a time, proposed from the results of the earlier trials.

    ``identity`` describes the settings that all trials share. A study, a SQLite data base, keeps the trials, and
    another sweep with the same identity continues it. Raises :class:`UsageError` if Optuna is
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
        pruner = SuccessiveHalving() if options.halving else HalfOfOthers()
        self._study = self._open(Path(options.study) if options.study else None, identity, pruner)
        self._killed = self._unfinished()
        sampler_seed = seed + len(self._study.get_trials(deepcopy=False))  # a continued sweep must not repeat its draws
        samplers = optuna.samplers
        if options.sampler == "tpe":  # the liar keeps the proposals of one pass apart
            self._study.sampler = samplers.TPESampler(seed=sampler_seed, constant_liar=options.together != 1)
        else:
            self._study.sampler = samplers.RandomSampler(seed=sampler_seed)
        self._enqueue(grid)

    def _open(self, file: Path | None, identity: str, pruner: SuccessiveHalving | HalfOfOthers) -> Any:
        optuna = self._optuna
        try:
            study = optuna.create_study(
                storage=f"sqlite:///{file.absolute()}" if file else None,
                study_name="adaptdock",
                pruner=pruner,
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
        """Queue the trials of a grid that have not run yet."""
        waiting = self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.WAITING,))
        existing = [trial.values for trial in self.ended()]
        existing += [trial.system_attrs.get("fixed_params") for trial in waiting]
        existing += [values for proposals in self._killed for values in proposals.values.values()]
        for values in grid:
            if values not in existing:
                self._study.enqueue_trial(values)

    def _unfinished(self) -> list[Proposals]:
        """Return the passes of a killed process that can be resumed, and mark its other trials as failed.

        Optuna would count unmarked trials as running forever.
        """
        passes: dict[Path, dict[int, dict[str, Any]]] = {}
        states = self._optuna.trial.TrialState
        for trial in self._study.get_trials(states=(states.RUNNING,)):
            folder = Path(trial.user_attrs.get(PASS, ""))
            if PASS in trial.user_attrs and folder.is_dir():
                passes.setdefault(folder, {})[trial.number] = trial.user_attrs[PROPOSED]
            else:
                self._study.tell(trial.number, state=states.FAIL)
        return [Proposals(values, folder, resumed=True) for folder, values in passes.items()]

    def run(
        self, train: Train, done: Callable[[Trial], None], folder: Path = Path(), together: int = 1
    ) -> Literal["complete", "interrupted"]:
        """Run trials up to the requested number, ``together`` in one pass; ``done`` is called with each trial.

        ``train`` trains the trials of a pass, whose checkpoints are below ``folder``. Passes of a killed process are
        resumed first. A trial that ends in an error is recorded as failed, and the sweep continues. Ctrl-C ends the
        sweep.
        """
        while self._killed or len(self.ended()) < self.trials:
            trials: dict[int, Any] = {}
            try:
                if self._killed:
                    proposals = self._killed.pop(0)
                    trials = {number: self._trial(number) for number in proposals.values}
                else:
                    for _ in range(min(together, int(self.trials) - len(self.ended()))):
                        trial = self._study.ask()
                        trials[trial.number] = trial
                    proposals = self._proposed(trials, folder)
                results = self._train(proposals, train, trials)
            except KeyboardInterrupt:
                results = [
                    Trial(number, dict(trial.params), "interrupted", reason="interrupted")
                    for number, trial in trials.items()
                ]
            for trial in results:
                self._keep(trials[trial.number], trial)
                done(trial)
            if any(trial.state == "interrupted" for trial in results):
                return "interrupted"
        return "complete"

    def _trial(self, number: int) -> Any:
        """Return a trial of a killed process, to continue with."""
        frozen = self._study.get_trials(deepcopy=False)[number]
        return self._optuna.trial.Trial(self._study, frozen._trial_id)

    def _proposed(self, trials: Mapping[int, Any], folder: Path) -> Proposals:
        values = {number: self.space.suggest(trial, self.method) for number, trial in trials.items()}
        for number, trial in trials.items():
            trial.set_user_attr(PROPOSED, values[number])
        return self._placed(values, trials, folder)

    def _placed(self, values: Mapping[int, dict[str, Any]], trials: Mapping[int, Any], folder: Path) -> Proposals:
        """Return the proposals of a pass, and write its folder into the study."""
        place = (folder / f"pass-{min(values):04d}-{len(values)}").absolute()
        for number in values:
            trials[number].set_user_attr(PASS, str(place))
        return Proposals(values, place)

    def _train(self, proposals: Proposals, train: Train, trials: Mapping[int, Any]) -> list[Trial]:
        def judge(scores: Mapping[int, tuple[float, float]]) -> set[int]:
            return self._pruned({trials[number]: score for number, score in scores.items()})

        outcomes = self._outcomes(proposals, train, judge, trials)
        return [self._ended(trials[number], values, outcomes[number]) for number, values in proposals.values.items()]

    def _outcomes(
        self, proposals: Proposals, train: Train, judge: Halving, trials: Mapping[int, Any]
    ) -> Mapping[int, Outcome]:
        """Train a pass; where memory is too small for it, train its halves one after the other."""
        try:
            return train(proposals, judge)
        except (MemoryError, torch.OutOfMemoryError) as error:
            entries = list(proposals.values.items())
            if len(entries) == 1:
                return {entries[0][0]: error}
            outcomes: dict[int, Outcome] = {}
            for part in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
                half = self._placed(dict(part), trials, proposals.folder.parent)
                outcomes |= self._outcomes(half, train, judge, trials)
            return outcomes
        except AdaptError as error:
            return dict.fromkeys(proposals.values, error)

    def _pruned(self, scores: Mapping[Any, tuple[float, float]]) -> set[int]:
        """Return the numbers of the trials to end early, after all have reported: none is judged before its peers.

        The study holds each judgement, so that a resumed pass ends the same trials.
        """
        pending = []
        for trial, (epoch, score) in scores.items():
            if str(round(epoch)) not in trial.user_attrs.get(JUDGED, {}):
                pending.append((trial, str(round(epoch))))
                if round(epoch) not in self._study.get_trials(deepcopy=False)[trial.number].intermediate_values:
                    trial.report(score, round(epoch))
        verdicts = [(trial, reached, self.prune and trial.should_prune()) for trial, reached in pending]
        for trial, reached, verdict in verdicts:
            trial.set_user_attr(JUDGED, {**trial.user_attrs.get(JUDGED, {}), reached: verdict})
            if verdict:
                trial.set_user_attr(PRUNED, True)
        return {
            trial.number for trial, (epoch, _) in scores.items() if trial.user_attrs.get(JUDGED, {})[str(round(epoch))]
        }

    def found(self) -> list[Trial]:
        """Return all trials so far, including those of the study's file."""
        return [_read(trial) for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()]

    def ended(self) -> list[Trial]:
        """Return the trials that were not interrupted."""
        return [trial for trial in self.found() if trial.state != "interrupted"]

    def best(self) -> Trial | None:
        """Return the complete trial with the best validation metric, then the lowest loss; None without one."""
        complete = [trial for trial in ranked(self.found(), self.lower_is_better) if trial.state == "complete"]
        return complete[0] if complete else None

    def _ended(self, proposal: Any, values: dict[str, Any], outcome: Outcome) -> Trial:
        number = proposal.number
        if outcome is None:
            scores = self._study.get_trials(deepcopy=False)[number].intermediate_values
            return Trial(number, values, "pruned", scores[max(scores)], float(max(scores)), reason="ended early")
        if not isinstance(outcome, Finished):
            return Trial(number, values, "failed", reason=" ".join(str(outcome).split()))
        measured = outcome.epochs, outcome.seconds, outcome.folder
        if outcome.interrupted:
            score = outcome.score if math.isfinite(outcome.score) else None
            return Trial(number, values, "interrupted", score, *measured, loss=outcome.loss)
        if not math.isfinite(outcome.score):
            return Trial(number, values, "failed", reason=f"the validation metric is {outcome.score}")
        return Trial(number, values, "complete", outcome.score, *measured, loss=outcome.loss)

    def _keep(self, proposal: Any, trial: Trial) -> None:
        states = self._optuna.trial.TrialState
        attributes: dict[str, Any] = {
            "values": trial.values,
            "state": trial.state,
            "score": trial.score,
            "epochs": trial.epochs,
        }
        attributes |= {
            "seconds": trial.seconds,
            "folder": str(trial.folder or ""),
            "reason": trial.reason,
            "loss": trial.loss,
        }
        proposal.set_user_attr("trial", attributes)
        if trial.state == "complete":
            self._study.tell(proposal, trial.score)
        else:
            self._study.tell(proposal, state=states.PRUNED if trial.state == "pruned" else states.FAIL)


def ranked(trials: Sequence[Trial], lower_is_better: bool) -> list[Trial]:
    """Return complete trials from best to worst, then pruned, interrupted and failed trials.

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
    attributes = trial.user_attrs.get("trial")
    if attributes is None:
        return Trial(trial.number, dict(trial.params), "interrupted", reason="its process was killed")
    return Trial(trial.number, **{**attributes, "folder": Path(attributes["folder"]) if attributes["folder"] else None})


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UsageError("adapt sweep needs optuna: pip install 'adaptdock[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
