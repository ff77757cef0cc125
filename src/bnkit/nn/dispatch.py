"""The output of a layer by a batch's statistics or by given ones: what is checked before a kernel is asked, and which."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bnkit.errors import SettingsError, TooFewValuesError
from bnkit.kernels import aten, reference, select
from bnkit.kernels.contract import Kernel
from bnkit.kernels.fused.operands import are_rows, parameter_dtype_of
from bnkit.kernels.fused.tracing import is_plain_eager
from bnkit.kernels.select import NUMBA, TRITON
from bnkit.nn import sync
from bnkit.nn.collectives import Group
from bnkit.nn.input_checks import check_channels, check_residual
from bnkit.nn.masks import count_of


class BatchNormArgs(NamedTuple):
    """What stands in ``activation(gamma * normalised + beta + residual)``, and how it is computed.

    Attributes:
        weight, bias: gamma and beta, (C,), or None for 1 and 0.
        eps: Added to the variance.
        activation: A name, or None.
        kernel: A name, or "auto".
        called: What stands at the start of an error's message; a function, because to say it takes time.
    """

    weight: Tensor | None
    bias: Tensor | None
    eps: float
    activation: str | None
    kernel: str
    called: Callable[[], str]


def batch_stats_forward(
    x: Tensor,
    args: BatchNormArgs,
    residual: Tensor | None,
    mask: Tensor | None,
    group: Group | None = None,
    otherwise: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """``x`` normalised by its own statistics, and those (mean, unbiased variance); None for an empty batch.

    Args:
        x: (N, C, *).
        args: The rest of the formula.
        residual: Of x's shape, or None.
        mask: What counts in the statistics, bool, (N, 1, *spatial); None for all of it.
        group: The processes whose batches make up the batch, of which ``x`` is a part.
        otherwise: Mean and variance to normalise with where nothing counts; None for 0 and 1.
    """
    weight, bias, eps, activation, kernel, called = args
    check(x, args, residual)
    check_channels(x, called, weight=weight, bias=bias, running_mean=otherwise[0], running_var=otherwise[1])
    count = x.numel() // max(x.shape[1], 1) if mask is None else count_of(mask)
    values = count
    strategy = merged = None
    if group is not None:
        strategy = sync.choose_strategy(kernel, x, mask, eps, activation, group, called())
        merged = sync.merge(x, mask, count, strategy)
        values = merged.values_per_channel(count)
    if not isinstance(values, Tensor):
        _check_values(values, x, mask, group, called)
        if values == 0:
            return _empty_batch_forward(x, args, residual, otherwise), None
    if strategy is not None and merged is not None:
        return sync.normalise(x, mask, merged, weight, bias, residual, strategy)
    chosen = select(kernel, x).kernel
    normalised = chosen.batch_stats_forward(x, weight, bias, eps, activation, residual, mask, count)
    return normalised.output, (normalised.mean, normalised.unbiased_variance)


def running_stats_forward(
    x: Tensor, mean: Tensor, variance: Tensor, args: BatchNormArgs, residual: Tensor | None
) -> Tensor:
    """``x`` normalised by ``mean`` and ``variance``, both (C,)."""
    weight, bias, eps, activation, kernel, called = args
    if residual is not None:
        check_residual(x, residual, called)
    usual = _cached_selection(kernel, x)
    if usual is not None and kernel == "auto" and activation is None and residual is None and _is_short(x):
        usual = aten
    if (
        usual is not None
        and are_rows(x.shape[1], parameter_dtype_of(x), mean, variance, weight, bias)
        and not (mean.requires_grad or variance.requires_grad)
    ):
        if usual is aten and activation is None and residual is None:
            # At once: behind a convolution, each Python function on the way costs microseconds, as none of them is in the cache.
            return torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, eps, torch.backends.cudnn.enabled)
        return usual.running_stats_forward(x, mean, variance, weight, bias, eps, activation, residual)
    check_channels(x, called, weight=weight, bias=bias, running_mean=mean, running_var=variance)
    # PyTorch's kernel has no gradient of the statistics, and the compiled loops have none.
    is_differentiated = (mean.requires_grad or variance.requires_grad) and torch.is_grad_enabled()
    chosen = select(reference.NAME if is_differentiated else kernel, x).kernel
    return chosen.running_stats_forward(x, mean, variance, weight, bias, eps, activation, residual)


def _is_short(x: Tensor) -> bool:
    """Whether a pass over ``x`` that does nothing but scale and shift is PyTorch's affair: its own does no more than that."""
    return x.is_contiguous() and x.numel() < _LONG


def training_step(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor | None,
    momentum: float,
    args: BatchNormArgs,
    residual: Tensor | None,
) -> Tensor | None:
    """``x`` normalised by its own statistics, and the buffers moved, where a kernel does both in one go; else None."""
    weight, bias, eps, activation, kernel, called = args
    if not eps > 0 or residual is not None:
        check(x, args, residual)
    chosen = _cached_selection(kernel, x)
    if chosen is None:
        values = x.numel() // max(x.shape[1], 1)
        if values < 2:
            _check_values(values, x, None, None, called)
            return None
        chosen = select(kernel, x).kernel
    return chosen.training_step(
        x, running_mean, running_var, num_batches_tracked, momentum, weight, bias, eps, activation, residual
    )


# What was chosen for inputs that were alike: it is asked in every step, and the answer is always the same.
_selections: dict[tuple[object, ...], Kernel] = {}
_MAX_SELECTIONS = 4096
# From so many elements on, the compiled loops write past the caches.
_LONG = 1 << 21


def _cached_selection(name: str, x: Tensor) -> Kernel | None:
    """The kernel for a training step that nobody looks at; None where that has to be found out, or there are too few values."""
    if not is_plain_eager(x):
        return None
    key = (name, x.shape, x.dtype, x.is_cpu or x.device, x.is_contiguous())
    kernel = _selections.get(key)
    if kernel is None and x.numel() >= 2 * x.shape[1] > 0:
        if len(_selections) >= _MAX_SELECTIONS:
            _selections.clear()
        kernel = _selections[key] = select(name, x).kernel
    return kernel


def is_fused(name: str, x: Tensor) -> bool:
    """Whether the kernel ``name`` adds and activates ``x`` in the pass that normalises it, and nobody looks at single operations."""
    kernel = _cached_selection(name, x)
    return kernel is not None and kernel.NAME in (NUMBA, TRITON)


def check(x: Tensor, args: BatchNormArgs, residual: Tensor | None) -> None:
    """A SettingsError where the batch's statistics cannot be used."""
    if not args.eps > 0:
        raise SettingsError(f"{args.called()} got eps={args.eps} in training; expected a number above 0")
    check_residual(x, residual, args.called)


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


def _empty_batch_forward(
    x: Tensor, args: BatchNormArgs, residual: Tensor | None, otherwise: tuple[Tensor | None, Tensor | None]
) -> Tensor:
    """An empty batch has nothing to take statistics of; all gradients are of the right shape."""
    mean, variance = otherwise
    number = torch.promote_types(x.dtype, torch.float32)
    mean = x.new_zeros(x.shape[1], dtype=number) if mean is None else mean
    variance = x.new_ones(x.shape[1], dtype=number) if variance is None else variance
    kernel = select("reference", x).kernel
    # A copy: the buffers may move before the backward pass.
    return kernel.running_stats_forward(
        x, mean.clone(), variance.clone(), args.weight, args.bias, args.eps, args.activation, residual
    )
