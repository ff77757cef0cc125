"""Which kernel, and why."""

from __future__ import annotations

import importlib
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from bnkit.errors import KernelError, SettingsError
from bnkit.kernels import aten, reference
from bnkit.kernels.contract import Kernel

NUMBA = "numba"
KERNEL_NAMES = (reference.NAME, aten.NAME, NUMBA)
# From so many elements on the compiled loops are faster than PyTorch's kernel (`benchmarks/layer.py`, two cores): on planes
# of some size; and channels last with few channels, where PyTorch's is slow, and not with many, where it is not.
_CROSSOVER = 1 << 20
_LEAST_PLANE = 256
_FEW_CHANNELS = 12


class Choice(NamedTuple):
    """A kernel and the reason for it; prints as ``aten: …``."""

    kernel: Kernel
    reason: str

    def __str__(self) -> str:
        return f"{self.kernel.NAME}: {self.reason}"


def check_kernel(name: str) -> str:
    """``name``, if it is "auto" or the name of a kernel; otherwise a SettingsError that lists them."""
    if name != "auto" and name not in KERNEL_NAMES:
        raise SettingsError(f"unknown kernel {name!r}; expected one of auto, {', '.join(KERNEL_NAMES)}")
    return name


def select(name: str, x: Tensor) -> Choice:
    """The kernel that ``name`` means for a call made now on ``x``, and the reason.

    Args:
        name: "auto", or a kernel's name.
        x: The input.

    Raises:
        SettingsError: There is no such kernel.
        KernelError: It was asked for by name and cannot run here; the message says why, and what can.

    Example:
        >>> print(select("auto", torch.zeros(128, 16, 32, 32)))
        numba: fewer passes over memory than PyTorch's own for (128, 16, 32, 32)
        >>> print(select("reference", torch.zeros(2, 2)))
        reference: asked for by name
    """
    check_kernel(name)
    transformed = torch._C._are_functorch_transforms_active()
    if name == "auto":
        return _automatic(x, transformed=transformed)
    if transformed and name != reference.NAME:
        raise KernelError(
            f"kernel={name!r} was asked for under a torch.func transform (vmap, grad, jvp, ...), where it cannot hand out "
            "the batch's statistics; use kernel='auto' or kernel='reference'"
        )
    if name == NUMBA:
        reason = why_not_numba(x)
        numba, missing = (None, "") if reason else _numba()
        reason = reason or missing
        if numba is None or reason:
            raise KernelError(f"kernel='numba' was asked for, but {reason}; use kernel='auto'")
        return Choice(numba, "asked for by name")
    return Choice(aten if name == aten.NAME else reference, "asked for by name")


def why_not_numba(x: Tensor) -> str:  # noqa: PLR0911 - a list of reasons
    """Why the compiled loops cannot take ``x`` in a call made now; empty if they can."""
    if x.device.type != "cpu":
        return f"it runs on the CPU, and the input is on {x.device}"
    if x.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        return f"it takes floating inputs, and not {x.dtype}"
    if torch.compiler.is_compiling():
        return "torch.compile cannot look into it"
    if type(x) is not Tensor and type(x) is not torch.nn.Parameter:
        return f"it takes plain tensors, and not a {type(x).__name__}"
    if torch._C._len_torch_dispatch_stack():
        return "a dispatch mode watches every operation, and it would be hidden from it"
    if torch.autograd.forward_ad._current_level >= 0:
        return "it has no forward-mode derivative"
    if torch._C._get_tracing_state() is not None:
        return "it cannot be traced"
    return ""


def _automatic(x: Tensor, *, transformed: bool) -> Choice:
    if transformed:
        return Choice(reference, "under a torch.func transform, where every step must be plain PyTorch")
    if torch.compiler.is_compiling():
        return Choice(aten, "PyTorch's own, which it compiles")
    if x.device.type != "cpu":
        return Choice(aten, "PyTorch's own kernel runs on every device")
    if not _pays(x):
        return Choice(aten, f"PyTorch's own is faster for {tuple(x.shape)} as it lies in memory")
    numba, reason = _numba()
    reason = reason or why_not_numba(x)
    if numba is None or reason:
        return Choice(aten, f"PyTorch's own, because {reason}")
    return Choice(numba, f"fewer passes over memory than PyTorch's own for {tuple(x.shape)}")


def _pays(x: Tensor) -> bool:
    """Whether the compiled loops are faster for ``x``; known without loading them."""
    if x.numel() < _CROSSOVER or x.dim() < 3:
        return False
    if x.is_contiguous():
        return x.numel() // (x.shape[0] * x.shape[1]) >= _LEAST_PLANE
    return x.shape[1] <= _FEW_CHANNELS


@cache
def _numba() -> tuple[Kernel | None, str]:
    """The compiled kernel, or None and why there is none. Loaded on first use: it takes half a second."""
    try:
        kernel: Kernel = importlib.import_module("bnkit.kernels.cpu_numba")
    except Exception as error:  # a missing package, or one that does not fit this Python or this machine
        return None, f"Numba cannot be used here ({type(error).__name__}: {error}): pip install numba"
    return kernel, ""
