"""Ghost batch normalization: split a batch into several smaller ones, each with its own statistics.

Hoffer, Hubara & Soudry (2017), "Train longer, generalize better: closing the generalization gap in large batch training of
neural networks", Algorithm 1. As in that algorithm, the running statistics are updated once for each of the smaller
batches, as if these were separate batches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bnkit.errors import SettingsError, TooFewValuesError

BatchNormForward = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


def check_size(size: object, caller: str) -> None:
    """Raise a SettingsError if ``size`` is not a number of examples."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise SettingsError(
            f"{caller} got virtual_batch_size={size!r}; expected a number of examples, 1 or more, or None for the whole batch"
        )


def forward_in_parts(
    x: Tensor, residual: Tensor | None, mask: Tensor | None, size: int | None, normalise: BatchNormForward
) -> Tensor:
    """Concatenate the outputs of ``normalise(x, residual, mask)`` for parts of ``size`` examples or fewer.

    Args:
        x: (N, C, *); ``residual`` of its shape, ``mask`` (N, 1, *), or None.
        size: The number of examples in a part; None for all.
        normalise: Called on the parts in order.

    Raises:
        TooFewValuesError: The last part has one value per channel.
    """
    if size is None or x.shape[0] <= size:
        return normalise(x, residual, mask)
    count = -(-x.shape[0] // size)
    rest = x[(count - 1) * size :]
    if rest.numel() == x.shape[1]:  # checked before the other parts update the buffers
        raise TooFewValuesError(
            f"a layer with virtual_batch_size={size} got an input of shape {tuple(x.shape)} in training: its last part has one "
            "value per channel, whose deviation is 0; choose a size that divides the batch, or leaves two examples or more, "
            "or drop the last short batch (drop_last=True)"
        )
    residuals = [None] * count if residual is None else torch.split(residual, size)
    masks = [None] * count if mask is None else torch.split(mask, size)
    return torch.cat([normalise(*part) for part in zip(torch.split(x, size), residuals, masks, strict=True)])
