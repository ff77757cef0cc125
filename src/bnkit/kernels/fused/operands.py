"""Checks of the kernels' operands: passes read and write at addresses, and do not detect invalid tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from bnkit.errors import KernelError
from bnkit.kernels.kernel_interface import BatchNormArgs

# The dtypes of inputs, parameters and running statistics.
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def channels_last(x: Tensor) -> torch.memory_format:
    """The channels-last format for the dimensions of ``x``, 4 or 5."""
    return torch.channels_last if x.dim() == 4 else torch.channels_last_3d


def is_dense(x: Tensor) -> bool:
    """Whether ``x`` is contiguous, or channels last."""
    return x.is_contiguous() or (x.dim() in (4, 5) and x.is_contiguous(memory_format=channels_last(x)))


def parameter_dtype_of(x: Tensor) -> torch.dtype:
    """The dtype of gamma and beta for ``x``: float64 for float64, and float32 for all others."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def is_bare(tensor: Tensor) -> bool:
    """Whether memory holds its actual values: without a negation bit, and not zeros without memory."""
    return torch.compiler.is_compiling() or not (tensor.is_neg() or tensor._is_zerotensor())


def are_rows(channels: int, dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    """Whether a kernel can read and write all ``tensors`` as (C,) contiguous numbers of ``dtype``."""
    is_seen = torch.compiler.is_compiling()
    for tensor in tensors:
        if tensor is not None and (
            tensor.dtype is not dtype
            or tensor.stride() != _SIDE_BY_SIDE
            or tensor.numel() != channels
            or (not is_seen and tensor.is_neg())
        ):
            return False
    return True


def as_row(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """``tensor``, (C,), as contiguous numbers of ``dtype``; differentiable."""
    if tensor is None or are_rows(tensor.numel(), dtype, tensor):
        return tensor
    return tensor.to(dtype).resolve_neg().contiguous()


def in_layout_of(x: Tensor, other: Tensor) -> Tensor:
    """``other``, of the same shape, in the memory layout and dtype of a dense ``x``; not differentiable."""
    if other.stride() == x.stride() and other.dtype is x.dtype and is_bare(other):
        return other
    return torch.empty_like(x).copy_(other)


_SIDE_BY_SIDE = (1,)


def check_operands(
    args: BatchNormArgs, statistics: Tensor | None, y: Tensor | None = None, gradient: Tensor | None = None
) -> None:
    """Raise a KernelError for invalid operands; only the gradient of the output may have another layout than the input."""
    x = args.input
    if x.dtype not in FLOATING or x.dim() < 2:
        raise KernelError(
            f"bnkit::batch_norm got x of shape {tuple(x.shape)}, {x.dtype}; expected (N, C) or (N, C, *), of a floating dtype"
        )
    if not is_dense(x):
        raise KernelError(
            f"bnkit::batch_norm got x with strides {x.stride()}; expected it contiguous, or channels last"
        )
    parameter_dtype = parameter_dtype_of(x)
    shape, channels = tuple(x.shape), (x.shape[1],)
    lies = torch.contiguous_format if x.is_contiguous() else channels_last(x)
    for name, tensor, expected, dtype in (
        ("weight", args.weight, channels, parameter_dtype),
        ("bias", args.bias, channels, parameter_dtype),
        ("residual", args.residual, shape, x.dtype),
        ("mask", args.mask, (shape[0], 1, *shape[2:]), torch.bool),
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
