"""Masks that select the positions of a batch that count in its statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from bnkit.errors import SettingsError


def as_wide_as(x: Tensor, mask: Tensor, caller: str) -> Tensor:
    """``mask`` as (N, 1, *spatial) for an ``x`` of shape (N, C, *spatial), without a copy.

    Raises:
        SettingsError: It is not bool, or cannot be broadcast to that.
    """
    shape = (x.shape[0], 1, *x.shape[2:])
    if mask.dtype != torch.bool:
        raise SettingsError(
            f"{caller} got a mask of {mask.dtype}; expected torch.bool, True where a position counts (mask != 0)"
        )
    try:
        return mask.expand(shape)
    except RuntimeError:
        raise SettingsError(
            f"{caller} got a mask of shape {tuple(mask.shape)}; expected one that broadcasts to {shape}, for an input of "
            f"shape {tuple(x.shape)}"
        ) from None


def count_of(mask: Tensor) -> int | Tensor:
    """The number of values per channel that count: an int, or a 0-d tensor if a graph cannot branch on it.

    A compiled graph raises an error when it runs with fewer than two. In a graph of ``torch.jit.trace``, an int would
    be the constant of the example.
    """
    count = mask.sum()
    if torch.compiler.is_compiling():
        torch._assert_async(count > 1, "one value per channel, or none, where the mask is True")
        return count
    if torch._C._are_functorch_transforms_active() or torch._C._get_tracing_state() is not None:
        return count
    return int(count)
