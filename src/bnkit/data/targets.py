"""Targets in one of two forms: class numbers, or values to predict."""

from __future__ import annotations

from torch import Tensor

from bnkit.errors import DataError


def as_targets(targets: Tensor) -> Tensor:
    """Class numbers as int64, in their shape; floating targets as float32, (N,) as (N, 1).

    Raises:
        DataError: They are complex numbers.

    Example:
        >>> import torch
        >>> as_targets(torch.tensor([0.5, 2.0], dtype=torch.float64)).shape
        torch.Size([2, 1])
    """
    if targets.is_complex():
        raise DataError(f"got targets of {targets.dtype}; expected class numbers, torch.int64, or floating ones")
    if not targets.is_floating_point():
        return targets.long()
    values = targets.float()
    return values[:, None] if values.dim() == 1 else values
