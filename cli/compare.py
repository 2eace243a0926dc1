"""``adapt compare``: two adapters measured on the same records, with a paired test."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.backbone import open_dock
from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, batch_size_option, load_options
from adaptdock.cli.common.labelled_data import LabelledData, labelled_data_flags, labelled_source, read_labelled
from adaptdock.cli.common.output import count, note, say, show_json, show_table
from adaptdock.cli.common.parameters import ADAPTER
from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.evaluation.comparison import Comparison
from adaptdock.engine.evaluation.comparison import compare as compare_evaluations
from adaptdock.engine.evaluation.measurement import Evaluation, evaluate
from adaptdock.engine.evaluation.resampling import Interval
from adaptdock.errors import DataError, UsageError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.registry.admission import read_adapter
from adaptdock.plugins.contracts import LoadOptions, Outcome, Task

EXAMPLES = 5
WIDTH = 200
"""Characters of a passage that are printed."""


@click.command("compare", cls=SectionedCommand)
@click.argument("first", type=ADAPTER, metavar="A")
@click.argument("second", type=ADAPTER, metavar="B")
@batch_size_option("Records")
@click.option(
    "--examples",
    cls=Flag,
    type=click.IntRange(min=0),
    default=EXAMPLES,
    show_default=True,
    help="Records to show that only A has right, and that only B has right.",
)
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON, with all these records.")
def command(first: Path, second: Path, batch_size: int, examples: int, as_json: bool, **values: Any) -> None:
    """Compare the adapters A and B, files or names of installed ones, on the same labelled data.

    Shows the metric of both with its 95 % interval, and the difference, B minus A, with the 95 %
    interval of a paired bootstrap. The p-value is the chance of a difference at least as great if
    both were equally good: by McNemar's exact test where each record is right or wrong, otherwise by
    a paired permutation test. Below 0.05 the difference is called significant.

    The adapters have to be for one task; their methods and backbones may differ. The data is named as
    for adapt eval.
    """
    options = load_options(values)
    source = labelled_source(values)
    files = [read_adapter(path) for path in (first, second)]
    tasks = [make_task(file.card.task.name, file.card.task.options) for file in files]
    _check_alike(files, tasks)
    data = [read_labelled(source, task, values["split"], file.card) for task, file in zip(tasks, files, strict=True)]
    if len(data[0].records) != len(data[1].records):
        raise DataError(
            f"{source.describe()}: A reads {len(data[0].records)} records and B {len(data[1].records)}, so they cannot "
            f"be paired: their options of the task differ (adapt inspect)"
        )
    for line in dict.fromkeys([*data[0].notes, *data[1].notes]):
        note(line)
    evaluations = _evaluations(files, data, values["backbone"], options, batch_size)
    comparison = compare_evaluations(tasks[0], data[0].records, *evaluations)
    names = [str(path) for path in (first, second)]
    if as_json:
        show_json(_document(names, data[0], comparison, evaluations))
        return
    task_name, records = files[0].card.task.name, len(data[0].records)
    note(f"{task_name} on the {values['split']} split of {source.describe()}: {records} records")
    _show(names, comparison)
    _show_examples("A", comparison.better_first[:examples], comparison, data[0])
    _show_examples("B", comparison.better_second[:examples], comparison, data[0])


command.params += [
    *labelled_data_flags(),
    Flag(["--backbone"], section=LOADING.flags[0].section, help="Another source of the weights of both backbones."),
    *LOADING.flags,
]


def _check_alike(files: Sequence[AdapterFile], tasks: Sequence[Task]) -> None:
    """Raise :class:`UsageError` for adapters of two tasks, and for one text with one label beside several."""
    names = [file.card.task.name for file in files]
    if type(tasks[0]) is not type(tasks[1]):
        raise UsageError(f"A is for {names[0]} and B for {names[1]}: adapters of one task can be compared")


def _evaluations(
    files: Sequence[AdapterFile],
    data: Sequence[LabelledData],
    backbone: str | None,
    options: LoadOptions,
    batch_size: int,
) -> list[Evaluation]:
    """Measure each adapter; adapters of one backbone share it."""
    docks: dict[str, Any] = {}
    evaluations = []
    for file, labelled in zip(files, data, strict=True):
        fingerprint = file.card.backbone.fingerprint
        if fingerprint not in docks:
            docks[fingerprint] = open_dock(file.card, backbone, options)
        evaluations.append(evaluate(docks[fingerprint], file, labelled.records, batch_size, write=False))
    return evaluations


# ------------------------------------------------------------------------------------------ output


def _show(names: Sequence[str], comparison: Comparison) -> None:
    rows = [
        [letter, name, round(value, 2), _bounds(bounds)]
        for letter, name, value, bounds in zip("AB", names, comparison.values, comparison.intervals, strict=True)
    ]
    show_table(["", "adapter", comparison.metric, "95 % interval"], rows)
    test = comparison.test
    say()
    say(f"B minus A: {test.difference:+.2f} (95 %: {_bounds(test.interval)}); p = {test.p_value:.4f} ({test.test})")
    say(_in_words(comparison))
    counts = [len(comparison.better_first), len(comparison.better_second)]
    if comparison.right_or_wrong:
        both = sum(a.error == b.error == 0 for a, b in zip(*comparison.outcomes, strict=True))
        neither = len(comparison.outcomes[0]) - both - sum(counts)
        say(f"Only A is right on {counts[0]} records, only B on {counts[1]}, both on {both}, neither on {neither}.")
    else:
        say(f"A has the smaller error on {count(counts[0])} records, B on {count(counts[1])}.")


def _bounds(bounds: Interval | None) -> str:
    return "too few records" if bounds is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}"


def _in_words(comparison: Comparison) -> str:
    if comparison.better is None:
        return "This data does not show which of the two is better."
    return f"{'AB'[comparison.better]} is significantly better on this data."


def _show_examples(letter: str, numbers: Sequence[int], comparison: Comparison, data: LabelledData) -> None:
    if not numbers:
        return
    say()
    say(f"Only {letter} is right:" if comparison.right_or_wrong else f"{letter} has the smaller error:")
    for number in numbers:
        say(f"  {data.records[number].get('where', number)}")
        for name, text in _passages(comparison, number).items():
            line = " ".join(text.split())
            say(f"    {name}: {line[:WIDTH]}{'...' if len(line) > WIDTH else ''}")


def _passages(comparison: Comparison, number: int) -> dict[str, str]:
    """Return the texts of a record, with the answers of both adapters."""
    first, second = (outcomes[number] for outcomes in comparison.outcomes)
    shared = {passage.title: _drawn(first, passage.title) for passage in first.passages if passage.title != "predicted"}
    answers = {"A": _drawn(first, "predicted"), "B": _drawn(second, "predicted")}
    return shared | {name: text for name, text in answers.items() if text}


def _drawn(outcome: Outcome, title: str) -> str:
    """Return the text of a passage with its marks: ``[Ada Lovelace|PER] lived``."""
    passage = next((passage for passage in outcome.passages if passage.title == title), None)
    if passage is None:
        return ""
    parts, position = [], 0
    for mark in sorted(passage.marks, key=lambda mark: mark.start):
        if mark.start >= position:
            parts += [passage.text[position : mark.start], f"[{passage.text[mark.start : mark.end]}|{mark.label}]"]
            position = mark.end
    return "".join([*parts, passage.text[position:]])


def _document(
    names: Sequence[str], data: LabelledData, comparison: Comparison, evaluations: Sequence[Evaluation]
) -> dict[str, Any]:
    sides = [
        {"file": name, "value": round(value, 4), "interval": bounds, "metrics": evaluation.metrics}
        for name, value, bounds, evaluation in zip(
            names, comparison.values, comparison.intervals, evaluations, strict=True
        )
    ]
    kind = "only_right" if comparison.right_or_wrong else "smaller_error"
    examples = {
        letter: [
            {"place": str(data.records[number].get("where", number)), **_passages(comparison, number)}
            for number in numbers
        ]
        for letter, numbers in (("a", comparison.better_first), ("b", comparison.better_second))
    }
    return {
        "data": data.source.describe(),
        "split": data.split,
        "records": len(data.records),
        "metric": comparison.metric,
        "a": sides[0],
        "b": sides[1],
        "difference": round(comparison.test.difference, 4),
        "interval": comparison.test.interval,
        "p_value": comparison.test.p_value,
        "test": comparison.test.test,
        "better": None if comparison.better is None else "ab"[comparison.better],
        kind: examples,
    }
