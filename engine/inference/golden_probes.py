"""Golden probes: a few inputs with the answers of an adapter when it was saved, compared again when it is docked.

A damaged, mixed up or wrongly converted adapter can have a valid file: right names, shapes and checksum. Its answers
reveal the fault. An answer is a sample of the logits, at places spread by the golden ratio over all windows. Beside the
answers, which depend on the backbone and its precision, are the responses of each port, which do not.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from adaptdock.engine.core.docked_adapters import DockedAdapters, Prepared, Row
from adaptdock.engine.inference.pipeline import temporarily_docked
from adaptdock.engine.inference.port_responses import TOLERANCE, Change, changes, responses, rounded
from adaptdock.engine.inference.prediction import logits_of
from adaptdock.errors import AdaptError, DataError, ProbeError, UsageError
from adaptdock.hub.artefact.card import MOST_PROBES, MOST_VALUES, Card, Probe, Probes
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone
from adaptdock.plugins.escapes import json_text

BATCH = 64
"""Inputs in a batch of probes, of one adapter or of several."""
DIGITS = 5
"""Significant digits of an answer."""
TOLERANCES: Mapping[str, float] = {"float32": 0.003, "float16": 0.02, "bfloat16": 0.08, "int8": 0.6, "nf4": 1.2}
"""Largest difference of a sound adapter by the precision of the backbone, as a share of the spread of its answers.

Largest difference measured on MiniLM, of 44 adapters of 8 tasks and 6 methods recorded in float32: below 0.0001 in
float32, 0.024 in bfloat16, 0.29 in int8, 0.83 in nf4; the medians are 0.008, 0.05 and 0.18 in the last three."""
ENOUGH_PROBES, ENOUGH_VALUES = 4, 12
"""Probes and values of their answers from which no more are recorded: a head with one output gives a value a probe, and
four values can be close to each other by chance, so that their spread says little about a usual difference."""
LEAST_SPREAD, LEAST_SCALE = 0.02, 1e-4
"""Answers that are almost equal have a spread of at least this share of their size, and of at least this number."""
REASON = "Its weights were damaged, mixed up or converted wrongly: fetch or train it again."
SHOWN_LETTERS, SHOWN_VALUES = 60, 6
GOLDEN = (math.sqrt(5) - 1) / 2


def precision(backbone: Backbone) -> str:
    """Return the precision of a backbone's answers: its quantisation, or its dtype."""
    return backbone.quantized or str(backbone.dtype).removeprefix("torch.")


def answers(dock: DockedAdapters, rows: Sequence[Row], inputs: Sequence[Any]) -> list[Tensor]:
    """Return the logits of each input, those of all windows in one dimension, float32."""
    return [
        torch.cat([torch.empty(0), *(logits.float().flatten() for logits in windows)])
        for windows in logits_of(dock, rows, inputs, BATCH)
    ]


def sampled(numbers: Tensor) -> Tensor:
    """Return at most :data:`MOST_VALUES` of the numbers."""
    size = len(numbers)
    if size <= MOST_VALUES:
        return numbers
    places = sorted({int(math.modf(number * GOLDEN)[0] * size) for number in range(1, MOST_VALUES + 1)})
    return numbers[places]


def recorded(
    dock: DockedAdapters, adapter: AdapterFile, inputs: Sequence[Any], origin: Literal["sample", "validation"]
) -> AdapterFile:
    """Return an adapter with golden probes on its card: the first inputs that it can answer, with its answers.

    There are :data:`ENOUGH_PROBES`, more where their answers have few values, and fewer if they would be too long for a
    card; the adapter is returned without probes if it answers no input.
    """
    probes: list[Probe] = []
    with temporarily_docked(dock, adapter) as row:
        for item in inputs:
            try:
                (answer,) = answers(dock, [row], [item])
            except AdaptError:
                continue  # such as a text in which this task finds nothing to answer
            values = [float(f"{value:.{DIGITS}g}") for value in sampled(answer).tolist()]
            if not values or not answer.isfinite().all():
                continue
            probes.append(Probe(input=item, size=len(answer), values=values))
            if len(probes) == MOST_PROBES or _are_enough(probes):
                break
        at_ports = rounded(responses(row[-1].assembly, adapter.tensors, dock.backbone))
    fitting = _fitting(probes, origin, precision(dock.backbone), at_ports)
    card = adapter.card.model_copy(update={"probes": fitting})
    return replace(adapter, card=card)


def _are_enough(probes: Sequence[Probe]) -> bool:
    return len(probes) >= ENOUGH_PROBES and _count(probes) >= ENOUGH_VALUES


def _count(probes: Sequence[Probe]) -> int:
    return sum(len(probe.values) for probe in probes)


def _fitting(
    probes: list[Probe], origin: Literal["sample", "validation"], of: str, at_ports: dict[str, list[float]]
) -> Probes | None:
    for count in range(len(probes), 0, -1):
        try:
            return Probes(origin=origin, precision=of, probes=probes[:count], responses=at_ports)
        except ValidationError:
            continue
    return None


@dataclass(frozen=True)
class Answered:
    """A golden probe, the values that it gave now, and the number of numbers in its logits."""

    probe: Probe
    size: int
    values: tuple[float, ...]

    @property
    def comparable(self) -> bool:
        """Whether the logits have the expected size."""
        return self.size == self.probe.size and len(self.values) == len(self.probe.values)


@dataclass(frozen=True)
class Outcome:
    """The golden probes of an adapter with the answers that it gave now."""

    answered: Sequence[Answered]
    tolerance: float

    @property
    def difference(self) -> float:
        """Root mean square of the changes of the answers, as a share of the spread of the expected answers.

        Infinite for logits of another size, and for numbers that are not finite.
        """
        if not all(answered.comparable for answered in self.answered):
            return math.inf
        expected = [value for answered in self.answered for value in answered.probe.values]
        values = [value for answered in self.answered for value in answered.values]
        if not all(map(math.isfinite, values)):
            return math.inf
        center = fmean(expected)
        spread = _root_mean_square(value - center for value in expected)
        scale = max(spread, LEAST_SPREAD * _root_mean_square(expected), LEAST_SCALE)
        return _root_mean_square(now - before for now, before in zip(values, expected, strict=True)) / scale

    @property
    def good(self) -> bool:
        """Whether the answers equal the saved answers, as far as the precision of the backbone allows."""
        return self.difference <= self.tolerance

    @property
    def worst(self) -> Answered:
        """The probe whose answer is furthest from the expected."""
        return max(self.answered, key=lambda answered: Outcome([answered], self.tolerance).difference)


def ask(dock: DockedAdapters, adapters: Sequence[Prepared]) -> list[Outcome | None]:
    """Run adapters on their golden probes, all in shared batches; None for an adapter without probes.

    No adapter stays docked. Raises :class:`ProbeError` for a probe that the adapter's task cannot read.
    """
    probes = [(number, probe) for number, adapter in enumerate(adapters) for probe in _probes(adapter)]
    with ExitStack() as docked:
        asked = dict.fromkeys(number for number, _ in probes)
        rows = {number: docked.enter_context(temporarily_docked(dock, adapters[number])) for number in asked}
        try:
            logits = answers(dock, [rows[number] for number, _ in probes], [probe.input for _, probe in probes])
        except (DataError, UsageError) as error:
            names = ", ".join(repr(adapters[number].card.name) for number in asked)
            raise ProbeError(f"the golden probes of {names} cannot be asked: {error}") from None
    answered: dict[int, list[Answered]] = {}
    for (number, probe), answer in zip(probes, logits, strict=True):
        answered.setdefault(number, []).append(Answered(probe, len(answer), tuple(sampled(answer).tolist())))
    return [
        Outcome(answered[number], tolerance(adapter.card, dock.backbone)) if number in answered else None
        for number, adapter in enumerate(adapters)
    ]


def response_changes(dock: DockedAdapters, adapter: AdapterFile, prepared: Prepared) -> list[Change]:
    """Return the change of each response since an adapter was saved, the largest first; none without responses."""
    stored = {} if adapter.card.probes is None else adapter.card.probes.responses
    return changes(stored, responses(prepared.assembly, adapter.tensors, dock.backbone)) if stored else []


def is_changed(change: Change) -> bool:
    """Return whether a response differs by more than arithmetic explains."""
    return change.difference > TOLERANCE


def check(dock: DockedAdapters, adapter: AdapterFile, prepared: Prepared) -> None:
    """Raise :class:`ProbeError` unless an adapter responds and answers as it did when it was saved."""
    change = next(iter(response_changes(dock, adapter, prepared)), None)
    if change is not None and is_changed(change):
        raise ProbeError(
            f"the adapter {adapter.card.name!r} is refused: {change}. {REASON} To use it anyway: --no-probes (in "
            f"Python probes=False)."
        )
    (outcome,) = ask(dock, [prepared])
    if outcome is None or outcome.good:
        return
    worst, used = outcome.worst, precision(dock.backbone)
    recorded_in = adapter.card.probes.precision if adapter.card.probes else used
    explain = f"{used} explains" if used == recorded_in else f"{recorded_in} then and {used} now explain"
    amount = (
        f"The answers differ by {outcome.difference:.0%} of their spread; {explain} at most {outcome.tolerance:.1%}."
        if math.isfinite(outcome.difference)
        else f"It gives {worst.size} numbers, some perhaps not finite, instead of {worst.probe.size}."
    )
    raise ProbeError(
        f"the adapter {adapter.card.name!r} is refused: to its golden probe {_shown(worst.probe.input)} it answers "
        f"{_numbers(worst.values)}, and it answered {_numbers(worst.probe.values)} when it was saved. {amount} "
        f"{REASON} To use it anyway: --no-probes (in Python probes=False)."
    )


def tolerance(card: Card, backbone: Backbone) -> float:
    """Return the largest difference that the precisions of recording and of this backbone explain.

    The spread of fewer than :data:`ENOUGH_VALUES` values is uncertain, so more is allowed for.
    """
    recorded_in = "" if card.probes is None else card.probes.precision
    count = ENOUGH_VALUES if card.probes is None else min(ENOUGH_VALUES, _count(card.probes.probes))
    widest = max(TOLERANCES.values())
    usual = max(TOLERANCES.get(name, widest) for name in (recorded_in, precision(backbone)))
    return usual * math.sqrt(ENOUGH_VALUES / count)


def _probes(adapter: Prepared) -> Sequence[Probe]:
    return () if adapter.card.probes is None else adapter.card.probes.probes


def _root_mean_square(values: Iterable[float]) -> float:
    return math.sqrt(fmean(value * value for value in values))


def _shown(item: Any) -> str:
    text = item if isinstance(item, str) else json_text(item)
    return repr(text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}...")


def _numbers(values: Sequence[float]) -> str:
    listed = ", ".join(f"{value:.3g}" for value in values[:SHOWN_VALUES])
    return f"({listed}, ...)" if len(values) > SHOWN_VALUES else f"({listed})"
