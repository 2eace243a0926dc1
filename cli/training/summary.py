"""Tables and JSON of ``adapt train``: the plan, and the finished run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptdock.cli.common.output import count, say, show_json, show_metrics, show_pairs
from adaptdock.cli.common.records import first_records, show_records
from adaptdock.cli.training.seeds import show_seeds
from adaptdock.cli.training.setting_lines import lines_of, setting_lines
from adaptdock.cli.training.settings import Settings
from adaptdock.cli.training.several import show_several_plans, show_several_results
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.hyperparameters import merge_options
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.engine.training.planning.run_plan import RunPlan
from adaptdock.plugins import registry

RECORDS = 3
"""Training records that a plan shows."""
SAVED = {
    "fitted head": "the head alone, with an adapter that changes nothing: training it was no better, beyond chance",
    "half adapter": "the adapter at half strength, with its head",
    "adapter": "the adapter, with its head",
}
"""What a run says of what it saved, by the name in the card."""


def show_plan(run_plan: RunPlan, settings: Settings, as_json: bool, verbose: bool) -> None:
    """Print the plan: the effects of the data, and the settings that differ from the recipe, or between tasks.

    ``verbose`` prints every setting.
    """
    if as_json:
        show_json(run_plan.summary() | ({"seeds": settings.seeds} if settings.seeds else {}))
        return
    if run_plan.several:
        show_several_plans(run_plan, verbose)
        return
    for name, plan in run_plan.plans.items():
        _show_single_plan(plan, settings.tasks[name].method, verbose, settings.seeds)


def _show_single_plan(plan: Plan, method: str, verbose: bool, seeds: int | None) -> None:
    summary = plan.summary()
    tokens = summary["tokens_per_window"]
    show_pairs(
        {
            "backbone": f"{summary['backbone']} ({summary['architecture']})",
            "task": summary["task"],
            "method": summary["methods"],
            "trained": _share(summary),
            "of these the head": count(summary["head_parameters"]),
            **_kept(summary),
            "ports": f"{len(summary['ports'])}: {_ports(summary['ports'])}",
            **{split: _counts(counts) for split, counts in summary["data"].items()},
            **_added(summary),
            **({"seeds": f"{seeds}, from {plan.options.seed} upwards"} if seeds else {}),
            "windows": f"{count(summary['windows'])} to train on; tokens: median {tokens['median']}, "
            f"longest {tokens['longest']}, limit {tokens['limit']}",
            **(setting_lines(plan) if verbose else _differing(plan, method)),
        }
    )
    show_records("train", first_records(plan.given, plan.task, RECORDS))


def _differing(plan: Plan, method: str) -> dict[str, str]:
    """Return the settings that differ from the recipe, and from the defaults of task and method."""
    recipe = merge_options(plan.task_name, method, {}).model_dump(mode="json")
    training = plan.options.model_dump(mode="json", exclude={"method_options"})
    lines = lines_of("task", plan.task.options.model_dump(mode="json", exclude_defaults=True))
    for entry in plan.methods:
        of_recipe = recipe["method_options"] if entry.name == method else {}
        defaults = registry.load("method", entry.name).Options.model_construct(**of_recipe).model_dump(mode="json")
        lines |= lines_of(entry.name, _changed(entry.options, defaults))
    lines |= lines_of("", _changed(training, recipe))
    return {**lines, "other settings": f"the recipe of {plan.task_name} for {method}; --verbose shows them"}


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}


def show_results(
    run_plan: RunPlan,
    settings: Settings,
    results: Mapping[str, Result],
    verdicts: Mapping[str, Sequence[str]],
    as_json: bool,
    folds: Mapping[str, Any] | None = None,
) -> None:
    """Print the ending of a run, its metrics, and the paths of its files."""
    if run_plan.several:
        show_several_results(run_plan, settings, results, verdicts, as_json)
        return
    for name, plan in run_plan.plans.items():
        result, verdict = results[name], verdicts[name]
        if as_json:
            document = _document(plan.summary(), result, settings.output, settings.run_dir, verdict)
            show_json(document | ({"folds": folds} if folds else {}))
        else:
            _show_single_result(plan, result, settings.output, settings.run_dir, verdict)


def _show_single_result(plan: Plan, result: Result, output: Path, folder: Path, verdict: Sequence[str]) -> None:
    metrics, summary = result.adapter.card.metrics, plan.summary()
    curves, page = folder / "curves.png", folder / "report.html"
    if result.shortfall:
        say(result.shortfall)
        say()
    if "seeds" in result.adapter.card.training:
        show_seeds(result.adapter.card.training["seeds"], type(plan.task).metric)
    if metrics:
        show_metrics(metrics)
        say()
    show_pairs(
        {
            "trained": _share(summary),
            **_kept(summary),
            **_rounds(result),
            **_beside_fitted(plan, result),
            "time": f"{result.seconds:.0f} s, {result.epochs:.2f} epochs",
            "adapter": f"{output} ({count(result.size)} bytes)",
            **({"curves": curves} if curves.exists() else {}),
            **({"report": page} if page.exists() else {}),
            "folder": folder,
        }
    )
    for sentence in verdict:
        say(sentence)


def _document(
    summary: dict[str, Any], result: Result, output: Path, folder: Path, verdict: Sequence[str]
) -> dict[str, Any]:
    return {
        "shortfall": result.shortfall or None,
        "output": str(output),
        "bytes": result.size,
        "run_dir": str(folder),
        "ending": result.ending,
        "epochs": result.epochs,
        "seconds": result.seconds,
        "metrics": result.adapter.card.metrics,
        **{key: value for key, value in result.adapter.card.training.items() if key in ("self_training", "seeds")},
        "trained_parameters": summary["trained_parameters"],
        "share_of_backbone": summary["share_of_backbone"],
        "verdict": list(verdict),
    }


def _share(summary: dict[str, Any]) -> str:
    return f"{count(summary['trained_parameters'])} parameters, {summary['share_of_backbone']:.2%} of the backbone"


def _kept(summary: dict[str, Any]) -> dict[str, str]:
    """Return the row for parameters that are stored without training; most methods have none."""
    parameters = summary["kept_parameters"]
    return {"stored besides": f"{count(parameters)} parameters that are not trained"} if parameters else {}


def _added(summary: dict[str, Any]) -> dict[str, str]:
    """Return the rows for records added by augmentations, and for texts without labels."""
    added = {f"added by {name}": f"{count(number)} records" for name, number in summary["added"].items()}
    return added | ({"unlabelled": f"{count(summary['unlabelled'])} texts"} if summary["unlabelled"] else {})


def _rounds(result: Result) -> dict[str, str]:
    """Return a row for each round of self-training: its added texts and its metrics."""
    self_training = result.adapter.card.training.get("self_training")
    if self_training is None:
        return {}
    lines = {}
    for entry in self_training["rounds"]:
        metrics = {split: values for split, values in entry["metrics"].items() if split in ("validation", "test")}
        scores = [f"{split} {_first(values)}" for split, values in metrics.items()]
        best = " (the best)" if entry["number"] == self_training["best"] else ""
        parts = [f"{count(entry['added'])} texts added", _counts(entry["labels"]), *scores]
        lines[f"round {entry['number']}{best}"] = "; ".join(part for part in parts if part)
    return lines


def _beside_fitted(plan: Plan, result: Result) -> dict[str, str]:
    """Say how the trained adapter compares with the fitted head, and which of them is saved."""
    training, metric = result.adapter.card.training, type(plan.task).metric
    folds, head = training.get("folds"), training.get("fitted_head")
    if folds is not None:
        reached = f"{metric} {folds['adapter']:.2f} over {folds['count']} folds"
        if folds["fitted_head"] is None:
            return {"folds": reached}
        others = f"{folds['half_adapter']:.2f} with the adapter at half strength, {folds['fitted_head']:.2f} without it"
        return {"folds": f"{reached}; {others}", "saved": SAVED[folds["kept"]]}
    if head is None:
        return {}
    answer = "fitted head" if head["kept"] else "adapter"
    return {"without it": f"validation {metric} {head['validation'][metric]:.2f}", "saved": SAVED[answer]}


def _first(metrics: dict[str, Any]) -> str:
    return next(f"{name} {value}" for name, value in metrics.items() if isinstance(value, int | float))


def _ports(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:2])}, ..., {names[-1]}"


def _counts(counts: dict[str, Any]) -> str:
    parts = []
    for name, value in counts.items():
        inner = ", ".join(f"{key} {count(number)}" for key, number in value.items()) if isinstance(value, dict) else ""
        parts.append(f"{name}: {inner or 'none'}" if isinstance(value, dict) else f"{count(value)} {name}")
    return "; ".join(parts)
