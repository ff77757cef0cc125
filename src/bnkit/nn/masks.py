"""Masks: which positions of a batch count in its statistics."""

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
    """How many values of a channel count: a number, or a 0-d tensor where a graph cannot branch on it.

    In a compiled graph, fewer than two are an error at the time that it runs. In one of ``torch.jit.trace``, a number would be
    that of the example for ever.
    """
    count = mask.sum()
    if torch.compiler.is_compiling():
        torch._assert_async(count > 1, "one value per channel, or none, where the mask is True")
        return count
    if torch._C._are_functorch_transforms_active() or torch._C._get_tracing_state() is not None:
        return count
    return int(count)
