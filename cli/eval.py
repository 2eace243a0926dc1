"""``adapt eval``: metrics of an adapter on labelled data."""

from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.backbone import open_dock
from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, batch_size_option
from adaptdock.cli.common.labelled_data import LabelledData, labelled_data_flags, labelled_source, read_labelled
from adaptdock.cli.common.output import note, say, show_json, show_metrics
from adaptdock.cli.common.parameters import ADAPTER
from adaptdock.cli.common.precision import precision_flag, prediction_options
from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.checks import check
from adaptdock.engine.evaluation.bootstrap import intervals
from adaptdock.engine.evaluation.measurement import Evaluation, evaluate
from adaptdock.engine.evaluation.reporting.page import Subject, write_page
from adaptdock.errors import FileError, UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.registry.admission import read_adapter
from adaptdock.plugins.contracts import Task


@click.command("eval", cls=SectionedCommand)
@click.argument("file", type=ADAPTER)
@batch_size_option("Records")
@click.option(
    "--bootstrap",
    cls=Flag,
    type=click.IntRange(min=20),
    metavar="DRAWS",
    help="Number of bootstrap samples of the records, for the 95 % interval of each metric.",
)
@click.option(
    "--report",
    cls=Flag,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a report as one HTML file: interval, labels, confusions, slices, calibration, the worst errors.",
)
@click.option("--overwrite", cls=Flag, is_flag=True, help="Replace the file of --report.")
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON.")
def command(
    file: Path, batch_size: int, bootstrap: int | None, report: Path | None, as_json: bool, **values: Any
) -> None:
    """Measure the adapter in FILE, a path or the name of an installed one, on labelled data.

    --data names a folder, a hub data set or a file. Of a folder or data set the test split is measured, or the split
    that --split names; a file is measured in full. --test names a file, too. With neither option, the sample data of
    the task is used.
    """
    options = prediction_options(values)
    source = labelled_source(values)
    _check_report(report, values["overwrite"])
    adapter = read_adapter(file)
    task = make_task(adapter.card.task.name, adapter.card.task.options)
    data = read_labelled(source, task, values["split"], adapter.card)
    for line in data.notes:
        note(line)
    dock = open_dock(adapter.card, values["backbone"], options)
    evaluation = evaluate(dock, adapter, data.records, batch_size, write=bootstrap is None or report is not None)
    bounds = intervals(task, data.records, evaluation.scored, bootstrap) if bootstrap else {}
    if report:
        _write_report(report, adapter.card, task, data, evaluation)
    if as_json:
        document = _document(file, adapter.card, data, evaluation, report)
        show_json(document | ({"intervals": bounds} if bounds else {}))
        return
    note(f"{adapter.card.name} on the {data.split} split of {source.describe()}: {len(data.records)} records")
    show_metrics({data.split: {**evaluation.metrics, "loss": evaluation.loss}})
    for name, (low, high) in bounds.items():
        say(f"{name}: {low:g} to {high:g} (95 %, {bootstrap} draws)")
    if report:
        say(f"report: {report}")


command.params += [
    *labelled_data_flags(),
    Flag(["--backbone"], section=LOADING.flags[0].section, help="Another source of the same weights as the card's."),
    *LOADING.flags,
    precision_flag(),
]


def _check_report(path: Path | None, overwrite: bool) -> None:
    """Refuse the file of a report before the work, if it exists or its folder does not."""
    if path is None:
        if overwrite:
            raise UsageError("--overwrite replaces the file of --report, and no file is named")
        return
    if path.is_dir():
        raise UsageError(f"{path} is a folder; --report names a file, such as report.html")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already: give another --report, or --overwrite to replace it")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist; make it, or give another --report")


def _write_report(path: Path, card: Card, task: Task, data: LabelledData, evaluation: Evaluation) -> None:
    splits = {data.split: data.records}
    if data.training is not None:
        splits = {"train": data.training, **splits}
    subject = Subject(
        card=card,
        task=task,
        source=data.source.describe(),
        split=data.split,
        records=data.records,
        evaluation=evaluation,
        training=data.training,
        notes=data.notes,
        problems=check(splits, task),
    )
    try:
        write_page(path, subject)
    except OSError as error:
        raise FileError(path, f"the report could not be written: {error.strerror or error}") from None


def _document(
    file: Path, card: Card, data: LabelledData, evaluation: Evaluation, report: Path | None
) -> dict[str, Any]:
    return {
        "file": str(file),
        "adapter": card.name,
        "data": data.source.describe(),
        "split": data.split,
        "records": len(evaluation.predictions),
        "loss": evaluation.loss,
        "metrics": evaluation.metrics,
        **({"report": str(report)} if report else {}),
    }
