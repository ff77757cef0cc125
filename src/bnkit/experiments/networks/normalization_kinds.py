"""The arms of a comparison: the kinds of normalisation that a network is built with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bnkit.errors import SettingsError
from bnkit.experiments.built_in_networks import ARM_KERNELS
from bnkit.message_parts import unknown_name
from bnkit.nn import BatchNorm1d, BatchNorm2d

NormFactory = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Arm:
    """An arm: a kind of normalisation layer, or none.

    Attributes:
        name: The key in tables.
        kernel: The kernel of bnkit's layers; empty for others.
        norm1d, norm2d: Make the layer for (N, C) and (N, C, H, W) from C; None for no layer.
    """

    name: str
    kernel: str = ""
    norm1d: NormFactory | None = None
    norm2d: NormFactory | None = None


def _bnkit_arm(name: str) -> Arm:
    kernel = ARM_KERNELS[name]
    return Arm(name, kernel, lambda c: BatchNorm1d(c, kernel=kernel), lambda c: BatchNorm2d(c, kernel=kernel))


def _group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with about 16 channels a group, as in Wu & He (2018), "Group Normalization", table 3.

    One group for fewer channels: small groups would erase most of the output of a linear layer, which has one value a
    channel.
    """
    groups = max(count for count in range(1, max(channels // 16, 1) + 1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("no_batch_norm"),
        _bnkit_arm("batch_norm"),
        _bnkit_arm("reference"),
        Arm("torch", "", nn.BatchNorm1d, nn.BatchNorm2d),
        Arm("group_norm", "", _group_norm, _group_norm),
    )
}


def find_arm(name: str) -> Arm:
    """The arm of that name.

    Raises:
        SettingsError: If there is none.
    """
    if name not in ARMS:
        raise SettingsError(unknown_name("unknown arm", name, ARMS))
    return ARMS[name]
