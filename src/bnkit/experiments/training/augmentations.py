"""Augmentations of a training batch: inputs and targets in, inputs and targets out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from bnkit.errors import SettingsError

# Draws from torch's global generator, which is seeded for every batch, with the same seed for all networks.
Augmentation = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# He et al. (2016), "Deep residual learning", section 4.2: 4 pixels of zeros on each side, for images of 32×32.
_PADDING = 4


def crop_and_flip(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Shift each image by up to 4 pixels, padded with zeros, and mirror half of them left to right.

    The augmentation of He et al. (2016) for CIFAR-10. After normalisation to mean 0, zero is the mean of the pixels.

    Args:
        inputs: (N, C, H, W).
        targets: Returned unchanged.

    Raises:
        SettingsError: If the inputs are not images.
    """
    if inputs.dim() != 4:
        raise SettingsError(
            f"augmentation: crop_and_flip with inputs of shape {tuple(inputs.shape)}; expected images, (N, C, H, W)"
        )
    count, _, height, width = inputs.shape
    device = inputs.device
    top, left = (torch.randint(0, 2 * _PADDING + 1, (count, 1), device=device) for _ in range(2))
    mirrored = torch.rand(count, 1, device=device) < 0.5
    rows = top + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    columns = left + torch.where(mirrored, columns.flip(1), columns)
    padded = functional.pad(inputs, (_PADDING,) * 4)
    every = torch.arange(count, device=device)[:, None, None]
    # Indexing moves the channels to the end: (N, H, W, C).
    return padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    ).contiguous(), targets


AUGMENTATIONS: dict[str, Augmentation] = {"crop_and_flip": crop_and_flip}
