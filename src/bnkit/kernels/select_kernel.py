"""The choice of a kernel, and its reason."""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from bnkit.errors import KernelError, SettingsError
from bnkit.kernels import aten, reference_equations
from bnkit.kernels.compilation.compile_policy import why_not_ready
from bnkit.kernels.compilation.compile_request import CompileRequest, Purpose
from bnkit.kernels.cpu.layout import KINDS
from bnkit.kernels.fused.operands import FLOATING, is_dense
from bnkit.kernels.kernel_interface import Kernel
from bnkit.kernels.size_thresholds import is_faster
from bnkit.kernels.sync_kernel_interface import SyncKernel
from bnkit.kernels.tracing import is_exporting
from bnkit.message_parts import unknown_name

NUMBA, TRITON = "numba", "triton"
KERNEL_NAMES = (reference_equations.NAME, aten.NAME, NUMBA, TRITON)


class Choice(NamedTuple):
    """A kernel and the reason for it; prints as ``aten: …``."""

    kernel: Kernel
    reason: str

    def __str__(self) -> str:
        return f"{self.kernel.NAME}: {self.reason}"


def check_kernel(name: str) -> str:
    """``name``, if it is "auto" or the name of a kernel; otherwise a SettingsError that lists them."""
    if name != "auto" and name not in KERNEL_NAMES:
        raise SettingsError(unknown_name("unknown kernel", name, ("auto", *KERNEL_NAMES)))
    return name


def select(
    name: str,
    x: Tensor,
    activation: str | None = None,
    *,
    has_residual: bool = False,
    has_mask: bool = False,
    purpose: Purpose = "layer",
) -> Choice:
    """The kernel that ``name`` selects for a call made now on ``x``, and the reason.

    "auto" uses the loops of Numba if they are faster and already compiled on this machine; see ``BNKIT_COMPILE`` in
    ``kernels.compilation.compile_policy`` for what happens otherwise. If selected by name, they are compiled at once.

    Args:
        name: "auto", or a kernel's name.
        x: The input.
        activation, has_residual, has_mask: Further operations of the call, which need separate loops.
        purpose: The purpose of the loops.

    Raises:
        SettingsError: If there is no such kernel.
        KernelError: If it was selected by name and cannot run here; the message has the reason and the alternatives.

    Examples:
        >>> print(select("auto", torch.zeros(2, 2)))
        aten: PyTorch's own is faster for an input of this shape and layout
        >>> print(select("reference", torch.zeros(2, 2)))
        reference: asked for by name
    """
    check_kernel(name)
    transformed = torch._C._are_functorch_transforms_active()
    if name == "auto":
        return _automatic(x, activation, has_residual, has_mask, purpose, transformed=transformed)
    if transformed and name == aten.NAME:
        raise KernelError(
            f"kernel={name!r} was asked for under a torch.func transform (vmap, grad, jvp, ...), where it cannot hand out "
            "the batch's statistics; use kernel='auto' or kernel='reference'"
        )
    if name in (NUMBA, TRITON):
        reason = why_not_numba(x) if name == NUMBA else why_not_triton(x)
        kernel = _numba if name == NUMBA else _triton
        if kernel is None or reason:
            raise KernelError(f"kernel={name!r} was asked for, but {reason}; use kernel='auto'")
        return Choice(kernel, "asked for by name")
    return Choice({aten.NAME: aten, reference_equations.NAME: reference_equations}[name], "asked for by name")


def sync_kernel(name: str, x: Tensor, mask: Tensor | None, activation: str | None) -> SyncKernel | None:
    """The kernel that ``name`` selects for an ``x`` that is part of a batch; None for the equations in plain PyTorch.

    Those are for cases that the halves of a pass do not support: masks, other devices, empty parts, and intercepted
    operations (torch.compile, a dispatch mode).

    Raises:
        KernelError: As ``select``.
    """
    chosen = select(name, x, activation, has_mask=mask is not None, purpose="sync").kernel
    plain = x.device.type == "cpu" and not (torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack())
    if mask is not None or not plain or x.numel() == 0:
        return None
    halves: SyncKernel | None = getattr(chosen, "SYNC", None)  # of kernels that can stop halfway
    return halves if halves is not None and halves.supports(x, activation) else None


def why_not_numba(x: Tensor) -> str:
    """Why the compiled loops do not support ``x`` in a call made now; empty if they do."""
    return _why_not_for_numba(x) or _why_not_loaded(NUMBA)


def why_not_numba_now(
    x: Tensor,
    activation: str | None = None,
    *,
    has_residual: bool = False,
    has_mask: bool = False,
    purpose: Purpose = "layer",
) -> str:
    """Why "auto" does not use the compiled loops for ``x``, though they may be faster; empty if it does."""
    reason = _why_not_for_numba(x)
    if not reason:
        reason = _why_not_compiled(
            x.dtype, tuple(x.shape), x.is_contiguous(), is_dense(x), activation, has_residual, has_mask, purpose
        )
    return reason or _why_not_loaded(NUMBA)


def why_not_triton(x: Tensor) -> str:
    """Why the GPU's kernels do not support ``x`` in a call made now; empty if they do."""
    if x.device.type != "cuda" and not _interprets():  # AMD's GPUs have this type too
        return f"it runs on a GPU (or, with TRITON_INTERPRET=1, slowly on the CPU), and the input is on {x.device}"
    return _why_not_taken(x) or _why_not_loaded(TRITON) or _why_not_on(x.device)


def _why_not_for_numba(x: Tensor) -> str:
    if x.device.type != "cpu":
        return f"it runs on the CPU, and the input is on {x.device}"
    if x.dim() < 2:
        return f"it takes inputs of shape (N, C, *), and not {tuple(x.shape)}"
    return _why_not_taken(x)


def _why_not_taken(x: Tensor) -> str:
    if x.dtype not in FLOATING:
        return f"it takes floating inputs, and not {x.dtype}"
    if x.layout is not torch.strided:
        return f"it takes dense tensors, and not {x.layout}"
    if type(x) not in {Tensor, torch.nn.Parameter, FakeTensor}:
        return f"it takes plain tensors, and not a {type(x).__name__}"
    if torch._C._get_tracing_state() is not None:
        return "it cannot be traced"
    return ""


def _automatic(  # noqa: C901, PLR0911 - a list of reasons
    x: Tensor, activation: str | None, has_residual: bool, has_mask: bool, purpose: Purpose, *, transformed: bool
) -> Choice:
    if transformed:
        return Choice(reference_equations, "under a torch.func transform, where every step must be plain PyTorch")
    if x.device.type not in ("cpu", "cuda"):
        return Choice(aten, "PyTorch's own kernel runs on every device")
    if torch.compiler.is_compiling():
        if is_exporting():
            return Choice(aten, "PyTorch's own, so that the exported program runs without bnkit")
        if not isinstance(x.numel(), int):
            return Choice(aten, "PyTorch's own, for any size of input")
        if x.device.type == "cuda":  # a custom operation prevents fusion, and is slow to launch
            return Choice(aten, "PyTorch's own, which torch.compile fuses with its neighbours")
    if x.device.type == "cuda":
        reason = why_not_triton(x)
        if _triton is None or reason:
            return Choice(aten, f"PyTorch's own, because {reason}")
        return Choice(_triton, "fewer passes over memory than PyTorch's own")
    if not is_faster(x):
        return Choice(aten, "PyTorch's own is faster for an input of this shape and layout")
    reason = why_not_numba_now(x, activation, has_residual=has_residual, has_mask=has_mask, purpose=purpose)
    if _numba is None or reason:
        return Choice(aten, f"PyTorch's own, because {reason}")
    return Choice(_numba, "fewer passes over memory than PyTorch's own")


# Set by `_load`, and read as globals afterwards: torch.compile can trace globals, but not imports.
_numba: Kernel | None = None
_triton: Kernel | None = None


def _why_not_loaded(name: str) -> str:
    """Load a compiled kernel, on first use: it takes half a second. Empty, or why it cannot be loaded."""
    return _load(name)


# Same as torch.compiler.assume_constant_result, which would load torch._dynamo, and take longer than the rest of bnkit.
_why_not_loaded._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _load(name: str) -> str:
    global _numba, _triton  # noqa: PLW0603
    try:
        if name == NUMBA:
            _numba = importlib.import_module("bnkit.kernels.cpu.kernel").KERNEL
        else:
            _triton = importlib.import_module("bnkit.kernels.gpu.kernel").KERNEL
    except Exception as error:  # a missing package, or one that does not fit this Python or this machine
        extra = {NUMBA: "fast", TRITON: "triton"}[name]
        return (
            f"{name.capitalize()} cannot be used here ({type(error).__name__}: {error}): pip install 'bnkit[{extra}]'"
        )
    return ""


def _interprets() -> bool:
    """Whether Triton's interpreter was enabled before Triton was imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _why_not_on(device: torch.device) -> str:
    reason: str = importlib.import_module("bnkit.kernels.gpu.kernel").why_not(device)
    return reason


_why_not_on._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _why_not_compiled(
    dtype: torch.dtype,
    shape: tuple[int, ...],
    is_contiguous: bool,
    dense: bool,
    activation: str | None,
    has_residual: bool,
    has_mask: bool,
    purpose: Purpose,
) -> str:
    """As ``why_not_ready``, from values that are constants to torch.compile."""
    as_contiguous = is_contiguous or not dense or has_mask  # tensors of other layouts are made contiguous before
    return why_not_ready(
        CompileRequest(purpose, shape, KINDS[dtype], as_contiguous, activation, has_residual, has_mask)
    )


_why_not_compiled._dynamo_marked_constant = True  # type: ignore[attr-defined]
