"""Batch normalization with statistics over several processes: the communication in the forward and backward pass.

Forward, every process sends the count, mean and biased variance of its own values; these exactly determine those of all
values (Chan, Golub & LeVeque, 1979, equations 2.1), for parts of any size, including empty ones. Backward, the
gradients with respect to the shared mean and variance are summed. Each pass needs one collective, in the precision of
the running
statistics: float32, or float64 for float64 inputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bnkit.errors import KernelError
from bnkit.kernels import aten, reference_equations
from bnkit.kernels.activation import LEAKY_SLOPE, activate_own
from bnkit.kernels.kernel_interface import BatchNormArgs
from bnkit.kernels.select_kernel import NUMBA, sync_kernel
from bnkit.kernels.sync_kernel_interface import BackwardState, SyncKernel
from bnkit.kernels.tracing import is_wrapped
from bnkit.nn.sync_collectives import Group, Sum, gather

# Kernels that can stop between the statistics and the normalisation.
KERNELS = ("auto", reference_equations.NAME, aten.NAME, NUMBA)
# A float32 represents integers exactly up to 2^24, so a count is sent in two parts.
_PART_OF_COUNT = 1 << 12


class Merged(NamedTuple):
    """The merged statistics of all processes, float64, bit-identical in each of them, outside the autograd graph.

    Attributes:
        total: The number of values per channel; 0-d.
        mean: (C,); 0 if there are no values.
        variance: (C,), biased; 0 if there are no values.
    """

    total: Tensor
    mean: Tensor
    variance: Tensor

    def values_per_channel(self, own: int | Tensor) -> int:
        """The number that decides whether there are enough values: ``own``, that of this process, or the total.

        If ``own`` is 2 or more, no synchronisation with the device is needed. Other processes read the total, which is
        the same everywhere, so that either all processes refuse the batch or none.
        """
        if isinstance(own, int) and own >= 2:
            return own
        if torch.compiler.is_compiling():  # a graph cannot branch on a value
            torch._assert_async(self.total > 1, "one value per channel, or none, in all processes together")
            return 2
        return int(self.total)


def check_usable(kernel: str, caller: str) -> None:
    """Raise a KernelError if statistics cannot be shared: the kernel does not support it, or torch.func is used."""
    if kernel not in KERNELS:
        raise KernelError(
            f"{caller} got kernel={kernel!r} with sync=True; it takes the statistics of one process only; "
            f"use one of {', '.join(KERNELS)}"
        )
    if torch._C._are_functorch_transforms_active():
        raise KernelError(
            f"{caller} got a call under a torch.func transform (vmap, grad, jvp, ...) with sync=True; processes cannot "
            "exchange what is being transformed; use sync=False there"
        )


class SyncStrategy(NamedTuple):
    """How a part of the batch is computed, and with which processes.

    Attributes:
        kernel: The kernel; None for the plain equations.
        eps: Added to the variance.
        activation: A name, or None.
        group: The processes.
        caller: The start of error messages.
    """

    kernel: SyncKernel | None
    eps: float
    activation: str | None
    group: Group
    caller: str

    @property
    def is_fused(self) -> bool:
        """Whether the kernel adds the residual and applies the activation."""
        return self.kernel is not None and self.kernel.fuses(self.activation)

    def args(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mean: Tensor,
        variance: Tensor,
    ) -> BatchNormArgs:
        """The kernel arguments to normalise ``x`` by the statistics of all processes."""
        return BatchNormArgs(x, mean, variance, weight, bias, False, 0.0, self.eps, self.activation, residual)


def choose_strategy(kernel: str, args: BatchNormArgs, group: Group, caller: str) -> SyncStrategy:
    """The strategy for the input, a part of the batch, with the ``kernel`` of that name.

    Raises:
        KernelError: As ``check_usable``, or if the kernel does not support the input.
    """
    check_usable(kernel, caller)
    chosen = sync_kernel(kernel, args.input, args.mask, args.activation)
    return SyncStrategy(chosen, args.eps, args.activation, group, caller)


def merge(x: Tensor, mask: Tensor | None, own_count: int | Tensor, strategy: SyncStrategy) -> Merged:
    """Merge the statistics of the ``x`` of all processes, (N, C, *) each, with any N, in one collective.

    ``own_count`` is the number of values per channel in this process, without those that ``mask`` (N, 1, *) excludes.
    """
    sent = torch.promote_types(x.dtype, torch.float32)
    count = torch.as_tensor(own_count, dtype=torch.int64, device=x.device).reshape(1)
    if strategy.kernel is None:
        values, divisor = _wide(x.detach()), count.clamp(min=1)
        mean = _masked(values, mask).sum(_all_but_channels(x)) / divisor
        variance = _masked(values - _per_channel(mean, x), mask).square().sum(_all_but_channels(x)) / divisor
    else:
        mean, variance = strategy.kernel.part_moments(x.detach())
    high = mean.to(sent)  # sent with its rounding error, which may exceed a small deviation
    own = [count // _PART_OF_COUNT, count % _PART_OF_COUNT, high, mean - high, variance]
    parts = gather(torch.cat([t.to(sent) for t in own]), strategy.group, strategy.caller).double()
    counts = parts[:, :1] * _PART_OF_COUNT + parts[:, 1:2]
    highs, lows, variances = parts[:, 2:].chunk(3, 1)
    means = torch.where(lows.isfinite(), highs + lows, highs)
    total = counts.sum()
    shares = counts / total.clamp(min=1)
    mean = (shares * means).sum(0)
    return Merged(total, mean, (shares * (variances + (means - mean).square())).sum(0))


def normalise(args: BatchNormArgs, merged: Merged, strategy: SyncStrategy) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """``activation(batch_norm(x) + residual)`` by the ``merged`` statistics, and these (mean, unbiased variance)."""
    total, mean, variance = merged
    x, residual = args.input, args.residual
    if residual is not None:
        residual = residual.to(x.dtype)
    output: Tensor
    output, _, _ = SyncBatchNormFunction.apply(  # type: ignore[no-untyped-call]
        x, args.weight, args.bias, residual if strategy.is_fused else None, args.mask, total, mean, variance, strategy
    )
    if not strategy.is_fused:
        if residual is not None:
            output = (output + residual).to(output.dtype)
        output = activate_own(output, strategy.activation)
    return output, (mean, variance * (total / (total - 1)))


class SyncBatchNormFunction(torch.autograd.Function):
    """``x`` normalised by the mean and variance of all processes, which depend on the ``x`` of each process.

    The statistics are inputs, and also outputs that depend on ``x``: the tensors that autograd saves for the backward
    pass are then connected to ``x``, so that the backward pass can be differentiated again. The only saved tensor of
    the size of ``x`` is ``x`` itself; with a fused residual, also the output.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mask: Tensor | None,
        total: Tensor,
        mean: Tensor,
        variance: Tensor,
        strategy: SyncStrategy,
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = mean.clone(), variance.clone()  # new outputs, not the inputs themselves
        if strategy.kernel is not None:
            args = strategy.args(x, weight, bias, residual, mean, variance)
            output = strategy.kernel.part_forward(args)
        else:
            output = (_wide(x) - _per_channel(mean, x)) * _per_channel(torch.rsqrt(variance + strategy.eps), x)
            if weight is not None:
                output = output * _per_channel(weight, x)
            if bias is not None:
                output = output + _per_channel(bias, x)
            output = output.to(x.dtype)
        kept = output if residual is not None else None
        ctx.save_for_backward(x, weight, bias, residual, mask, total, mean, variance, kept)
        ctx.strategy = strategy
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The chain rule, with one collective between the statistics and ``x``, in which all or no processes take part.

        A process with an empty batch takes part and adds zeros.
        """
        x, weight, bias, residual, mask, total, mean, variance, output = ctx.saved_tensors
        strategy: SyncStrategy = ctx.strategy
        by_output, by_mean, by_variance = gradients
        needs_x, needs_weight, needs_bias, needs_residual = ctx.needs_input_grad[:4]
        args = strategy.args(x, weight, bias, residual, mean, variance)
        if strategy.kernel is not None and not torch.is_grad_enabled() and not is_wrapped(by_output):
            by_gamma, by_beta, finish_backward = strategy.kernel.part_backward(by_output, args, output)
        else:  # double backward or batched gradients need differentiable operations
            inside = args if strategy.is_fused else args._replace(activation=None)
            by_gamma, by_beta, finish_backward = _backward(by_output, inside, mask)

        by_x = by_residual = None
        if needs_x:
            inverse_deviation = torch.rsqrt(variance + strategy.eps)
            scale = inverse_deviation if weight is None else inverse_deviation * weight
            by_mean = by_mean - scale * by_beta
            by_variance = by_variance - 0.5 * scale * inverse_deviation * by_gamma
            own = torch.cat([by_mean, by_variance]).to(torch.promote_types(x.dtype, torch.float32))
            together = Sum.apply(own, strategy.group, strategy.caller)  # type: ignore[no-untyped-call]
            by_mean, by_variance = (together.double() / total).chunk(2)
            by_x, by_residual = finish_backward(by_mean, 2 * by_variance)
        elif needs_residual:
            _, by_residual = finish_backward(torch.zeros_like(mean), torch.zeros_like(mean))
        # For this process's samples, like every gradient of a parameter: DistributedDataParallel averages them.
        by_weight = by_gamma.to(weight.dtype) if needs_weight else None
        by_bias = by_beta.to(bias.dtype) if needs_bias else None
        return by_x, by_weight, by_bias, by_residual if needs_residual else None, *[None] * 5


def _backward(by_output: Tensor, args: BatchNormArgs, mask: Tensor | None) -> BackwardState:
    """The equations of the backward pass, in differentiable operations."""
    x, (mean, variance), weight, bias, residual = args.input, args.statistics, args.weight, args.bias, args.residual
    over = _all_but_channels(x)
    by_output = _wide(by_output)
    inverse_deviation = torch.rsqrt(variance + args.eps)
    scale = inverse_deviation if weight is None else inverse_deviation * weight
    centred = _wide(x) - _per_channel(mean, x)
    if args.activation is not None:  # a piecewise linear one, with a piecewise constant slope
        with torch.no_grad():
            inner = centred * _per_channel(scale, x)
            if bias is not None:
                inner = inner + _per_channel(bias, x)
            if residual is not None:
                inner = inner + residual
            flat = LEAKY_SLOPE if args.activation == "leaky_relu" else 0.0
            slope = torch.where(inner > 0, inner.new_ones(()), inner.new_full((), flat))
        by_output = by_output * slope
    if mask is not None:  # excluded NaN values must not reach any gradient
        lost = ~(mask | torch.isfinite(centred))
        by_output, centred = by_output.masked_fill(lost, 0), centred.masked_fill(lost, 0)

    def finish_backward(by_mean: Tensor, by_variance: Tensor) -> tuple[Tensor, Tensor | None]:
        by_statistics = _per_channel(by_mean, x) + _per_channel(by_variance, x) * centred
        by_x = (_per_channel(scale, x) * by_output + _masked(by_statistics, mask)).to(x.dtype)
        return by_x, None if residual is None else by_output.to(residual.dtype)

    return BackwardState((by_output * centred).sum(over) * inverse_deviation, by_output.sum(over), finish_backward)


def _masked(values: Tensor, mask: Tensor | None) -> Tensor:
    """``values``, set to 0 where the mask is False."""
    return values if mask is None else torch.where(mask, values, 0)


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _per_channel(statistic: Tensor, x: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, ...), in the wide dtype of ``x``, so that it broadcasts against it."""
    return statistic.to(_wide_dtype(x)).reshape(1, -1, *[1] * (x.dim() - 2))


def _wide(x: Tensor) -> Tensor:
    return x.to(_wide_dtype(x))


def _wide_dtype(x: Tensor) -> torch.dtype:
    """A dtype wider than that of ``x``, so that sums and differences do not lose digits of the result."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else torch.float64
