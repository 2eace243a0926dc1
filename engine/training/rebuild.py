"""Rebuilding: train an adapter again from the arguments and the data that its card records, and compare."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adaptdock.engine.core.assembly import make_methods
from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.recorded_arguments import PLACES
from adaptdock.engine.training.planning.run_plan import RunPlan, TaskSettings, plan_run
from adaptdock.engine.training.train import carry_out
from adaptdock.errors import DataError, UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.artefact.training_record import Arguments, training_record
from adaptdock.plugins.contracts import Backbone, Composite

NEEDED = ("unlabelled", "synonyms", "back_translation")
"""Training options that name files, which a card does not hold."""


@dataclass(frozen=True)
class Rebuilt:
    """An adapter trained again, compared with the original."""

    result: Result
    largest: float
    """Largest difference of a weight; infinite for weights of other names or shapes."""
    metrics: Mapping[str, tuple[float, float]]
    """By split and metric (``test.f1``): the recorded value, and the value now."""
    options: Mapping[str, tuple[Any, Any]]
    """Options of the task, fitted to the data, that differ: the recorded value, and the value now."""

    @property
    def identical(self) -> bool:
        """Whether all weights are the same bits, and the task has the same options."""
        return self.largest == 0.0 and not self.options

    def close(self, tolerance: float) -> bool:
        """Whether there are metrics to compare, each as recorded within ``tolerance``, and the same task options."""
        differences = [abs(now - before) for before, now in self.metrics.values()]
        return bool(differences) and not self.options and max(differences) <= tolerance


def recorded_arguments(card: Card) -> Arguments:
    """Return the recorded arguments of a training; raise :class:`UsageError` with the reason if it can't be repeated.

    Those of a card of an older release are its options after all decisions, and name no source. Adapters of one task
    can be trained again. Adapters that were imported, combined, or trained on other adapters, on unlabelled texts,
    beside other tasks or with several seeds cannot.
    """
    training, record = card.training, training_record(card)
    arguments = record.arguments if record else _of_older_release(card)
    if card.on or "together" in training or "seeds" in training:
        reason = "it was trained on top of another adapter, beside other tasks, or with several seeds"
    elif arguments is None:
        reason = "its card does not record the arguments of a training (imported, combined, or made of adapters)"
    elif any(arguments.training.get(name) for name in NEEDED):
        reason = f"it was trained with files that its card does not hold ({', '.join(NEEDED)})"
    else:
        return arguments
    raise UsageError(f"the adapter {card.name!r} cannot be rebuilt: {reason}")


def _of_older_release(card: Card) -> Arguments | None:
    """Return the arguments of a card that records only options: the task's options are fitted to the data again."""
    options, splits = (card.training.get(name) for name in ("options", "splits"))
    if len(card.methods) != 1 or not isinstance(options, Mapping) or not isinstance(splits, Mapping):
        return None
    (method,) = card.methods
    if any(isinstance(instance, Composite) for _, instance in make_methods(method.name, method.options)):
        return None
    # The recorded epochs are already those for the number of records.
    return Arguments(method=method.name, method_options=method.options, training={**options, "target_steps": 0})


def source_of(card: Card, files: Mapping[str, str | None]) -> Source:
    """Return the data of an adapter's training: the given ``files``, or files with the recorded names in this folder.

    ``files`` are paths by ``data``, ``train``, ``validation`` and ``test``. Raises :class:`UsageError` where files are
    missing.
    """
    recorded = recorded_arguments(card).source
    layout: dict[str, Any] = recorded.model_dump(include={"format", "columns", "encoding"})
    if any(files.values()):
        return Source(**layout, **dict[str, Any](files))
    if training_record(card) is None:
        raise UsageError(
            f"the card of {card.name!r} does not say where its data are (an older release): give them with --data, or "
            f"--train, --validation and --test. It names {card.training.get('data', 'none')!r}"
        )
    if recorded.in_memory:
        raise UsageError("the data were objects of a Python program: write them to files, and give those with --train")
    names: dict[str, Any] = recorded.model_dump(include=set(PLACES), exclude_none=True)
    missing = [] if recorded.hub else [name for name in names.values() if not _is_here(name)]
    if missing:
        raise UsageError(
            f"the data are not in this folder: {', '.join(missing)}. Give them with {_flags(names)}, or change to "
            f"their folder"
        )
    return Source(**layout, **names)


def _flags(names: Mapping[str, Any]) -> str:
    return " and ".join(f"--{name}" for name in names)


def _is_here(place: str) -> bool:
    if any(character in place for character in "*?["):
        return any(Path().glob(place))
    return Path(place).exists() or all(Path(part).exists() for part in place.split(","))


def plan_again(card: Card, backbone: Backbone, source: Source) -> RunPlan:
    """Return the plan of an adapter's training, with its recorded arguments.

    Raises :class:`DataError` unless the records of each split are those of the first training (by an older release:
    unless they are as many), and the errors of planning.
    """
    arguments, record = recorded_arguments(card), training_record(card)
    settings = TaskSettings(
        card.task.name,
        arguments.method,
        source,
        arguments.training,
        arguments.method_options,
        arguments.task_options,
        may_undivide=arguments.may_undivide,
    )
    run_plan = plan_run(backbone, {card.name: settings})
    (plan,) = run_plan.plans.values()
    if record is not None:
        _check_data(card.name, "sha256", record.data_sha256, plan.data_sha256)
    else:
        numbers = {split: len(records) for split, records in plan.records.items()}
        _check_data(card.name, "number", card.training["splits"], numbers)
    return run_plan


def _check_data(name: str, measure: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for split in sorted({*before, *now}):
        if before.get(split) != now.get(split):
            raise DataError(
                f"the {split} data are not those of the training of {name!r}: the {measure} of the records is "
                f"{now.get(split, 'missing')}, and was {before.get(split, 'missing')}"
            )


def rebuild(
    adapter: AdapterFile, run_plan: RunPlan, folder: Path, progress: Callable[[Progress], None] | None = None
) -> Rebuilt:
    """Train an adapter again in ``folder`` by the plan of :func:`plan_again`, and compare weights and metrics.

    An interrupted training is compared with what it reached; ``result.ending`` says so. Raises the errors of training.
    """
    (result,) = carry_out(run_plan, folder, progress).values()
    card, now = adapter.card, result.adapter.card
    before, after = card.task.options, now.task.options
    options = {
        name: (before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    }
    return Rebuilt(result, _largest(adapter, result.adapter), _metrics(card.metrics, now.metrics), options)


def _largest(adapter: AdapterFile, second: AdapterFile) -> float:
    shapes = [{name: tensor.shape for name, tensor in item.tensors.items()} for item in (adapter, second)]
    if shapes[0] != shapes[1]:
        return float("inf")
    differences = [
        float((tensor.double() - second.tensors[name].double()).abs().max())
        for name, tensor in adapter.tensors.items()
        if not torch.equal(tensor, second.tensors[name])
    ]
    return max(differences, default=0.0)


def _metrics(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    return {
        f"{split}.{name}": (float(value), float(now[split][name]))
        for split, values in before.items()
        if isinstance(values, Mapping) and isinstance(now.get(split), Mapping)
        for name, value in values.items()
        if isinstance(value, int | float) and isinstance(now[split].get(name), int | float)
    }
