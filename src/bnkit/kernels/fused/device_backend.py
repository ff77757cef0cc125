"""The interface between a node of the autograd graph and the loops of a device: two passes over a tensor.

On the CPU they are compiled by Numba (``cpu.launch``), on a GPU by Triton (``gpu.launch``). The code above them is shared.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from bnkit.errors import KernelError
from bnkit.kernels.kernel_interface import BatchNormArgs


class Backend(Protocol):
    """The passes of a device.

    In ``args``, the input is dense: contiguous, or channels last. The residual, the output and its gradient have its shape,
    dtype and layout; gamma and beta are (C,), contiguous, float32, or float64 for a float64 input; the mask is (N, 1, *),
    contiguous; the buffers are (C,) float32, contiguous; the activation is one that the backend fuses.

    ``statistics`` are (6, C) float64: mean, biased variance, 1 / sqrt(variance + eps), unbiased variance, and two
    unused rows.
    """

    def needs_output(self, args: BatchNormArgs) -> bool:
        """Whether the backward pass reads the output: the activation's slope may be unknown from the input, or expensive."""
        ...

    def forward(self, args: BatchNormArgs, statistics: Tensor, float64_compute: bool) -> Tensor:
        """The output, in the memory layout of the input.

        In training, it fills in the statistics and updates the buffers, if any; otherwise it uses the given statistics.
        ``float64_compute``: whether to compute in float64, for an activation that is not fused.
        """
        ...

    def backward(
        self, gradient: Tensor, args: BatchNormArgs, output: Tensor | None, statistics: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The gradients of the input; of the residual before an activation; and of gamma and beta, (2, C), of their dtype.

        ``args``, ``statistics``: those of the forward pass. ``output``: its result, if ``needs_output``.
        """
        ...


_BACKENDS: dict[str, Backend] = {}


def register_backend(kernel: str, backend: Backend) -> None:
    """Register the passes of a kernel for ``backend_of``; an operation in a graph can only hold the kernel's name."""
    _BACKENDS[kernel] = backend


def backend_of(kernel: str) -> Backend:
    """The passes of a kernel, by its name.

    Raises:
        KernelError: If the kernel is not loaded in this process.
    """
    backend = _BACKENDS.get(kernel)
    if backend is None:
        raise KernelError(
            f"bnkit::batch_norm got the kernel {kernel!r}, which is not loaded; expected one of "
            f"{', '.join(_BACKENDS)}; bnkit.kernels.select_kernel({kernel!r}, x) loads it"
        )
    return backend
