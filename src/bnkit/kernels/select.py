"""Which kernel, and why."""

from __future__ import annotations

from typing import NamedTuple

import torch

from bnkit.errors import KernelError, SettingsError
from bnkit.kernels import aten, reference
from bnkit.kernels.contract import Kernel

KERNELS: dict[str, Kernel] = {reference.NAME: reference, aten.NAME: aten}


class Choice(NamedTuple):
    """A kernel and the reason for it; prints as ``aten: …``."""

    kernel: Kernel
    reason: str

    def __str__(self) -> str:
        return f"{self.kernel.NAME}: {self.reason}"


def check_kernel(name: str) -> str:
    """``name``, if it is "auto" or the name of a kernel; otherwise a SettingsError that lists them."""
    if name != "auto" and name not in KERNELS:
        raise SettingsError(f"unknown kernel {name!r}; expected one of auto, {', '.join(KERNELS)}")
    return name


def select(name: str) -> Choice:
    """The kernel that ``name`` means for a call made now, and the reason.

    Args:
        name: "auto", or a kernel's name.

    Raises:
        SettingsError: There is no such kernel.
        KernelError: It was asked for by name and cannot run here; the message says why, and what can.

    Example:
        >>> print(select("auto"))
        aten: PyTorch's own kernel runs on every device
        >>> print(select("reference"))
        reference: asked for by name
    """
    check_kernel(name)
    transformed = torch._C._are_functorch_transforms_active()
    if name == "auto":
        if transformed:
            return Choice(reference, "under a torch.func transform, where every step must be plain PyTorch")
        return Choice(aten, "PyTorch's own kernel runs on every device")
    if transformed and name == aten.NAME:
        raise KernelError(
            "kernel='aten' was asked for under a torch.func transform (vmap, grad, jvp, ...), where it cannot hand out "
            "the batch's statistics; use kernel='auto' or kernel='reference'"
        )
    return Choice(KERNELS[name], "asked for by name")
