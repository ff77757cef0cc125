"""Awkward inputs and arguments for batch normalization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.cases.kernels import INTERPRETED


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _large_mean(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return _normal(shape, generator) * 0.03 + 1000


def _small(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return _normal(shape, generator) * 1e-4


def _large(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return _normal(shape, generator) * 1e4 - 3e4


def _constant(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.full(shape, 2.5, dtype=torch.float64)


def _one_constant_channel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = _normal(shape, generator)
    values[:, 0] = 0
    return values


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


def _every_second(x: Tensor) -> Tensor:
    wide = x.repeat_interleave(2, dim=-1)
    return wide[..., ::2]


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def _as_is(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Case:
    """A shape, the values in it, how they lie in memory, and the arguments of the layer."""

    name: str
    shape: tuple[int, ...]
    values: Callable[[tuple[int, ...], torch.Generator], Tensor] = _normal
    layout: Callable[[Tensor], Tensor] = _as_is
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def dimensions(self) -> int:
        """1, 2 or 3: which layer takes it."""
        return max(1, len(self.shape) - 2)

    def inputs(self, dtype: torch.dtype, steps: int = 3) -> list[Tensor]:
        """As many different inputs, the same for the same case."""
        generator = torch.Generator().manual_seed(7)
        return [self.layout(self.values(self.shape, generator).to(dtype)) for _ in range(steps)]


CASES = [
    Case("linear", (7, 3)),
    Case("two-values-per-channel", (2, 5)),
    Case("prime-batch", (1023, 3)),
    Case("sequence", (3, 5, 11)),
    Case("batch-of-one-sequence", (1, 3, 2)),
    Case("images", (4, 3, 5, 7)),
    Case("batch-of-one-image", (1, 3, 2, 2)),
    Case("one-channel", (5, 1, 3, 3)),
    # Interpreted, each channel is a program, and takes 50 ms.
    Case("many-channels", (2, 11 if INTERPRETED else 67, 3, 1)),
    Case("volumes", (2, 3, 3, 2, 5)),
    Case("channels-last", (4, 6, 5, 7), layout=_channels_last),
    Case("channels-last-3d", (2, 3, 3, 2, 5), layout=_channels_last),
    Case("every-second-column", (4, 3, 5, 7), layout=_every_second),
    Case("transposed", (7, 3), layout=_transposed),
    Case("large-mean-small-variance", (32, 4, 7, 7), values=_large_mean),
    Case("small-values", (8, 3, 5, 5), values=_small),
    Case("large-values", (8, 3, 5, 5), values=_large),
    Case("constant", (4, 3, 2, 2), values=_constant),
    Case("one-constant-channel", (4, 3, 5, 5), values=_one_constant_channel),
    Case("cumulative-average", (4, 3, 5, 7), arguments={"momentum": None}),
    Case("momentum-zero", (4, 3), arguments={"momentum": 0.0}),
    Case("momentum-one", (4, 3), arguments={"momentum": 1.0}),
    Case("no-affine", (4, 3, 5, 7), arguments={"affine": False}),
    Case("no-running-statistics", (4, 3, 5, 7), arguments={"track_running_stats": False}),
    Case("large-eps", (4, 3, 5, 7), arguments={"eps": 0.1}),
    Case("small-eps", (4, 3, 5, 7), values=_small, arguments={"eps": 1e-12}),
]
