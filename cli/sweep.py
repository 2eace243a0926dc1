"""``adapt sweep``: a search over settings that keeps the best adapter."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adaptdock.cli.common.backbone import loaded
from adaptdock.cli.common.config import check_keys
from adaptdock.cli.common.flags import (
    LOADING,
    DeferredCommand,
    FieldFlags,
    Flag,
    Place,
    SectionedCommand,
    field_flags,
    output_flags,
    peek,
)
from adaptdock.cli.common.output import note, say, show_json, show_metrics, show_pairs, show_table
from adaptdock.cli.train import CURVE, FOLDING, NOT_IN_CONFIG, choose, what_flags
from adaptdock.cli.training.output_paths import LOG, begin, check_places, run_folder
from adaptdock.cli.training.progress import watching
from adaptdock.cli.training.settings import CONFIG as RUN_CONFIG
from adaptdock.cli.training.settings import Chosen, Settings, decide
from adaptdock.engine.core.assembly import validated
from adaptdock.engine.evaluation.measurement import evaluate
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.search.sweep import (
    TOGETHER,
    Finished,
    Halving,
    Outcome,
    Proposals,
    SearchOptions,
    Space,
    Sweep,
    Trial,
    ranked,
)
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.loop.run_folders import BEST, run_name
from adaptdock.engine.training.members.memory import members_that_fit
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.engine.training.planning.run_plan import plan_run
from adaptdock.engine.training.planning.shared_data import SharedData
from adaptdock.engine.training.repeats.joint_run import EndedEarly, Training, train_together
from adaptdock.errors import AdaptError, UnknownNameError
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.hub.artefact.locks import changing
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone

CONFIG, TRIAL = "best.yaml", "trial-{:04d}"
SEARCH = "Search"
SEARCHING = field_flags(SearchOptions, "search", SEARCH)
OWN = {"search", *SEARCHING.fields}
NOT_IN_BEST = {*OWN, *NOT_IN_CONFIG, "output", "overwrite", "run_dir"}
NOT_IN_SWEEP = {"tasks", "resume", "dry_run", "verbose", *FOLDING.fields, *CURVE.fields}
FIXED = {"precision"}
"""The backbone is loaded once, for all trials."""
HELP = """Search settings: train an adapter many times, and keep the adapter with the best validation metric.

--search names a setting and its values: learning_rate=1e-4..5e-3:log, rank=4,8,16, method=lora,bottleneck, or any
other training option below. Other settings come from the command line or from the task's recipe. Only the best
adapter is measured on test data."""


@dataclass(frozen=True)
class Searched:
    """The flags of a sweep: of training, of the task, and of each method in the search."""

    base: Chosen
    methods: Mapping[str, FieldFlags]

    def keys(self) -> set[str]:
        """Return the names of all settings that can be searched."""
        of_methods = {key for flags in self.methods.values() for key in flags.fields}
        return {"method", *self.base.training.fields, *self.base.task.fields, *of_methods} - FIXED

    def with_owners(self, space: Space) -> Space:
        """Return a space with the methods of each setting; raise :class:`UnknownNameError` for an unknown setting."""
        owners = {}
        general = {"method", *self.base.training.fields, *self.base.task.fields}
        for dimension in space.dimensions:
            if dimension.key not in self.keys():
                hint = f"The keys are the options of {', '.join(self.methods)}, of the task and of training."
                raise UnknownNameError("key in --search:", dimension.key, self.keys(), hint)
            if dimension.key not in general:
                owners[dimension.key] = frozenset(
                    name for name, flags in self.methods.items() if dimension.key in flags.fields
                )
        return Space(space.dimensions, owners)

    def settings(self, values: Mapping[str, Any]) -> Settings:
        """Return the settings of one training."""
        return decide(values, replace(self.base, method=self.methods[values["method"]]))


def _build(arguments: Sequence[str]) -> SectionedCommand:
    first = choose(arguments)
    texts = _all(arguments, "search") or _listed(first.config.get("search"))
    default_method = peek(arguments, "method") or first.config.get("method") or registry.DEFAULT_METHOD
    names = Space.parse(texts).methods(default_method) if texts else (default_method,)
    base = choose(arguments, names[0])
    searched = Searched(base, {name: choose(arguments, name).method for name in names})
    of_methods = {flag.name: flag for flags in searched.methods.values() for flag in flags.flags}
    flags = [
        *(flag for flag in what_flags() if flag.name not in NOT_IN_SWEEP),
        _search_flag(),
        *SEARCHING.flags,
        *of_methods.values(),
        *base.task.flags,
        *base.training.flags,
        *LOADING.flags,
        *_output_flags(),
    ]

    def callback(**values: Any) -> int:
        return _sweep(values, searched)

    if base.config_path is not None:
        known = [str(flag.name) for flag in flags if flag.name not in NOT_IN_CONFIG]
        check_keys(base.config_path, base.config, known, "adapt sweep with this task and these methods")
    return SectionedCommand("sweep", help=HELP, params=list(flags), callback=callback)


command = DeferredCommand("sweep", _build, HELP)


def _all(arguments: Sequence[str], name: str) -> list[str]:
    """Return every value of an option before the arguments are parsed."""
    values = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if argument == f"--{name}":
            values.append(following)
        elif argument.startswith(f"--{name}="):
            values.append(argument.partition("=")[2])
    return values


def _listed(value: Any) -> list[str]:
    return list(value) if isinstance(value, list | tuple) else [value] if value else []


def _search_flag() -> Flag:
    return Flag(
        ["--search"],
        section=SEARCH,
        multiple=True,
        metavar="KEY=VALUES",
        help="Values to try: KEY=A,B,C (use | if a value contains commas), KEY=LOW..HIGH or KEY=LOW..HIGH:log. "
        "May be repeated.",
    )


def _output_flags() -> list[Flag]:
    return output_flags(
        Place("The adapter file of the best trial.", "TASK.safetensors", "FILE"),
        Place(
            "Folder of the sweep: a run folder for each trial, a table and a plot of the trials, the best settings.",
            "runs/sweep-TASK-TIME",
        ),
    )


# ------------------------------------------------------------------------------------------- the work


def _sweep(values: dict[str, Any], searched: Searched) -> int:
    config = searched.base.config
    values = {name: config.get(name) if value in (None, ()) else value for name, value in values.items()}
    space = searched.with_owners(Space.parse(_listed(values["search"])))
    options = validated(SearchOptions, SEARCHING.given(values), "search")
    method = next(iter(searched.methods))
    backbone = values["backbone"] or registry.DEFAULT_BACKBONE
    values |= {"method": method, "backbone": backbone, "columns": values["columns"] or ()}
    automatic = not values["run_dir"] and values["task"] is not None
    if automatic:
        values["run_dir"] = str(run_name("sweep", values["task"]))
    common = searched.settings(values)
    for name in searched.methods:
        for sample in space.samples(name):
            searched.settings({**values, "method": name, **sample})
    with ExitStack() as owning:
        common = replace(common, run_dir=owning.enter_context(run_folder(common.run_dir, automatic)))
        if options.study:
            owning.enter_context(changing(Path(options.study), seconds=0))
        check_places(common, resume=False)
        values["run_dir"] = str(common.run_dir)
        return _search(searched, values, common, space, options)


def _search(searched: Searched, values: dict[str, Any], common: Settings, space: Space, options: SearchOptions) -> int:
    trials = Trials(searched, values, loaded(common.backbone, common.load))
    plans = [trials.plan({"method": name}) for name in searched.methods]  # an error here would occur in every trial
    for line in plans[0].notes:
        note(line)
    if options.prune and not plans[0].criterion.decisive:
        note(
            "too little validation data to tell trials apart: no trial is pruned, and the best trial is a chance result"
        )
        options = options.model_copy(update={"prune": False})
    seed = plans[0].options.seed
    sweep = Sweep(space, values["method"], trials.lower_is_better, options, seed, trials.identity(space))
    _clear(common, keep_trials=options.study is not None)
    together = options.together or _fitting(plans)
    ending = sweep.run(trials, _tell(sweep, trials.metric), common.run_dir, together)
    return _end(sweep, trials, common, ending == "interrupted", values["as_json"])


def _fitting(plans: Sequence[Plan]) -> int:
    """Return the number of trials in a pass that memory allows, measured with the method that needs the most."""
    if any(plan.options.cache or plan.options.report_to for plan in plans):
        note("trials train one after the other: --cache and --report-to are of one training each")
        return 1
    count, reason = min(members_that_fit(plan, TOGETHER) for plan in plans)
    note(f"up to {count} trials train in one pass (--together): {reason}")
    return count


class Trials:
    """Trains an adapter with the settings of a trial; all trials share one loaded backbone."""

    def __init__(self, searched: Searched, values: Mapping[str, Any], backbone: Backbone) -> None:
        self.searched, self.values, self.backbone = searched, values, backbone
        self.data = SharedData()
        task = registry.load("task", values["task"])
        self.metric: str = task.metric
        self.lower_is_better: bool = task.lower_is_better

    def settings(self, tried: Mapping[str, Any]) -> Settings:
        """Return the settings of a trial."""
        return self.searched.settings({**self.values, **tried})

    def plan(self, tried: Mapping[str, Any]) -> Plan:
        """Return the plan of a trial, test data included; trials are compared on validation data, however little."""
        tasks = self.settings(tried).tasks
        divided = {
            name: replace(entry, training={**entry.training, "hold_out": "always"}) for name, entry in tasks.items()
        }
        (trial_plan,) = plan_run(self.backbone, divided, data=self.data).plans.values()
        return trial_plan

    def identity(self, space: Space) -> str:
        """Return the fingerprint that comparable trials share."""
        base_plan = self.plan({})
        searched = {dimension.key for dimension in space.dimensions}
        fingerprints = base_plan.identity()
        fixed = {
            key: value
            for key, value in sorted(self.values.items())
            if value is not None and key not in NOT_IN_BEST and key not in searched
        }
        return repr((fingerprints["data"], fingerprints["backbone"], sorted(searched), fixed, self.metric))

    def __call__(self, proposals: Proposals, judge: Halving) -> dict[int, Outcome]:
        """Train the trials of a pass, without the test data."""
        outcomes: dict[int, Outcome] = {}
        trainings: dict[str, Training] = {}
        numbers: dict[str, int] = {}
        with ExitStack() as open_files:
            watches = {}
            for number, tried in proposals.values.items():
                folder = proposals.folder.parent / TRIAL.format(number)  # a resumed pass stays where it began
                settings = self.searched.settings({**self.values, **tried, "run_dir": str(folder)})
                try:
                    trial_plan = self.plan(tried)
                except AdaptError as error:
                    outcomes[number] = error
                    continue
                trial_plan.records.pop("test", None)
                open_files.enter_context(run_folder(folder))
                if not proposals.resumed or not (folder / RUN_CONFIG).exists():
                    begin(settings)
                label = folder.name
                numbers[label] = number
                trainings[label] = Training(trial_plan, folder, next(iter(settings.tasks)))
                watches[label] = open_files.enter_context(watching(folder / LOG, silent=True))

            def hear(validated: Mapping[str, Progress]) -> list[str]:
                for label, progress in validated.items():
                    watches[label](progress)
                scores = {
                    numbers[label]: (progress.epoch, float((progress.metrics or {})[self.metric]))
                    for label, progress in validated.items()
                    if progress.step < progress.steps
                }
                ended = judge(scores)
                return [label for label in validated if numbers[label] in ended]

            if trainings:
                results = train_together(trainings, proposals.folder, hear, proposals.resumed)
                shutil.rmtree(
                    proposals.folder, ignore_errors=True
                )  # Ctrl-C ends a sweep, and its trials are not resumed
                outcomes |= {numbers[label]: self._outcome(trainings[label], results[label]) for label in trainings}
        return outcomes

    def _outcome(self, training: Training, result: Result | AdaptError) -> Outcome:
        if isinstance(result, AdaptError):
            return None if isinstance(result, EndedEarly) else result
        result.report(training.folder, training.plan)
        score = result.adapter.card.metrics.get("validation", {}).get(self.metric, float("nan"))
        best = training.plan.criterion.best(result.history)
        return Finished(
            float(score),
            result.epochs,
            result.seconds,
            training.folder.absolute(),
            result.ending == "interrupted",
            None if best is None else best["eval_loss"],
        )

    def winner(self, best: Trial) -> AdapterFile:
        """Return the adapter of a trial, measured on the test data if there is any."""
        assert best.folder is not None
        adapter = read_file(best.folder / BEST)
        trial_plan = self.plan(best.values)
        if "test" not in trial_plan.records:
            return adapter
        records = trial_plan.records["test"]
        evaluation = evaluate(Dock(self.backbone), adapter, records, trial_plan.options.batch_size * 2)
        splits = {**adapter.card.training["splits"], "test": len(records)}
        update = {
            "metrics": {**adapter.card.metrics, "test": evaluation.metrics},
            "training": {**adapter.card.training, "splits": splits},
        }
        return AdapterFile(adapter.card.model_copy(update=update), adapter.tensors)


def _clear(common: Settings, keep_trials: bool) -> None:
    """Create the sweep's folder; trials of an earlier sweep are deleted unless a study continues them."""
    begin(common)
    for folder in () if keep_trials else [*common.run_dir.glob("trial-*"), *common.run_dir.glob("pass-*")]:
        shutil.rmtree(folder)


def _tell(sweep: Sweep, metric: str) -> Any:
    def done(trial: Trial) -> None:
        shown = ", ".join(f"{key} {_short(value)}" for key, value in trial.values.items())
        score = "" if trial.score is None else f": {metric} {trial.score:.2f}"
        reason = f" ({trial.reason})" if trial.reason and trial.state != "interrupted" else ""
        note(f"trial {trial.number} of {sweep.trials}, {trial.state}{score}; {shown}{reason}")

    return done


def _end(sweep: Sweep, trials: Trials, common: Settings, interrupted: bool, as_json: bool) -> int:
    from adaptdock.engine.search.sweep_report import write_sweep

    finished = ranked(sweep.found(), trials.lower_is_better)
    write_sweep(common.run_dir, finished, sweep.space.dimensions, trials.metric, trials.lower_is_better)
    best = sweep.best()
    shortfall = _shortfall(best)
    if shortfall and not as_json:
        say(shortfall)
        say()
    if not as_json:
        _show(finished, sweep.space, trials.metric)
    if best is None:
        if interrupted:
            note("Interrupted before any trial was complete: there is no adapter.")
            return 130
        reason = next((trial.reason for trial in finished if trial.state == "failed"), "all were pruned")
        raise AdaptError(
            f"no trial of {len(finished)} was completed, so there is no adapter. The reason of one trial: {reason}"
        )
    adapter = trials.winner(best)
    _write_config(common.run_dir / CONFIG, trials.values, best)
    write_file(common.output, adapter, common.overwrite)
    places = {"adapter": common.output, "settings": common.run_dir / CONFIG, "folder": common.run_dir}
    if as_json:
        document = {
            "shortfall": shortfall or None,
            "metric": trials.metric,
            "best": best.number,
            "metrics": adapter.card.metrics,
        }
        rows = [{**asdict(trial), "folder": str(trial.folder or "")} for trial in finished]
        show_json({**document, **{key: str(place) for key, place in places.items()}, "trials": rows})
    else:
        say()
        show_metrics(adapter.card.metrics)
        say()
        show_pairs({"best": f"trial {best.number}", **places, "picture": common.run_dir / "sweep.png"})
    if interrupted:
        note(f"Interrupted: the best adapter so far is in {common.output}.")
    return 130 if interrupted else 0


def _shortfall(best: Trial | None) -> str:
    """Return the reason in the card why the best adapter is useless, or an empty text."""
    if best is None or best.folder is None:
        return ""
    return str(read_file(best.folder / BEST).card.training.get("shortfall", ""))


def _show(finished: Sequence[Trial], space: Space, metric: str) -> None:
    keys = [dimension.key for dimension in space.dimensions]
    header = ["trial", "state", *(key.replace("_", " ") for key in keys), f"validation {metric}", "epochs", "seconds"]
    rows = [
        [
            trial.number,
            trial.state,
            *(_short(trial.values.get(key, "")) for key in keys),
            "" if trial.score is None else trial.score,
            trial.epochs or "",
            round(trial.seconds) or "",
        ]
        for trial in finished
    ]
    show_table(header, rows)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _write_config(path: Path, values: Mapping[str, Any], best: Trial) -> None:
    """Write settings for ``adapt train --config``."""
    import yaml

    settings = {key: value for key, value in {**values, **best.values}.items() if key not in NOT_IN_BEST}
    content = {
        key.replace("_", "-"): list(value) if isinstance(value, tuple) else value
        for key, value in settings.items()
        if value not in (None, ())
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
