"""What stands between one node of the autograd graph and the loops of a device: two passes over a tensor.

On the CPU they are compiled by Numba (``cpu.launch``), on a GPU by Triton (``gpu.launch``). Whatever is above them, is there once.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from bnkit.errors import KernelError
from bnkit.kernels.contract import BatchNormArgs


class Backend(Protocol):
    """The passes of a device.

    Of ``args``, the input is dense: contiguous, or channels last. The residual, the output and its gradient are as the input in
    every way; gamma and beta are (C,), contiguous, float32, or float64 with such an input; the mask is (N, 1, *), contiguous; the
    buffers are (C,) float32, contiguous; the activation is one that the backend fuses.

    ``statistics`` are (6, C) float64: mean, biased variance, 1 / sqrt(variance + eps), unbiased variance, and room for two
    more rows.
    """

    def needs_output(self, args: BatchNormArgs) -> bool:
        """Whether the backward pass reads the output: by the input the slope of the activation may not be known, or dear."""
        ...

    def forward(self, args: BatchNormArgs, statistics: Tensor, float64_compute: bool) -> Tensor:
        """The output, as the input lies in memory.

        In training the statistics are filled in, and the buffers moved, if there are any; otherwise the statistics are used as
        they are. ``float64_compute``: whether to compute in float64, for an activation that is not fused.
        """
        ...

    def backward(
        self, gradient: Tensor, args: BatchNormArgs, output: Tensor | None, statistics: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The gradients of the input; of the residual before an activation; and of gamma and beta, (2, C), of their dtype.

        ``args``, ``statistics``: what the forward pass used. ``output``: what it returned, where ``needs_output`` says so.
        """
        ...


_BACKENDS: dict[str, Backend] = {}


def register_backend(kernel: str, backend: Backend) -> None:
    """Let ``backend_of`` find the passes of a kernel; an operation of a graph can hold its name only."""
    _BACKENDS[kernel] = backend


def backend_of(kernel: str) -> Backend:
    """The passes of a kernel, by its name.

    Raises:
        KernelError: The kernel was not loaded in this process.
    """
    backend = _BACKENDS.get(kernel)
    if backend is None:
        raise KernelError(
            f"bnkit::batch_norm was asked for the kernel {kernel!r}, which is not loaded; expected one of "
            f"{', '.join(_BACKENDS)}; bnkit.kernels.select({kernel!r}, x) loads it"
        )
    return backend
