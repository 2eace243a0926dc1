"""What a backbone says of data: lengths against its window, words against its tokenizer, label errors, duplicates."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from adaptdock.cli.common.flags import load_options
from adaptdock.cli.common.output import say
from adaptdock.engine.data.checks import Problem, text_of
from adaptdock.engine.data.spans.findings import shortened
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Reading, Record, Task

UNKNOWN = 0.05
"""Share of unknown tokens from which the tokenizer does not fit the language."""
SHOWN = 10
"""Most label errors and near duplicates that are printed; --json has all."""
WIDTH = 100
"""Characters of a text that are printed."""


def by_backbone(
    records: Mapping[str, Sequence[Record]], task: Task, values: Mapping[str, Any], problems: list[Problem]
) -> dict[str, Any]:
    """Return the parts of a report that need a backbone, and add to ``problems``."""
    from adaptdock.cli.common.backbone import loaded
    from adaptdock.engine.core.batches import reading

    backbone = loaded(values["backbone"] or registry.DEFAULT_BACKBONE, load_options(values))
    reads = reading(backbone, values["max_length"], 0)
    suited = task.suit(reads)
    report: dict[str, Any] = {"windows": _windows(records, suited, backbone, reads, problems)}
    report["scripts"] = _scripts(records, suited, backbone, problems)
    return report | _frozen(records, suited, backbone, values, problems) if values["check"] else report


def _windows(
    records: Mapping[str, Sequence[Record]], task: Task, backbone: Backbone, reads: Reading, problems: list[Problem]
) -> dict[str, dict[str, Any]]:
    """Compare the records of each split with the window of a backbone."""
    from adaptdock.engine.inference.window_lengths import window_lengths

    windows = {}
    for split, cleaned in records.items():
        lengths = window_lengths(cleaned, task, reads)
        windows[split] = {
            "tokens": f"median {lengths.median}, longest {lengths.longest}, limit {lengths.limit}",
            "longer than a window": len(lengths.several),
            "cut off": len(lengths.cut),
            "unknown": f"{lengths.unknown:.1%}",
        }
        if lengths.cut:
            what = (
                f"{split}: {len(lengths.cut)} texts are longer than a window of {lengths.limit} tokens and are cut off"
            )
            problems.append(Problem(f"{what}: {shortened(list(lengths.cut))}", len(lengths.cut), ()))
        if lengths.unknown > UNKNOWN:
            problems.append(
                Problem(
                    f"{split}: the tokenizer of {backbone.id} does not know {lengths.unknown:.0%} of the tokens", 1, ()
                )
            )
    return windows


def _scripts(
    records: Mapping[str, Sequence[Record]], task: Task, backbone: Backbone, problems: list[Problem]
) -> dict[str, str]:
    """Return how the tokenizer divides the words of each script."""
    from adaptdock.engine.evaluation.script_coverage import script_coverage

    texts = (text for part in records.values() for record in part for text in text_of(record, task))
    coverage = script_coverage(texts, backbone.tokenizer)
    problems += [
        Problem(f"the tokenizer of {backbone.id} takes words in {name} apart: {script.describe()}", script.words, ())
        for name, script in coverage.items()
        if script.taken_apart
    ]
    return {name: script.describe() for name, script in coverage.items()}


def _frozen(
    records: Mapping[str, Sequence[Record]],
    task: Task,
    backbone: Backbone,
    values: Mapping[str, Any],
    problems: list[Problem],
) -> dict[str, Any]:
    """Find label errors and near duplicates."""
    from adaptdock.engine.evaluation.frozen_checks import check_frozen
    from adaptdock.engine.inference.dock import Dock

    findings = check_frozen(Dock(backbone), task, records, values["max_length"])
    errors, duplicates = findings.label_errors, findings.near_duplicates
    if errors:
        problems.append(Problem(f"{len(errors)} labels may be wrong (confident learning)", len(errors), ()))
    if duplicates:
        differing = sum(pair.labels_differ for pair in duplicates)
        what = f"{len(duplicates)} texts are nearly the same as an earlier one, {differing} of them with another label"
        problems.append(Problem(what, len(duplicates), ()))
    return {
        "label errors": [asdict(error) for error in errors],
        "near duplicates": [asdict(pair) for pair in duplicates],
        "not checked": findings.notes,
    }


def show_findings(report: Mapping[str, Any]) -> None:
    """Print label errors and near duplicates, the most certain first."""
    _show("Labels that may be wrong", [_error_line(error) for error in report.get("label errors", ())])
    _show("Near duplicates", [_pair_line(pair) for pair in report.get("near duplicates", ())])
    _show("Not checked", report.get("not checked", ()))


def _show(title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    more = f" ({SHOWN} of {len(lines)}; --json has all)" if len(lines) > SHOWN else ""
    say()
    say(f"{title}{more}:")
    for line in lines[:SHOWN]:
        say(f"  {line}")


def _error_line(error: Mapping[str, Any]) -> str:
    classes = (
        f"{error['label']} {error['label_probability']:.2f}, "
        f"not {error['suggestion']} {error['suggestion_probability']:.2f}?"
    )
    context = f" in {error['context']!r}" if error["context"] else ""
    return f"{error['place']}: {error['text'][:WIDTH]!r}{context} is {classes}"


def _pair_line(pair: Mapping[str, Any]) -> str:
    first, second = pair["texts"]
    differ = ", the labels differ" if pair["labels_differ"] else ""
    places = " and ".join(pair["places"])
    return f"{places} (distance {pair['distance']:.3f}{differ}): {first[:WIDTH]!r}, {second[:WIDTH]!r}"
