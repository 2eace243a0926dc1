"""Which heads can be fitted in closed form or by regression, before any adapter is trained."""

import torch

from adaptdock.engine.core.assembly import Assembly
from adaptdock.plugins.contracts import FittedHead, LinearHead


def fits(assembly: Assembly) -> bool:
    """Return whether the head is a linear layer that its task can fit."""
    head, task = assembly.head, assembly.task
    if not isinstance(task, FittedHead) or not isinstance(head, LinearHead) or head.over != "hidden":
        return False
    width = assembly.width
    return head.vectors(torch.zeros(1, 1 + assembly.head.front, width), torch.ones(1, 1)) is not None
