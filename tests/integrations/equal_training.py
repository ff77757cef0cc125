"""Two states of a training, compared bit by bit."""

from __future__ import annotations

import torch


def same(one, other):
    """Whether nested dictionaries and lists hold the same values; tensors the same bits."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
