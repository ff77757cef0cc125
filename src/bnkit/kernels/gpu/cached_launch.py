"""How a Triton kernel is started: the second time without Triton's look at every argument, which takes as long as the launch."""

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
        tiling: Decides the grid, the dtypes and most numbers; keeps what was compiled.
        grid: Programs in each dimension.
        tensors: None for those that there are not.
        numbers: Of Python.
        constants: What the kernel is compiled for, and the compiler's options.
        variant: What of ``constants`` ``tiling`` does not decide.
    """
    aligned = [None if t is None else t.data_ptr() % _ALIGNED == 0 for t in tensors]
    key = (id(kernel), *variant, tensors[0].device.index, *aligned)  # type: ignore[union-attr]
    launcher = tiling.compiled.get(key)
    if launcher is not None:
        runner, rest = launcher
        runner(*tensors, *numbers, *rest)
        return
    compiled = kernel[grid](*tensors, *numbers, **constants)
    # Triton's interpreter compiles nothing; and of a large tensor, a number may take 32 bits or 64.
    if compiled is not None and not tiling.is_large:
        names = kernel.arg_names[len(tensors) + len(numbers) :]
        tiling.compiled[key] = compiled[grid], tuple(constants[name] for name in names)
