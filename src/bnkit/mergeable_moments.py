"""Mergeable mean and variance: the result does not depend on how the data are split.

The count, the mean and the sum of squared deviations of two parts determine those of the whole exactly (Chan, Golub &
LeVeque, 1979, "Updating formulae and a pairwise algorithm for computing sample variances", equations 2.1). The averages
of the batches' means and variances do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """The first two moments of some values, channel by channel.

    Attributes:
        count: How many values each channel has; a 0-d float64 tensor.
        mean: Their mean; shape (C,), float64.
        squared_deviations: The sum of their squared distances from the mean; shape (C,), float64.
    """

    count: Tensor
    mean: Tensor
    squared_deviations: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """The moments of ``values``, shape (N, C, *), over all dimensions but the second.

        Examples:
            >>> import torch
            >>> Moments.of(torch.tensor([[1.0], [3.0]])).mean
            tensor([2.], dtype=torch.float64)
        """
        rows = values.detach().to(torch.float64).transpose(0, 1).flatten(1)
        count = torch.tensor(float(rows.shape[1]), dtype=torch.float64, device=rows.device)
        if rows.shape[1] == 0:
            nothing = rows.new_zeros(rows.shape[0])
            return cls(count, nothing, nothing)
        mean = rows.mean(1)
        return cls(count, mean, (rows - mean[:, None]).square().sum(1))

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of values together.

        Examples:
            >>> import torch
            >>> values = torch.arange(6.0).reshape(6, 1)
            >>> merged = Moments.of(values[:2]).merge(Moments.of(values[2:]))
            >>> bool(merged.variance() == values.double().var())
            True
        """
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        share = other.count / count
        return Moments(
            count,
            self.mean + delta * share,
            self.squared_deviations + other.squared_deviations + delta.square() * self.count * share,
        )

    def variance(self, *, unbiased: bool = True) -> Tensor:
        """The variance, shape (C,), float64: divided by ``count - 1``, or by ``count`` if not ``unbiased``."""
        return self.squared_deviations / (self.count - 1 if unbiased else self.count)
