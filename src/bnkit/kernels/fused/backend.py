"""What stands between one node of the autograd graph and the loops of a device: two passes over a tensor.

On the CPU they are compiled by Numba (``cpu.launch``), on a GPU by Triton (``gpu.launch``). Whatever is above them, is there once.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from bnkit.errors import KernelError


class RunningStats(NamedTuple):
    """The running buffers, (C,), which follow the batch's statistics by ``momentum``, in place; the counter counts the batch."""

    mean: Tensor
    var: Tensor
    momentum: float
    num_batches_tracked: Tensor | None = None


class Backend(Protocol):
    """The passes of a device. Tensors are dense, and lie as ``x`` does; see ``cpu.launch`` for what the arguments mean."""

    def backward_operand(self, activation: str | None, has_residual: bool) -> Literal["output", "residual"] | None:
        """What the backward pass reads besides ``x``: by ``x`` alone the slope of the activation may not be known, or dear.

        ``has_residual``: whether a residual was added before the activation.
        """
        ...

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mask: Tensor | None,
        count: int,
        statistics: Tensor,
        activation: str | None,
        eps: float,
        is_given: bool,
        float64_compute: bool,
        running_stats: RunningStats | None = None,
    ) -> Tensor:
        """The output; the statistics are filled in, or used as they are, and the buffers moved."""
        ...

    def backward(
        self,
        gradient: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        saved_operand: Tensor | None,
        mask: Tensor | None,
        count: int,
        statistics: Tensor,
        activation: str | None,
        is_given: bool,
        has_residual: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The gradients of x, of the residual (if ``has_residual``, before an activation), and of gamma and beta, (2, C).

        ``saved_operand``: what ``backward_operand`` names.
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
