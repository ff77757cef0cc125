"""What the passes of a device can be given: they read and write at addresses, and would not notice what does not fit."""

from __future__ import annotations

import torch
from torch import Tensor

from bnkit.errors import KernelError


def channels_last(x: Tensor) -> torch.memory_format:
    """Channels last for as many dimensions as ``x`` has, 4 or 5."""
    return torch.channels_last if x.dim() == 4 else torch.channels_last_3d


def is_dense(x: Tensor) -> bool:
    """Whether ``x`` is contiguous, or channels last."""
    return x.is_contiguous() or (x.dim() in (4, 5) and x.is_contiguous(memory_format=channels_last(x)))


def check_operands(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    statistics: Tensor | None,
    y: Tensor | None = None,
    gradient: Tensor | None = None,
) -> None:
    """A KernelError where something does not fit; only the gradient of the output may lie otherwise than ``x``."""
    if not is_dense(x):
        raise KernelError(
            f"bnkit::batch_norm got x with strides {x.stride()}; expected it contiguous, or channels last"
        )
    number = torch.float64 if x.dtype is torch.float64 else torch.float32
    shape, channels = tuple(x.shape), (x.shape[1],)
    lies = torch.contiguous_format if x.is_contiguous() else channels_last(x)
    for name, tensor, expected, dtype in (
        ("weight", weight, channels, number),
        ("bias", bias, channels, number),
        ("residual", residual, shape, x.dtype),
        ("mask", mask, (shape[0], 1, *shape[2:]), torch.bool),
        ("statistics", statistics, (6, *channels), torch.float64),
        ("y", y, shape, x.dtype),
        ("gradient", gradient, shape, x.dtype),
    ):
        if tensor is None:
            continue
        if (tuple(tensor.shape), tensor.dtype, tensor.device) != (expected, dtype, x.device):
            raise KernelError(
                f"bnkit::batch_norm got a {name} of shape {tuple(tensor.shape)}, {tensor.dtype} on {tensor.device}; "
                f"expected {expected}, {dtype} on {x.device}"
            )
        wanted = lies if name in ("residual", "y") else torch.contiguous_format
        if name != "gradient" and not tensor.is_contiguous(memory_format=wanted):
            raise KernelError(f"bnkit::batch_norm got a {name} with strides {tensor.stride()}; expected {wanted}")
