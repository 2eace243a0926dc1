"""The steps of members that are trained in the same passes: each takes its own batches, for its own epochs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Dataset

from adaptdock.engine.core.distributed import Ranks, ranks
from adaptdock.engine.training.hyperparameters import TrainingOptions


class MemberSteps:
    """The batches of one member in each of its optimiser steps, which its options and its data alone decide."""

    def __init__(self, options: TrainingOptions, draw: Callable[[int], Sequence[int]]) -> None:
        self.options, self._draw = options, draw
        self._epoch, self._order = 0, draw(0)
        self.per_epoch = options.steps_of(len(self._order))
        self.count = self.last = self.per_epoch * options.epochs
        """The steps that are planned, and those after which the member leaves the passes."""

    def batches(self, step: int, place: Ranks = Ranks()) -> list[Sequence[int]]:  # noqa: B008 - a frozen value
        """Return the batches that a process adds up to a step, counted from 0; none after the last.

        The batches of all processes together are those of one with batches so many times as large. Where the last
        ones of an epoch are short, units from its start fill them, so that each process has as many rows.
        """
        if step >= self.last:
            return []
        epoch, number = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._draw(epoch)
        rows = self.options.batch_size
        size = rows * self.options.gradient_accumulation * place.count
        units = list(self._order[number * size : (number + 1) * size])
        if place.count > 1:
            missing = -len(units) % (rows * place.count)
            units += [self._order[n % len(self._order)] for n in range(missing)]
        starts = range(place.rank * rows, len(units), rows * place.count)
        return [units[start : start + rows] for start in starts]

    def epoch(self, step: int) -> float:
        """Return the epochs that the member has been trained for after so many steps of all."""
        return min(step, self.last) / self.per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Tell whether the member's epoch ends with a step, counted from 1."""
        return step <= self.last and step % self.per_epoch == 0


class JointBatches(Dataset[tuple[list[Any], list[float]]]):
    """For each pass the units of all members, and the factor of each member's loss.

    A step adds up ``accumulation`` passes. The factor makes the mean over a member's own batches of that. With
    several processes, the elements go to them in turn.
    """

    def __init__(self, members: Sequence[tuple[MemberSteps, Sequence[Any]]], accumulation: int) -> None:
        self.members, self.accumulation = members, accumulation

    def __len__(self) -> int:
        return max(steps.count for steps, _ in self.members) * self.accumulation * ranks().count

    def __getitem__(self, number: int) -> tuple[list[Any], list[float]]:
        number, rank = divmod(number, ranks().count)
        place = replace(ranks(), rank=rank)
        step, part = divmod(number, self.accumulation)
        drawn, factors = [], []
        for steps, units in self.members:
            batches = steps.batches(step, place)
            if part < len(batches):
                drawn += [units[index] for index in batches[part]]
            factors.append(self.accumulation / max(1, len(batches)))
        return drawn, factors


class JointOptimizer(torch.optim.Optimizer):
    """The optimiser of each member as one; parameters without a gradient stay as they are."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers
        super().__init__([dict(group) for optimizer in optimizers for group in optimizer.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step with each."""
        for optimizer in self.optimizers:
            optimizer.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the state of each."""
        states: Iterable[Any] = state_dict["optimizers"]
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        self._share_groups()
