"""Compute the output of a layer by the batch's or given statistics: check the arguments, select and call a kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bnkit.errors import SettingsError, TooFewValuesError
from bnkit.kernels import aten, reference_equations, select
from bnkit.kernels.compilation.compile_policy import waits_for_the_compiler
from bnkit.kernels.fused.operands import are_rows, parameter_dtype_of
from bnkit.kernels.kernel_interface import BatchNormArgs, Kernel
from bnkit.kernels.select_kernel import NUMBA, TRITON
from bnkit.kernels.tracing import is_plain_eager
from bnkit.nn import sync_batch_norm
from bnkit.nn.input_checks import check_channels, check_residual
from bnkit.nn.sync_collectives import Group


def batch_stats_forward(
    args: BatchNormArgs, kernel: str, called: Callable[[], str], group: Group | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """The input normalised by its own statistics, and these (mean, unbiased variance); None for an empty batch.

    Args:
        args: The arguments. An empty batch is normalised by the running statistics, or by 0 and 1.
        kernel: A name, or "auto".
        called: Returns the start of error messages; a function, because formatting takes time.
        group: The processes among which the batch is distributed; the input is the part of this process.
    """
    x, mean, var, mask, values = args.input, args.running_mean, args.running_var, args.mask, args.num_values
    check(args, called)
    check_channels(x, called, weight=args.weight, bias=args.bias, running_mean=mean, running_var=var)
    strategy = merged = None
    if group is not None:
        strategy = sync_batch_norm.choose_strategy(kernel, args, group, called())
        merged = sync_batch_norm.merge(x, mask, values, strategy)
        values = merged.values_per_channel(values)
    if not isinstance(values, Tensor):
        _check_values(values, x, mask, group, called)
        if values == 0:
            return _empty_batch_forward(args), None
    if strategy is not None and merged is not None:
        return sync_batch_norm.normalise(args, merged, strategy)
    normalised = _selected(kernel, args).batch_stats_forward(args)
    return normalised.output, (normalised.mean, normalised.unbiased_variance)


def running_stats_forward(args: BatchNormArgs, kernel: str, called: Callable[[], str]) -> Tensor:
    """The input normalised by the running statistics."""
    x, (mean, var) = args.input, args.statistics
    if args.residual is not None:
        check_residual(x, args.residual, called)
    usual = _cached_selection(kernel, args)
    if usual is not None and kernel == "auto" and args.activation is None and args.residual is None and _is_short(x):
        usual = aten
    if (
        usual is not None
        and are_rows(x.shape[1], parameter_dtype_of(x), mean, var, args.weight, args.bias)
        and not (mean.requires_grad or var.requires_grad)
    ):
        if usual is aten and args.activation is None and args.residual is None:
            # A direct call: after a convolution, each Python function in between costs microseconds in cache misses.
            return torch.batch_norm(
                x, args.weight, args.bias, mean, var, False, 0.0, args.eps, torch.backends.cudnn.enabled
            )
        return usual.running_stats_forward(args)
    check_channels(x, called, weight=args.weight, bias=args.bias, running_mean=mean, running_var=var)
    # Neither PyTorch's kernel nor the compiled loops compute gradients of the statistics.
    is_differentiated = (mean.requires_grad or var.requires_grad) and torch.is_grad_enabled()
    return _selected(reference_equations.NAME if is_differentiated else kernel, args).running_stats_forward(args)


def _is_short(x: Tensor) -> bool:
    """Whether PyTorch's own kernel is at least as fast for a pass over ``x`` that only scales and shifts."""
    return x.is_contiguous() and x.numel() < _LONG


def training_step(args: BatchNormArgs, kernel: str, called: Callable[[], str]) -> Tensor | None:
    """The input normalised by its own statistics, if a kernel also updates the buffers in the same call; else None."""
    x = args.input
    if not args.eps > 0 or args.residual is not None:
        check(args, called)
    chosen = _cached_selection(kernel, args)
    if chosen is None:
        values = x.numel() // max(x.shape[1], 1)
        if values < 2:
            _check_values(values, x, None, None, called)
            return None
        chosen = _selected(kernel, args)
        if chosen.NAME in (NUMBA, TRITON):  # not plain eager mode: these have no combined step
            return None
    return chosen.training_step(args)


def _selected(kernel: str, args: BatchNormArgs) -> Kernel:
    x, activation = args.input, args.activation
    return select(kernel, x, activation, has_residual=args.residual is not None, has_mask=args.mask is not None).kernel


# A cache of the kernels selected for inputs of each form, because the selection is repeated in every step.
_selections: dict[tuple[object, ...], Kernel] = {}
_MAX_SELECTIONS = 4096
# From this many elements on, the compiled loops write with non-temporal stores.
_LONG = 1 << 21


def _cached_selection(name: str, args: BatchNormArgs) -> Kernel | None:
    return _usual_kernel(name, args.input, args.activation, args.residual is not None)


def _usual_kernel(name: str, x: Tensor, activation: str | None, has_residual: bool) -> Kernel | None:
    """The cached kernel for a call in plain eager mode; None in other modes, or if there are too few values."""
    if not is_plain_eager(x):
        return None
    key = (
        name,
        activation,
        has_residual,
        waits_for_the_compiler(),
        x.shape,
        x.dtype,
        x.is_cpu or x.device,
        x.is_contiguous(),
    )
    kernel = _selections.get(key)
    if kernel is None and x.numel() >= 2 * x.shape[1] > 0:
        if len(_selections) >= _MAX_SELECTIONS:
            _selections.clear()
        kernel = _selections[key] = select(name, x, activation, has_residual=has_residual).kernel
    return kernel


def is_fused(name: str, x: Tensor, activation: str | None, has_residual: bool) -> bool:
    """Whether the kernel ``name`` fuses sum and activation with the normalisation of ``x`` (in plain eager mode)."""
    kernel = _usual_kernel(name, x, activation, has_residual)
    return kernel is not None and kernel.NAME in (NUMBA, TRITON)


def check(args: BatchNormArgs, called: Callable[[], str]) -> None:
    """Raise a SettingsError if the batch's statistics cannot be used."""
    if not args.eps > 0:
        raise SettingsError(f"{called()} got eps={args.eps} in training; expected a number above 0")
    check_residual(args.input, args.residual, called)


def _check_values(values: int, x: Tensor, mask: Tensor | None, group: Group | None, called: Callable[[], str]) -> None:
    if values != 1:
        return
    where = "" if mask is None else " where the mask is True"
    where += "" if group is None else f" in all {group.size} processes together"
    raise TooFewValuesError(
        f"{called()} got an input of shape {tuple(x.shape)} in training: one value per channel{where}, whose "
        "deviation is 0, so that every output would be beta; drop the last short batch (drop_last=True), use a "
        "larger batch, or freeze the layer (.eval() normalises with the running statistics)"
    )


def _empty_batch_forward(args: BatchNormArgs) -> Tensor:
    """The output for an empty batch, which has no statistics; all gradients have the right shapes."""
    x, mean, variance = args.input, args.running_mean, args.running_var
    number = torch.promote_types(x.dtype, torch.float32)
    mean = x.new_zeros(x.shape[1], dtype=number) if mean is None else mean
    variance = x.new_ones(x.shape[1], dtype=number) if variance is None else variance
    # A copy, because the buffers may be updated before the backward pass.
    eval_args = args._replace(running_mean=mean.clone(), running_var=variance.clone(), training=False)
    return select("reference", x).kernel.running_stats_forward(eval_args)
