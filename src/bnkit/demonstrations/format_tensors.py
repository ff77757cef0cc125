"""Tensors as text for demonstrations."""

from __future__ import annotations

from torch import Tensor


def first_values(values: Tensor) -> str:
    """The first three values with four decimal places."""
    return " ".join(f"{value:.4f}" for value in values.detach().flatten()[:3].tolist())


def largest_difference(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors."""
    return float((a.detach().double() - b.detach().double()).abs().max())
