"""Block-diagonal rotations from learned matrices, for the methods of orthogonal finetuning."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adaptdock.errors import UsageError
from adaptdock.plugins.ports import Port

LARGEST_SIZE = 256
"""Largest block size in a message."""


def check_block_size(method: str, size: int, ports: Sequence[Port]) -> None:
    """Raise :class:`UsageError` for a block size that does not divide the inputs of a port, with sizes that do."""
    odd = next((port for port in ports if port.inputs % size), None)
    if odd is not None:
        sizes = range(2, LARGEST_SIZE + 1)
        fitting = [str(number) for number in sizes if not any(port.inputs % number for port in ports)]
        advice = f"--block-size can be {', '.join(fitting)}" if fitting else "no block size up to 256 divides them"
        raise UsageError(
            f"{method}: block_size {size} does not divide the {odd.inputs} inputs of {odd.name}; for these layers "
            f"{advice}"
        )


def skew_symmetric(triangles: Tensor, size: int) -> Tensor:
    """Return skew-symmetric matrices (blocks, size, size) of upper triangles (blocks, size * (size - 1) / 2)."""
    rows, columns = torch.triu_indices(size, size, 1, device=triangles.device)
    upper = triangles.new_zeros(len(triangles), size * size).index_copy(1, rows * size + columns, triangles)
    upper = upper.view(-1, size, size)
    return upper - upper.mT


def cayley(skewed: Tensor) -> Tensor:
    """Return the rotations ``(I - S) (I + S)^-1`` of skew-symmetric matrices S (blocks, size, size), float32."""
    identity = torch.eye(skewed.shape[-1], device=skewed.device)
    rotations: Tensor = torch.linalg.solve(identity + skewed, identity - skewed, left=False)
    return rotations


def neumann(skewed: Tensor, terms: int) -> Tensor:
    """Return the Neumann series of ``(I + S) (I - S)^-1`` with a number of terms, float32.

    The series is that of PEFT: the last power has the factor one, and three and four terms have the same powers.
    """
    result = torch.eye(skewed.shape[-1], device=skewed.device).expand_as(skewed)
    if terms > 1:
        result = result + 2 * skewed
    if terms > 2:
        power = skewed @ skewed
        result = result + 2 * power
        for _ in range(3, terms - 1):
            power = power @ skewed
            result = result + 2 * power
        result = result + power @ skewed
    return result


def butterfly_order(width: int, blocks: int, size: int) -> Tensor:
    """Return the permutation (width) before a factor of a butterfly product (Liu et al. 2024, arXiv:2311.06243).

    The width has ``blocks`` groups. In each group the pieces of half a block size are sorted: first those at even
    places, then those at odd places.
    """
    piece = size // 2
    pieces = torch.arange(width).view(blocks, -1, piece)
    return torch.cat([pieces[:, 0::2], pieces[:, 1::2]], dim=1).flatten()
