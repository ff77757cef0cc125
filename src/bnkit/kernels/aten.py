"""PyTorch's own kernel as a ``kernel_interface.Kernel``: the same results as ``torch.nn``, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bnkit.kernels import aten_sync, reference_equations
from bnkit.kernels.activation import activate_own
from bnkit.kernels.fused.operands import are_rows, as_row, parameter_dtype_of
from bnkit.kernels.kernel_interface import BatchNormArgs, BatchNormOutput
from bnkit.kernels.tracing import is_exporting

NAME = "aten"
SYNC = aten_sync  # used by `select.sync_kernel`


def batch_stats_forward(args: BatchNormArgs) -> BatchNormOutput:
    """See ``kernel_interface.Kernel``."""
    if args.mask is not None:
        # PyTorch's kernel cannot exclude a position from the statistics; the equations in plain PyTorch can.
        return reference_equations.batch_stats_forward(args)
    x, eps = args.input, args.eps
    dtype = parameter_dtype_of(x)
    weight, bias = as_row(args.weight, dtype), as_row(args.bias, dtype)
    if is_exporting():
        # Without buffers: PyTorch's ONNX converter turns a training step that updates buffers into one that reads them.
        variance, mean = torch.var_mean(x.detach().to(dtype), [0, *range(2, x.dim())], correction=1)
        output = functional.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
        return BatchNormOutput(_finish(output, args), mean, variance)
    # With momentum 1, temporary buffers receive the exact mean and unbiased variance of the batch. native_batch_norm
    # returns 1 / sqrt(variance + eps), and inverting that loses precision by cancellation.
    mean = torch.zeros(x.shape[1], dtype=dtype, device=x.device)
    unbiased_variance = torch.zeros_like(mean)
    output = functional.batch_norm(x, mean, unbiased_variance, weight, bias, True, 1.0, eps)
    return BatchNormOutput(_finish(output, args), mean, unbiased_variance)


def running_stats_forward(args: BatchNormArgs) -> Tensor:
    """See ``kernel_interface.Kernel``."""
    x, (mean, variance), weight, bias = args.input, args.statistics, args.weight, args.bias
    dtype = x.dtype if mean.dtype is x.dtype else parameter_dtype_of(x)
    if not are_rows(x.shape[1], dtype, mean, variance, weight, bias):
        mean, variance = (t.detach().to(dtype).resolve_neg().contiguous() for t in (mean, variance))
        weight, bias = as_row(weight, dtype), as_row(bias, dtype)
    output = functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, args.eps)
    return _finish(output, args)


def training_step(args: BatchNormArgs) -> Tensor | None:
    """See ``kernel_interface.Kernel``."""
    x, running_mean, running_var, weight, bias, _, momentum, eps, _, _, _, _, num_batches_tracked = args
    assert running_mean is not None and running_var is not None
    if torch.compiler.is_compiling():
        dtype = x.dtype if running_mean.dtype is x.dtype else parameter_dtype_of(x)
        rows = running_mean, running_var, weight, bias
        if is_exporting() or not are_rows(x.shape[1], dtype, *rows):
            return None
    # For rows with gaps, PyTorch's kernel reads and writes the gaps too.
    elif not (
        running_mean.is_contiguous()
        and running_var.is_contiguous()
        and (weight is None or weight.is_contiguous())
        and (bias is None or bias.is_contiguous())
    ) or (running_mean.is_neg() or running_var.is_neg()):
        return None
    try:
        output = functional.batch_norm(x, running_mean, running_var, weight, bias, True, momentum, eps)
    except RuntimeError:  # dtypes that it does not mix, lengths, buffers that require gradients: handled elsewhere
        return None
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    return _finish(output, args)


def _finish(output: Tensor, args: BatchNormArgs) -> Tensor:
    if args.residual is not None:
        output = (output + args.residual).to(output.dtype)
    return activate_own(output, args.activation)
