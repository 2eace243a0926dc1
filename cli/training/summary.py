"""Tables and JSON of ``adapt train``: the plan, and the finished run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptdock.cli.common.output import brief, count, say, show_json, show_metrics, show_pairs
from adaptdock.engine.training.plan import Plan
from adaptdock.engine.training.task_run import Result


def show_plan(plan: Plan, as_json: bool) -> None:
    """Print the plan, as a table or as JSON."""
    summary = plan.summary()
    if as_json:
        show_json(summary)
        return
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
            **{f"task: {name}": brief(value) for name, value in summary["task_options"].items()},
            **{split: _counts(counts) for split, counts in summary["data"].items()},
            **_added(summary),
            "windows": f"{count(summary['windows'])} to train on; tokens: median {tokens['median']}, "
            f"longest {tokens['longest']}, limit {tokens['limit']}",
            **{name.replace("_", " "): str(value) for name, value in summary["options"].items()},
        }
    )


def show_result(
    plan: Plan,
    result: Result,
    output: Path,
    folder: Path,
    verdict: Sequence[str],
    as_json: bool,
    folds: Mapping[str, Any] | None = None,
) -> None:
    """Print the ending of a run, its metrics, and the paths of its files."""
    metrics, summary = result.adapter.card.metrics, plan.summary()
    curves = folder / "curves.png"
    if as_json:
        show_json(_document(summary, result, output, folder, verdict) | ({"folds": folds} if folds else {}))
        return
    if result.shortfall:
        say(result.shortfall)
        say()
    if metrics:
        show_metrics(metrics)
        say()
    show_pairs(
        {
            "trained": _share(summary),
            **_kept(summary),
            **_rounds(result),
            "time": f"{result.seconds:.0f} s, {result.epochs:.2f} epochs",
            "adapter": f"{output} ({count(result.size)} bytes)",
            **({"curves": curves} if curves.exists() else {}),
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
        **{key: value for key, value in result.adapter.card.training.items() if key == "self_training"},
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
