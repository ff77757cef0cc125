"""What a demonstration shows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: What it shows.
        header: The names of its columns.
        rows: As wide as the header.
        note: What it says, in a sentence.
    """

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str


def first_values(values: Tensor) -> str:
    """The first three values with four digits behind the point."""
    return " ".join(f"{value:.4f}" for value in values.detach().flatten()[:3].tolist())


def largest_difference(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors."""
    return float((a.detach().double() - b.detach().double()).abs().max())
