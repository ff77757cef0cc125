"""Common code of the fused kernels: from a call to the passes of a device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers

from bnkit.kernels import reference_equations
from bnkit.kernels.activation import activate_own
from bnkit.kernels.fused import custom_op
from bnkit.kernels.fused.autograd import FusedBatchNormFunction
from bnkit.kernels.fused.device_backend import Backend, register_backend
from bnkit.kernels.fused.operands import are_rows, as_row, channels_last, is_bare, is_dense, parameter_dtype_of
from bnkit.kernels.kernel_interface import BatchNormArgs, BatchNormOutput
from bnkit.kernels.sync_kernel_interface import SyncKernel
from bnkit.kernels.tracing import is_traced, is_transformed


class FusedKernel:
    """A ``kernel_interface.Kernel`` that makes two passes over a tensor.

    Args:
        name: The kernel's name for users; ``NAME``.
        backend: The passes of its device.

    Attributes:
        fused: The activations that the passes compute; PyTorch computes the others afterwards.
        fused_behind_a_sum: Those that the passes also compute after adding a residual.
        least_for_others: With fewer elements, the equations are used if the activation is not fused: rounding before it
            affects the sums of gradients, and does not average out.
        masks_by_plane: Whether a mask requires a contiguous tensor.
        SYNC: The ``SyncKernel`` for a part of a batch, if it can stop halfway through a pass.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        fused: frozenset[str | None],
        *,
        fused_behind_a_sum: frozenset[str | None] | None = None,
        least_for_others: int = 0,
        masks_by_plane: bool = False,
        parts: SyncKernel | None = None,
    ) -> None:
        self.NAME = name
        self.fused = fused
        self.fused_behind_a_sum = fused if fused_behind_a_sum is None else fused_behind_a_sum
        self.least_for_others = least_for_others
        self.masks_by_plane = masks_by_plane
        register_backend(name, backend)
        self.SYNC = parts

    def batch_stats_forward(self, args: BatchNormArgs) -> BatchNormOutput:
        """See ``kernel_interface.Kernel``."""
        if self._wants_equations(args) or isinstance(args.num_values, Tensor):
            return reference_equations.batch_stats_forward(args)
        output, statistics = self._forward(args, None)
        return BatchNormOutput(output, statistics[0], statistics[3])

    def running_stats_forward(self, args: BatchNormArgs) -> Tensor:
        """See ``kernel_interface.Kernel``."""
        if self._wants_equations(args) or args.input.numel() == 0:
            return reference_equations.running_stats_forward(args)
        mean, variance = (statistic.detach().double() for statistic in args.statistics)
        # The last three rows are unused.
        statistics = torch.stack([mean, variance, torch.rsqrt(variance + args.eps), variance, mean, mean])
        return self._forward(args, statistics)[0]

    def training_step(self, args: BatchNormArgs) -> Tensor | None:
        """See ``kernel_interface.Kernel``; for calls that are not traced (``tracing.is_plain_eager``).

        For small inputs, the loops take less time than the calls to reach them, so there are few calls in between.
        """
        x, running_mean, running_var, weight, bias, _, _, _, activation, residual, _, _, num_batches_tracked = args
        assert running_mean is not None and running_var is not None
        channels, device = x.shape[1], x.device
        if (
            activation not in (self.fused if residual is None else self.fused_behind_a_sum)
            or not is_dense(x)
            or not is_bare(x)
            or x.dtype is torch.float64  # float64 buffers: the passes update float32 buffers only
            or not are_rows(channels, torch.float32, running_mean, running_var, weight, bias)
            or running_mean.device != device
            or running_var.device != device
            or (residual is not None and not _has_layout_of(x, residual))
            or (
                num_batches_tracked is not None
                and (num_batches_tracked.dtype is not torch.int64 or num_batches_tracked.device != device)
            )
        ):
            return None
        statistics = torch.empty((6, channels), dtype=torch.float64, device=x.device)
        # The rest of torch.autograd.Function.apply is for torch.func, which is not active.
        output = _apply(x, weight, bias, residual, args, statistics, self.NAME, False)
        buffers = (running_mean, running_var)
        torch._C._increment_version(buffers if num_batches_tracked is None else (*buffers, num_batches_tracked))
        return output

    def _forward(self, args: BatchNormArgs, given_statistics: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output, and the statistics that were used: ``given`` ones, or the batch's.

        The loops take dense tensors, a residual in the layout of the input, and parameters of ``parameter_dtype_of``.
        """
        activation, eps, count, mask = args.activation, args.eps, args.num_values, args.mask
        x, weight, bias, residual = args.input, args.weight, args.bias, args.residual
        lies = x
        if mask is not None:
            if self.masks_by_plane:
                x = x.contiguous()
            mask = mask.expand(x.shape[0], 1, *x.shape[2:]).contiguous()
        if not is_dense(x):
            x = x.contiguous()
        x = x.resolve_neg()
        parameter_dtype = parameter_dtype_of(x)
        weight, bias = as_row(weight, parameter_dtype), as_row(bias, parameter_dtype)
        if residual is not None:
            residual = residual.to(x.dtype).resolve_neg()
            if residual.stride() != x.stride():
                residual = residual.contiguous(
                    memory_format=torch.contiguous_format if x.is_contiguous() else channels_last(x)
                )
        fused = activation if self._fuses(args) else None
        float64_compute = fused != activation
        output: Tensor
        if is_traced(x):
            output, statistics = custom_op.batch_norm(
                x, weight, bias, residual, mask, given_statistics, fused, eps, count, float64_compute, self.NAME
            )
        else:
            x, weight, bias, residual = unwrap_dead_wrappers((x, weight, bias, residual))
            statistics = (
                x.new_empty((6, x.shape[1]), dtype=torch.float64) if given_statistics is None else given_statistics
            )
            args = BatchNormArgs(
                x, None, None, weight, bias, given_statistics is None, 0.0, eps, fused, residual, mask, count
            )
            output = _apply(x, weight, bias, residual, args, statistics, self.NAME, float64_compute)
        if self.masks_by_plane and mask is not None and not lies.is_contiguous() and lies.dim() in (4, 5):
            output = output.contiguous(memory_format=channels_last(lies))
        return (output if fused == activation else activate_own(output, activation)), statistics

    def _fuses(self, args: BatchNormArgs) -> bool:
        return args.activation in (self.fused if args.residual is None else self.fused_behind_a_sum)

    def _wants_equations(self, args: BatchNormArgs) -> bool:
        """Whether to use plain PyTorch, because the loops would be less exact, or not differentiable."""
        if not self._fuses(args) and args.input.numel() < self.least_for_others:
            return True
        return is_transformed()


def _has_layout_of(x: Tensor, residual: Tensor) -> bool:
    return residual.dtype is x.dtype and residual.stride() == x.stride() and is_bare(residual)


_apply: Callable[..., Tensor] = super(torch.autograd.Function, FusedBatchNormFunction).apply
