"""Which heads can be fitted in closed form or by regression, before any adapter is trained."""

import torch
from torch import Tensor

from adaptdock.engine.core.assembly import Assembly
from adaptdock.plugins.contracts import CandidateHead, FittedHead, LinearHead


def fits(assembly: Assembly) -> bool:
    """Return whether the task can fit the head, which is a linear layer or scores candidates."""
    is_fittable = isinstance(assembly.head, CandidateHead) or vectors_of(assembly) is not None
    return isinstance(assembly.task, FittedHead) and is_fittable


def vectors_of(assembly: Assembly) -> Tensor | None:
    """Return the vectors that a linear head reads of one row, zeros in their shape; None for any other head."""
    head = assembly.head
    if not isinstance(head, LinearHead) or head.over != "hidden":
        return None
    return head.vectors(torch.zeros(1, 1 + head.front, assembly.width), torch.ones(1, 1))
