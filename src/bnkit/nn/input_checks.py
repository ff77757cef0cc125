"""Check the arguments of the layers and of the function before a kernel is selected."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bnkit.errors import SettingsError
from bnkit.kernels.fused.operands import FLOATING

Called = Callable[[], str]
_TAKEN = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATING)
_FLOATING = frozenset(FLOATING)
_STRIDED = torch.strided
# PyTorch's own kernel handles the layout of MKL-DNN.
_LAYOUTS = frozenset({_STRIDED, torch._mkldnn})  # type: ignore[attr-defined]


def check_input(x: object, called: Called) -> None:
    """Raise a SettingsError if ``x`` is not a dense tensor of floats. Integers would silently round the output."""
    if isinstance(x, Tensor) and x.dtype in _FLOATING and x.layout is _STRIDED and not x.is_nested:
        return
    if not isinstance(x, Tensor):
        raise SettingsError(
            f"{called()} got a {type(x).__name__}; expected a tensor; torch.as_tensor makes one of an array"
        )
    if x.dtype not in _FLOATING:
        remedy = "torch.view_as_real gives both parts" if x.dtype.is_complex else "convert it: input.float()"
        raise SettingsError(f"{called()} got an input of {x.dtype}; expected one of {_TAKEN}; {remedy}")
    if x.layout not in _LAYOUTS or x.is_nested:
        kind = "a nested tensor" if x.is_nested else f"an input of layout {x.layout}"
        raise SettingsError(
            f"{called()} got {kind}; expected a dense tensor (input.to_dense(), or one that is padded, and a mask)"
        )


def check_residual(x: Tensor, residual: Tensor | None, called: Called) -> None:
    """Raise a SettingsError if the residual cannot be added to ``x`` element by element."""
    if residual is None:
        return
    if residual.layout not in _LAYOUTS or residual.is_nested or residual.dtype.is_complex:
        raise SettingsError(
            f"{called()} got a residual of {residual.dtype}, layout {residual.layout}; expected a dense tensor of the "
            f"input's dtype, {x.dtype}"
        )
    if residual.shape != x.shape:
        raise SettingsError(
            f"{called()} got a residual of shape {tuple(residual.shape)}; expected the input's, {tuple(x.shape)}"
        )


def check_channels(x: Tensor, called: Called, **tensors: Tensor | None) -> None:
    """Raise a SettingsError if one of the ``given`` tensors does not hold a float for each channel of ``x``."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != (x.shape[1],):
            raise SettingsError(
                f"{called()} got a {name} of shape {tuple(tensor.shape)}; expected ({x.shape[1]},), a value for each channel "
                f"of the input, which has the shape {tuple(x.shape)}"
            )
        if tensor.dtype not in _FLOATING or tensor.layout is not torch.strided:
            raise SettingsError(
                f"{called()} got a {name} of {tensor.dtype}, layout {tensor.layout}; expected a dense tensor of one of {_TAKEN}"
            )


def check_moving(running_mean: Tensor | None, running_var: Tensor | None, called: Called) -> None:
    """Raise a SettingsError if the running statistics cannot be updated: one is missing, or its values share memory."""
    check_both(running_mean, running_var, called)
    for name, buffer in (("running_mean", running_mean), ("running_var", running_var)):
        if buffer is not None and buffer.numel() > 1 and buffer.stride() == (0,):
            raise SettingsError(
                f"{called()} got a {name} that is expanded, one value in memory for all channels; expected one for each: "
                f"{name}.clone()"
            )


def check_both(running_mean: Tensor | None, running_var: Tensor | None, called: Called) -> None:
    """Raise a SettingsError if only one of the running statistics is missing."""
    if (running_mean is None) == (running_var is None):
        return
    missing, there = ("running_mean", "running_var") if running_mean is None else ("running_var", "running_mean")
    raise SettingsError(
        f"{called()} has a {there} and no {missing}; expected both, or neither (then the batch's statistics are used)"
    )
