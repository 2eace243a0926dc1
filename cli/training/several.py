"""Tables and JSON of ``adapt train --tasks``: a row for each task."""

from collections.abc import Mapping, Sequence
from typing import Any

from adaptdock.cli.common.output import count, say, show_json, show_pairs, show_table
from adaptdock.cli.training.setting_lines import setting_lines
from adaptdock.cli.training.settings import Settings
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.run_plan import RunPlan

ABSENT = "-"
"""What a table shows for a setting that a task does not have."""


def show_several_plans(run_plan: RunPlan, verbose: bool) -> None:
    """Print the plan of each task, and the settings that differ between tasks; ``verbose`` prints every setting."""
    summary, plans = run_plan.summary(), run_plan.plans
    sharing = summary["sharing"]
    show_pairs(
        {
            "sharing": f"{sharing['sharing']}, sampling {sharing['sampling']}",
            "trained": f"{count(summary['trained_parameters'])} parameters",
        }
    )
    say()
    show_table(
        ["name", "task", "method", "training records", "windows", "drawn in an epoch", "head parameters"],
        [
            [
                *(name, entry["task"], _methods(run_plan, name), len(plans[name].records["train"])),
                *(entry["windows"], summary["units_in_an_epoch"][name], entry["head_parameters"]),
            ]
            for name, entry in summary["tasks"].items()
        ],
    )
    columns = [setting_lines(plan) for plan in plans.values()]
    names = list(dict.fromkeys(name for lines in columns for name in lines))
    rows = [[name, *(lines.get(name, ABSENT) for lines in columns)] for name in names]
    shown = rows if verbose else [row for row in rows if len(set(row[1:])) > 1 and not row[0].startswith("task: ")]
    if shown:
        say()
        show_table(["setting", *plans], shown)


def _methods(run_plan: RunPlan, name: str) -> str:
    return "+".join(method.name for method in run_plan.plans[name].methods)


def show_several_results(
    run_plan: RunPlan,
    settings: Settings,
    results: Mapping[str, Result],
    verdicts: Mapping[str, Sequence[str]],
    as_json: bool,
) -> None:
    """Print the ending of each task, its metrics and its file."""
    rows = [_row(run_plan, settings, name, result) for name, result in results.items()]
    if as_json:
        show_json(
            {
                "run_dir": str(settings.run_dir),
                "sharing": settings.sharing.model_dump(mode="json"),
                "trained_parameters": run_plan.trained_parameters(),
                "tasks": [{**row, "verdict": list(verdicts[row["name"]])} for row in rows],
            }
        )
        return
    for name, result in results.items():
        if result.shortfall:
            say(f"{name}: {result.shortfall}")
    show_table(
        ["name", "task", "method", "metric", "validation", "test", "best epoch", "adapter", "bytes"],
        [
            [
                *(row[key] for key in ("name", "task", "method", "metric")),
                *(row["metrics"].get(split, {}).get(row["metric"], "") for split in ("validation", "test")),
                *(row[key] for key in ("best_epoch", "output", "bytes")),
            ]
            for row in rows
        ],
    )
    say()
    longest = max(results.values(), key=lambda result: result.seconds)
    show_pairs(
        {
            "trained": f"{count(run_plan.trained_parameters())} parameters",
            "time": f"{longest.seconds:.0f} s, {longest.epochs:.2f} epochs",
            "folder": settings.run_dir,
        }
    )
    for name, sentences in verdicts.items():
        for sentence in sentences:
            say(f"{name}: {sentence}")


def _row(run_plan: RunPlan, settings: Settings, name: str, result: Result) -> dict[str, Any]:
    card, task = result.adapter.card, run_plan.plans[name].task
    return {
        "name": name,
        "task": card.task.name,
        "method": _methods(run_plan, name),
        "metric": type(task).metric,
        "best_epoch": card.training["best_epoch"],
        "metrics": card.metrics,
        "output": str(settings.files[name]),
        "bytes": result.size,
        "shortfall": result.shortfall or None,
        "ending": result.ending,
        "seconds": result.seconds,
    }
