"""The page: an adapter's evaluation as one HTML file that needs no network."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptdock.engine.data.checks import Problem, label_type
from adaptdock.engine.evaluation.label_curve import LabelCurve
from adaptdock.engine.evaluation.label_errors import LabelError
from adaptdock.engine.evaluation.measurement import Evaluation
from adaptdock.engine.evaluation.reporting import charts
from adaptdock.engine.evaluation.reporting.advice import Facts, LabelFigures, advice
from adaptdock.engine.evaluation.reporting.calibration import calibration
from adaptdock.engine.evaluation.reporting.confusion import confusion
from adaptdock.engine.evaluation.reporting.errors import hue_of_labels, worst_errors
from adaptdock.engine.evaluation.reporting.slices import slices
from adaptdock.engine.evaluation.resampling import Metric, interval
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.hub.artefact.card import Card
from adaptdock.plugins.contracts import Mark, Outcome, Passage, Record, Task
from adaptdock.plugins.task_abilities import outcome
from adaptdock.plugins.toolkit.stored import Form, stored

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

NAME = "report.html"
"""The file in a run's folder."""
LABEL_ERRORS = 20
"""Most labels that may be wrong on the page."""
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Subject:
    """An adapter with its evaluation on records, and everything known about its training.

    ``training`` are the records that the adapter was trained on, if they are known. ``points`` are the validations of
    a run (:func:`validations`), ``notes`` how the data was read, and ``problems`` the faults found in it.
    ``label_curve`` is that of ``--curve``. ``label_errors`` are labels of the training data that may be wrong, among
    those of ``labels_checked`` records.
    """

    card: Card
    task: Task
    source: str
    split: str
    records: Sequence[Record]
    evaluation: Evaluation
    training: Sequence[Record] | None = None
    points: Sequence[Mapping[str, float]] = ()
    verdict: Sequence[str] = ()
    notes: Sequence[str] = ()
    problems: Sequence[Problem] = field(default_factory=list)
    label_curve: LabelCurve | None = None
    label_errors: Sequence[LabelError] = ()
    labels_checked: int = 0


def write_page(path: Path, subject: Subject) -> None:
    """Write the page; raises :class:`OSError`, and then leaves an older file as it was."""
    write_atomically(path, render(subject).encode())


def render(subject: Subject) -> str:
    """Return the page as HTML, in which all text of data, card and labels is escaped."""
    return _template().render(content(subject))


@lru_cache
def _template() -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES, encoding="utf-8")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template("report.html.jinja")


def _breakable(label: str) -> "Markup":
    """Return a label, escaped, in which a line may break after each underscore."""
    from markupsafe import Markup, escape

    return escape(label).replace("_", Markup("_<wbr>"))


def content(subject: Subject) -> dict[str, Any]:
    """Return everything that the page shows, by the names of its template."""
    task, evaluation = subject.task, subject.evaluation
    metric = Metric(task, subject.records, evaluation.scored)
    bounds = interval(metric, np.arange(len(subject.records)))
    compared = zip(subject.records, evaluation.predictions, strict=False)  # only the first answers are written
    outcomes = stored((outcome(task, record, prediction) for record, prediction in compared), OUTCOME)
    tables = _tables(evaluation.metrics)
    matrix, reliability = confusion(outcomes), calibration(outcomes)
    parts = slices(metric, subject.records, task, subject.training, by_label=not tables)
    labels = _label_figures(tables, subject)
    name = type(task).metric
    losses = [point["validation_loss"] for point in subject.points]
    errors = worst_errors(subject.records, outcomes, hue_of_labels(outcomes))
    facts = Facts(
        metric=name,
        value=float(evaluation.metrics[name]),
        records=len(subject.records),
        lower_is_better=type(task).lower_is_better,
        interval=bounds,
        shortfall=str(subject.card.training.get("shortfall", "")),
        problems=sum(problem.count for problem in subject.problems),
        checked=len(subject.records) + len(subject.training or ()),
        labels=labels,
        confusion=matrix,
        calibration=reliability,
        slices=parts,
        validation_losses=losses,
        last_epoch_is_best=_last_is_best(subject),
    )
    return {
        "subject": subject,
        "facts": facts,
        "advice": advice(facts),
        "trained": _trained(subject.card),
        "figures": {key: value for key, value in evaluation.metrics.items() if isinstance(value, int | float)},
        "tables": tables,
        "trained_examples": {label.name: label.trained for label in labels},
        "curves": charts.learning_curves(subject.points, name) if subject.points else [],
        "label_curve": None if subject.label_curve is None else charts.label_curve(subject.label_curve),
        "reliability": None if reliability is None else charts.reliability(reliability),
        "scatter": _scatter(outcomes),
        "slices": {
            kind: [part for part in parts if part.kind == kind] for kind in dict.fromkeys(p.kind for p in parts)
        },
        "errors": errors,
        "short": _without_folder(subject),
        "wrong": sum(outcome.error > 0 for outcome in outcomes),
        "compared": len(outcomes),
        "label_errors": subject.label_errors[:LABEL_ERRORS],
        "chart": {"width": charts.WIDTH, "height": charts.HEIGHT, "left": charts.LEFT, "bottom": charts.BOTTOM},
    }


def _without_folder(subject: Subject) -> Callable[[str], str]:
    """Return a function that leaves out of places the folder which all data files have in common."""
    ends = [part[number] for part in (subject.records, subject.training or ()) if part for number in (0, -1)]
    try:
        folder = commonpath([Path(str(record.get("where", ""))).parent for record in ends])
    except ValueError:  # there is no record, or only some places are absolute
        folder = ""
    pattern = re.compile(rf"(?<![\w./-]){re.escape(folder)}/") if folder.strip("./") else None
    return lambda text: text if pattern is None else pattern.sub("", text)


OUTCOME: Form[Outcome] = Form(
    lambda outcome: (
        *(outcome.error, outcome.pairs, outcome.scores, outcome.values),
        [
            (passage.title, passage.text, [(mark.start, mark.end, mark.label, mark.wrong) for mark in passage.marks])
            for passage in outcome.passages
        ],
    ),
    lambda row: Outcome(
        row[0],
        tuple(Passage(title, text, tuple(Mark(*mark) for mark in marks)) for title, text, marks in row[4]),
        *row[1:4],
    ),
)
"""The outcome of a record in a file."""


def _scatter(outcomes: Sequence[Outcome]) -> charts.Chart | None:
    values = [outcome.values for outcome in outcomes if outcome.values is not None]
    return charts.scatter(values) if values else None


def _last_is_best(subject: Subject) -> bool:
    """Return whether a complete run of several validations had the best one at its end.

    The last epoch is stored without being the best where the validation data is too small to choose one.
    """
    training, kind = subject.card.training, type(subject.task)
    if len(subject.points) < 2 or training.get("ending") != "complete":
        return False
    values = [point[kind.metric] for point in subject.points]
    best = min(values) if kind.lower_is_better else max(values)
    return values[-1] == best and round(subject.points[-1]["epoch"], 3) == training.get("best_epoch")


def _tables(metrics: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Return the metrics that are tables of labels, with the weakest labels first."""
    tables = {}
    for name, rows in metrics.items():
        if isinstance(rows, Mapping) and rows and all(isinstance(row, Mapping) for row in rows.values()):
            tables[name] = dict(sorted(rows.items(), key=lambda item: (item[1].get("f1", 0), item[0])))
    return tables


def _label_figures(tables: Mapping[str, Mapping[str, Mapping[str, Any]]], subject: Subject) -> list[LabelFigures]:
    examples = None if subject.training is None else _examples(subject.task, subject.training)
    return [
        LabelFigures(str(label), row["recall"], row["support"], None if examples is None else examples[str(label)])
        for table in tables.values()
        for label, row in table.items()
        if "recall" in row and "support" in row
    ]


def _examples(task: Task, records: Sequence[Record]) -> Counter[str]:
    """Count the training records with a label; tags of words count by their type."""
    return Counter(label for record in records for label in {label_type(str(label)) for label in task.labels(record)})


def _trained(card: Card) -> dict[str, str]:
    """Return the training in words: task, method, backbone and data."""
    training = card.training
    rows = {
        "Task": card.task.name,
        "Method": ", ".join(f"{method.name} {_settings(method.options)}".strip() for method in card.methods),
        "Backbone": f"{card.backbone.id} ({card.backbone.architecture})",
        "Data": str(training.get("data", "")),
        "Records": ", ".join(f"{split} {count:,}" for split, count in training.get("splits", {}).items()),
        "Epochs": _epochs(training),
        "Time": f"{training['seconds']:.0f} s" if "seconds" in training else "",
        "Libraries": ", ".join(f"{name} {number}" for name, number in training.get("libraries", {}).items()),
    }
    return {name: text for name, text in rows.items() if text}


def _settings(options: Mapping[str, Any]) -> str:
    shown = [f"{name} {value}" for name, value in options.items() if isinstance(value, int | float | str) and value]
    return f"({', '.join(shown[:6])})" if shown else ""


def _epochs(training: Mapping[str, Any]) -> str:
    if "epochs_run" not in training:
        return ""
    ending = {"complete": "", "early": ", stopped early", "interrupted": ", interrupted"}[training["ending"]]
    return f"{training['epochs_run']:g}{ending}; the weights of epoch {training.get('best_epoch', 0):g} are stored"
