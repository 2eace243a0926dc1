"""The checks of a task: its sample, and on a backbone windows, loss, predictions and metrics."""

import json
import math
from collections.abc import Hashable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from adaptdock.engine.conformance.bench import Bench, fitted
from adaptdock.engine.conformance.check import Check, NotAsked, Unmet, expect
from adaptdock.engine.conformance.methods import stored
from adaptdock.engine.conformance.models import BY_MODALITY, SHAPES, Shape, tiny_backbone
from adaptdock.engine.conformance.task_abilities import explained, reported
from adaptdock.engine.core.assembly import make_methods, make_task, method_entries
from adaptdock.engine.core.batches import form
from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.evaluation.measurement import evaluate
from adaptdock.engine.training.planning.probe_inputs import is_read
from adaptdock.errors import BackboneError, DataError, PluginError, UsageError
from adaptdock.hub.artefact.card import PluginEntry
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Recipe, Task

METHOD = registry.DEFAULT_METHOD


def task_checks(name: str, model: str | None) -> list[Check]:
    """Return the checks of a task; ``model`` has no meaning here."""
    checks = [
        Check("it names its fields, and a metric", partial(_declared, name)),
        Check("its sample reads: every split is clean, is fitted and fits", partial(_sample, name)),
        Check("labels, support and baseline of its sample are what a run asks for", partial(_judging, name)),
        Check("its options, once fitted, have a JSON form", partial(_fitted_options, name)),
        Check("its recipes are valid for every method there is", partial(_recipes, name)),
        Check("a record with nothing in its fields is refused as data", partial(_refuses, name)),
    ]
    for shape in _shapes(name):
        acts = {
            "labels and row inputs have one form of the contract each": _forms,
            "records become windows, and training moves every weight": _trained,
            "predictions are JSON, are scored by the metric, and can be reported": _predicted,
            "an input without labels is read, answered, shown and explained": _answered,
            "saved and read, it answers the same": _saved,
        }
        checks += [Check(f"{shape}: {title}", partial(_ask, act, name, shape)) for title, act in acts.items()]
    checks.append(Check("it works on a model of the kind that it reads", partial(_works_somewhere, name)))
    return checks


def _shapes(name: str) -> tuple[Shape, ...]:
    """Return the tiny models that read what a task reads; those of texts for a task that cannot be loaded."""
    try:
        return BY_MODALITY.get(registry.load("task", name).modality, ())
    except (PluginError, AttributeError):  # the first checks report it
        return SHAPES


def _declared(name: str) -> None:
    task: type[Task] = registry.load("task", name)
    expect(task.columns and all(task.columns.values()), "columns has to list each field with its column names in data")
    stray = [field for field in (*task.optional, *task.texts) if field not in task.columns]
    expect(not stray, f"optional and texts name {stray}, which columns does not")
    expect(isinstance(getattr(task, "metric", None), str) and task.metric, "metric has to name one")


def _sample(name: str) -> None:
    folder = getattr(registry.load("task", name), "sample", None)
    if not isinstance(folder, Path):
        raise Unmet(f"sample has to be the Path of a folder; found {folder!r:.60}")
    expect(folder.is_dir(), f"sample names {folder}, which is not a folder; is it in the wheel?")
    task, splits = fitted(name)
    for split, records in splits.items():
        expect(records, f"the {split} split of the sample is empty")
        json.dumps(task.describe(records), allow_nan=False)


def _judging(name: str) -> None:
    kind: type[Task] = registry.load("task", name)
    raw, _ = load_splits(Source(), kind)
    labels = [make_task(name, {}).labels(record) for record in raw["train"]]
    expect(
        all(isinstance(label, Hashable) for record_labels in labels for label in record_labels),
        "labels() has to give hashable labels, so that they can be counted",
    )
    task, splits = fitted(name)
    for split, records in splits.items():
        support, baseline = task.support(records), task.baseline(records)
        expect(isinstance(support, int) and support >= 0, f"support() of {split} gives {support!r}, not a count")
        value = None if baseline is None else baseline.get(kind.metric)
        is_number = isinstance(value, int | float) and math.isfinite(value)
        expect(baseline is None or is_number, f"baseline() of {split} gives {value!r} for the metric {kind.metric!r}")


def _fitted_options(name: str) -> None:
    options = fitted(name)[0].options
    reread = type(options).model_validate(json.loads(options.model_dump_json()))
    expect(reread == options, "options that went through JSON, as in a card, are no longer the same")


def _recipes(name: str) -> None:
    task: type[Task] = registry.load("task", name)
    expect(isinstance(task.recipes, Mapping), f"recipes is a {type(task.recipes).__name__}, not a table by method")
    for method, recipe in (*task.recipes.items(), ("default_recipe", task.default_recipe)):
        expect(isinstance(recipe, Recipe), f"the recipe {method!r} is a {type(recipe).__name__}")
    for method in registry.names("method"):
        recipe = task.recipes.get(method, task.default_recipe)
        if recipe.method_options:
            make_methods(method, recipe.method_options)


def _refuses(name: str) -> None:
    task = make_task(name, {})
    try:
        task.clean([{"where": "sample.txt:1", **dict.fromkeys(task.columns)}], "train")
    except DataError as error:
        expect("sample.txt:1" in str(error), f"the message does not say where: {error}")
        return
    raise Unmet("clean() accepts it; it has to raise a DataError that names the place of the record")


# ------------------------------------------------------------------------------------ on a backbone


def _ask(act: Any, name: str, shape: Shape) -> None:
    refusal = _refusal(name, shape)
    if refusal:
        raise NotAsked(f"it refuses this backbone: {refusal}")
    act(_bench(name, shape))


@cache
def _bench(name: str, shape: Shape) -> Bench:
    return Bench.of(tiny_backbone(shape), name)


@cache
def _refusal(name: str, shape: Shape) -> str:
    """Return why a task cannot be used on a backbone; empty if it can."""
    unsuited = _unsuited(name, shape)
    if unsuited:
        return unsuited
    bench = _bench(name, shape)
    try:
        bench.train(bench.adapter(_methods(), name, noise=0.0))
    except (BackboneError, UsageError) as refusal:
        return str(refusal)
    except Exception:  # a fault, not a refusal: the checks report it
        return ""
    return ""


@cache
def _unsuited(name: str, shape: Shape) -> str:
    """Return why a task does not go with the byte vocabulary of a tiny model; empty if it does."""
    try:
        _bench(name, shape)
    except (BackboneError, UsageError) as refusal:
        return str(refusal)
    return ""


def _works_somewhere(name: str) -> None:
    refusals = {shape: _refusal(name, shape) for shape in _shapes(name)}
    if not refusals:
        raise NotAsked(f"there is no tiny model that reads {registry.load('task', name).modality}")
    if all(refusals.values()):
        reasons = "; ".join(f"{shape}: {refusal}" for shape, refusal in refusals.items())
        raise NotAsked(reasons) if any(_unsuited(name, shape) for shape in refusals) else Unmet(reasons)


def _methods() -> list[PluginEntry]:
    return method_entries(METHOD, {})


def _forms(bench: Bench) -> None:
    features, head = bench.features(_methods()), bench.task.head()
    _one_form("labels", [feature.labels for feature in features])
    for name in head.row_inputs:
        absent = sum(name not in feature.row_inputs for feature in features)
        expect(not absent, f"{absent} features have no row input {name!r}, which {type(head).__name__} reads")
        _one_form(f"the row inputs {name!r}", [feature.row_inputs[name] for feature in features])
    unread = sorted({name for feature in features for name in feature.row_inputs} - head.row_inputs.keys())
    expect(not unread, f"encode() gives row inputs {unread} that row_inputs of {type(head).__name__} does not name")


def _one_form(subject: str, values: list[Any]) -> None:
    try:
        forms = {form(value) for value in values if value != []}
    except PluginError as error:
        raise Unmet(f"{subject}: {error}") from None
    listing = " and ".join(f"{kind} ({shape})" for shape, kind in sorted(forms))
    expect(len(forms) <= 1, f"{subject} have several forms, where a batch has one: {listing}")


def _trained(bench: Bench) -> None:
    bench.train(bench.adapter(_methods(), "tried", noise=0.0))


def _predicted(bench: Bench) -> None:
    adapter = bench.adapter(_methods(), "tried")
    with bench.dock() as dock:
        evaluation = evaluate(dock, adapter, bench.records)
    json.dumps(evaluation.predictions, allow_nan=False)
    json.dumps(evaluation.metrics, allow_nan=False)
    value = evaluation.metrics.get(type(bench.task).metric)
    is_number = isinstance(value, int | float) and math.isfinite(value)
    expect(is_number, f"score() gives {value!r} for the metric {type(bench.task).metric!r}")
    expect(math.isfinite(evaluation.loss), f"the loss is {evaluation.loss}")
    reported(bench, adapter.card, evaluation)


def _answered(bench: Bench) -> None:
    inputs = _inputs(bench)
    with bench.dock() as dock:
        name = dock.dock(bench.adapter(_methods(), "tried"))
        answers = dock.predict(name, inputs)
        explained(bench, dock, name, inputs)
    json.dumps(answers, allow_nan=False)
    for answer in answers:
        expect(isinstance(bench.task.render(answer), str), "render() has to give a text")
    try:
        bench.task.read(None)
    except DataError:
        return
    raise Unmet("read(None) is accepted; a value that is not an input has to end in a DataError")


def _inputs(bench: Bench) -> list[Any]:
    """Return the records as inputs of a user: whole objects, or only their texts."""
    inputs: list[Any] = []
    for record in bench.raw:
        fields = {name: value for name, value in record.items() if name in (*bench.task.columns, *bench.task.asks)}
        texts = [value for value in fields.values() if isinstance(value, str)]
        inputs.append(next((item for item in (fields, *texts) if is_read(bench.task, item)), fields))
    return inputs


def _saved(bench: Bench) -> None:
    adapter, inputs = bench.adapter(_methods(), "tried"), _inputs(bench)
    with bench.dock() as dock:
        before, after = dock.dock(adapter, "before"), dock.dock(stored(adapter), "after")
        expect(dock.predict(before, inputs) == dock.predict(after, inputs), "the answers are not the same")
