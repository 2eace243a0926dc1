"""Steps of members that share passes: each member has its own batches and epochs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Dataset

from adaptdock.engine.core.distributed import Ranks, ranks
from adaptdock.engine.training.members.member_dropout import Draw
from adaptdock.engine.training.planning.hyperparameters import TrainingOptions


class MemberSteps:
    """The batches of one member in each of its optimiser steps; only its options and data determine them."""

    def __init__(self, options: TrainingOptions, draw: Callable[[int], Sequence[int]]) -> None:
        self.options, self._draw = options, draw
        self._epoch, self._order = 0, draw(0)
        self.per_epoch = options.steps_of(len(self._order))
        self.count = self.last = self.per_epoch * options.epochs
        """Planned steps, and the step after which the member leaves the passes."""

    def batches(self, step: int, place: Ranks = Ranks()) -> list[Sequence[int]]:  # noqa: B008 - a frozen value
        """Return the batches of a process in a step, counted from 0; none after the last step.

        All processes together have the units of one process with the total batch size, in equally many batches. At
        the end of an epoch a process may have a short batch, or an empty one.
        """
        if step >= self.last:
            return []
        epoch, number = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._draw(epoch)
        rows = self.options.batch_size
        size = rows * self.options.gradient_accumulation * place.count
        units = list(self._order[number * size : (number + 1) * size])
        starts = (start + place.rank * rows for start in range(0, len(units), rows * place.count))
        return [units[start : start + rows] for start in starts]

    def epoch(self, step: int) -> float:
        """Return the member's epochs after ``step`` steps of the run."""
        return min(step, self.last) / self.per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Return whether the member's epoch ends with a step, counted from 1."""
        return step <= self.last and step % self.per_epoch == 0


class JointBatches(Dataset[tuple[list[Any], list[float], Draw]]):
    """The units of all members in each pass, the factor of each member's loss, and the draw of dropout.

    A step has ``accumulation`` passes, and the Trainer divides each loss by that number. The factor corrects this for
    a member with fewer batches in the step. Several processes take the elements in turn; a process without a unit in a
    pass computes one with the factor 0.
    """

    def __init__(self, members: Sequence[tuple[MemberSteps, Sequence[Any]]], accumulation: int) -> None:
        self.members, self.accumulation = members, accumulation

    def __len__(self) -> int:
        return max(steps.count for steps, _ in self.members) * self.accumulation * ranks().count

    def __getitem__(self, number: int) -> tuple[list[Any], list[float], Draw]:
        number, rank = divmod(number, ranks().count)
        place = replace(ranks(), rank=rank)
        step, part = divmod(number, self.accumulation)
        drawn, factors = [], []
        for steps, units in self.members:
            batches = steps.batches(step, place)
            factor = self.accumulation / max(1, len(batches))
            if part < len(batches):
                drawn += [units[index] for index in batches[part]]
                if not batches[part]:  # all processes call backward() together; this one adds nothing
                    drawn.append(units[0])
                    factor = 0.0
            factors.append(factor)
        return drawn, factors, (step, part, rank)


class JointOptimizer(torch.optim.Optimizer):
    """The optimisers of all members as one; parameters without a gradient do not change."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers
        super().__init__([dict(group) for optimizer in optimizers for group in optimizer.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step with each optimiser."""
        for optimizer in self.optimizers:
            optimizer.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all optimisers."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the states of all optimisers."""
        states: Iterable[Any] = state_dict["optimizers"]
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        self._share_groups()
