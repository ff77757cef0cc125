"""The augmentation of CIFAR-10, pixel by pixel."""

from __future__ import annotations

import pytest
import torch

from bnkit.errors import SettingsError
from bnkit.experiments.training.augmentations import crop_and_flip


def _all_that_may_come_out(image):
    """Every shift by up to 4 pixels, plain and mirrored, written out pixel by pixel."""
    _, height, width = image.shape
    for down in range(-4, 5):
        for right in range(-4, 5):
            shifted = torch.zeros_like(image)
            for row in range(height):
                for column in range(width):
                    if 0 <= row + down < height and 0 <= column + right < width:
                        shifted[:, row, column] = image[:, row + down, column + right]
            yield shifted
            yield shifted.flip(2)


def test_each_image_is_shifted_and_mirrored_on_its_own():
    images = torch.arange(1, 1 + 64 * 2 * 3 * 4).float().reshape(64, 2, 3, 4)
    targets = torch.arange(64)
    torch.manual_seed(0)
    cropped, kept = crop_and_flip(images, targets)
    assert kept is targets
    assert cropped.is_contiguous()
    for before, after in zip(images, cropped, strict=True):
        assert any(torch.equal(after, possible) for possible in _all_that_may_come_out(before))
    mirrored = (cropped[..., 1:] < cropped[..., :-1]).flatten(1).any(1) & (cropped.flatten(1) > 0).any(1)
    assert 10 < mirrored.sum() < 60  # about half; those shifted out of sight cannot be told


def test_every_shift_is_as_likely():
    images = torch.zeros(8100, 1, 9, 9)
    images[:, 0, 4, 4] = 1
    torch.manual_seed(0)
    cropped, _ = crop_and_flip(images, torch.zeros(8100))
    frequency = cropped.sum(0)[0]
    # 81 places of 100 each expected; a chi-squared of 80 degrees of freedom is below 136 in all but 1 of 10,000 draws.
    assert ((frequency - 100) ** 2 / 100).sum() < 136


def test_what_is_no_image_is_refused():
    with pytest.raises(SettingsError, match=r"crop_and_flip with inputs of shape \(3, 5\); expected images"):
        crop_and_flip(torch.zeros(3, 5), torch.zeros(3))
