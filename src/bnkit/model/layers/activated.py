"""Layers for conversions that ``torch.nn`` lacks: with an activation, or for inputs of any rank.

They are plain module-level classes, so that models that contain them can be pickled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.instancenorm import _InstanceNorm

from bnkit.errors import SettingsError
from bnkit.kernels import check_activation
from bnkit.kernels.activation import activate
from bnkit.nn import batch_norm as ours


class Activated(nn.Module):
    """Mixin before a normalisation: ``activation(norm(input) + residual)``, with the signature of bnkit's layers.

    Attributes:
        activation: A name that bnkit's layers support, a module, or None.
    """

    activation: str | nn.Module | None

    def __init__(self, *args: Any, activation: str | nn.Module | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.activation = check_activation(activation) if isinstance(activation, str) else activation

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """``activation(norm(input) + residual)``."""
        output: Tensor = super().forward(input)
        if residual is not None:
            output = output + residual
        return self.activation(output) if isinstance(self.activation, nn.Module) else activate(output, self.activation)

    def extra_repr(self) -> str:
        """The arguments of the normalisation, and the activation if it is a name."""
        theirs = super().extra_repr()
        return f"{theirs}, activation={self.activation!r}" if isinstance(self.activation, str) else theirs


class ActivatedBatchNorm1d(Activated, nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` with an activation."""


class ActivatedBatchNorm2d(Activated, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` with an activation."""


class ActivatedBatchNorm3d(Activated, nn.BatchNorm3d):
    """``torch.nn.BatchNorm3d`` with an activation."""


class AnyRankBatchNorm(Activated, nn.modules.batchnorm._BatchNorm):
    """PyTorch's batch norm for inputs of any rank, like ``torch.nn.SyncBatchNorm`` but for a single process."""

    def _check_input_dim(self, input: Tensor) -> None:
        _check_rank(self, input)


class OurAnyRankBatchNorm(ours._BatchNorm):
    """``bnkit.nn.BatchNorm1d`` for inputs of any rank, like ``torch.nn.SyncBatchNorm``."""

    def _check_input_dim(self, input: Tensor) -> None:
        _check_rank(self, input)


class CheckedGroupNorm(nn.GroupNorm):
    """``torch.nn.GroupNorm`` that refuses an input with one value a group, for which every output would be beta."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the input by the mean and variance of each group of an example.

        Raises:
            SettingsError: A group has only one value.
        """
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self._check_values(input)
        return functional.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    @torch.jit.unused
    def _check_values(self, input: Tensor) -> None:
        if torch.compiler.is_compiling() or self.num_groups != self.num_channels:
            return  # in a compiled graph, the check would become a guard on the input's shape
        if input.shape[2:].numel() == 1:  # also for inputs (N, C)
            raise SettingsError(
                f"group norm of an input of shape {tuple(input.shape)} in {self.num_groups} groups: one value a group, so that "
                "every output would be beta; take fewer groups (num_groups), or leave this layer out with `exclude`"
            )


class ActivatedGroupNorm(Activated, CheckedGroupNorm):
    """``CheckedGroupNorm`` with an activation."""


class _OfPositions(_InstanceNorm):
    """Instance norm for (N, C, *)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel of each example by its own mean and variance.

        Raises:
            SettingsError: There is only one value per channel and example.
        """
        if input.shape[2:].numel() == 1:  # also for inputs (N, C)
            raise SettingsError(
                f"instance norm of an input of shape {tuple(input.shape)}: one value per channel and example, so that every "
                'output would be beta; convert this layer to "group_norm", or leave it out with `exclude`'
            )
        return functional.instance_norm(input, None, None, self.weight, self.bias, eps=self.eps)


class AnyRankInstanceNorm(Activated, _OfPositions):
    """Instance norm for (N, C, *), and an activation. ``torch.nn.InstanceNorm1d`` reads (N, C) as one (C, L)."""


def _check_rank(module: nn.Module, input: Tensor) -> None:
    if input.dim() < 2:
        raise SettingsError(
            f"{type(module).__name__} got an input of shape {tuple(input.shape)}; expected (N, C) or (N, C, *)"
        )


OURS: dict[int | None, type[ours._BatchNorm]] = {
    1: ours.BatchNorm1d,
    2: ours.BatchNorm2d,
    3: ours.BatchNorm3d,
    None: OurAnyRankBatchNorm,
}
PLAIN: dict[int | None, type[nn.Module]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
    None: AnyRankBatchNorm,
}
ACTIVATED: dict[int | None, type[nn.Module]] = {
    1: ActivatedBatchNorm1d,
    2: ActivatedBatchNorm2d,
    3: ActivatedBatchNorm3d,
    None: AnyRankBatchNorm,
}
