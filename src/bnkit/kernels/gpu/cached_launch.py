"""Launch Triton kernels: later launches skip Triton's inspection of all arguments, which takes as long as the launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from bnkit.kernels.gpu.tiling import Tiling

_ALIGNED = 16  # bytes: Triton compiles another variant for a pointer that is not a multiple of it


def start(
    kernel: Any,
    tiling: Tiling,
    grid: tuple[int, int, int],
    tensors: Sequence[Tensor | None],
    numbers: tuple[float, ...],
    constants: dict[str, Any],
    variant: tuple[object, ...] = (),
) -> None:
    """Launch ``kernel``, whose arguments are ``tensors``, ``numbers`` and ``constants``, in this order.

    Args:
        kernel: A function that Triton compiles.
        tiling: Determines the grid, the dtypes and most numbers; caches the compiled kernels.
        grid: The number of programs in each dimension.
        tensors: The tensors, None for absent ones.
        numbers: Python numbers.
        constants: The compile-time constants of the kernel, and the compiler's options.
        variant: The part of ``constants`` that ``tiling`` does not determine.
    """
    aligned = [None if t is None else t.data_ptr() % _ALIGNED == 0 for t in tensors]
    key = (id(kernel), *variant, tensors[0].device.index, *aligned)  # type: ignore[union-attr]
    launcher = tiling.compiled.get(key)
    if launcher is not None:
        runner, rest = launcher
        runner(*tensors, *numbers, *rest)
        return
    compiled = kernel[grid](*tensors, *numbers, **constants)
    # Triton's interpreter does not compile; and for a large tensor, a number may take 32 or 64 bits.
    if compiled is not None and not tiling.is_large:
        names = kernel.arg_names[len(tensors) + len(numbers) :]
        tiling.compiled[key] = compiled[grid], tuple(constants[name] for name in names)
