"""Batch normalization as a function, with PyTorch's signature and meaning."""

from __future__ import annotations

import torch
from torch import Tensor

from bnkit.errors import SettingsError, TooFewValuesError
from bnkit.kernels import Normalised, check_activation, select
from bnkit.nn import running_statistics, synchronised


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    kernel: str = "auto",
) -> Tensor:
    """``activation(batch_norm(input) + residual)``, normalised channel by channel.

    The first eight arguments mean what they mean in ``torch.nn.functional.batch_norm``: in training the batch's own
    mean and biased variance normalise, and the running buffers move by ``momentum`` towards the batch's mean and
    unbiased variance, in place; otherwise the running buffers normalise. Ioffe & Szegedy (2015), Algorithms 1 and 2.

    Args:
        input: (N, C) or (N, C, *), any floating dtype.
        running_mean, running_var: (C,), or None: then nothing is kept (and ``training`` must be true).
        weight, bias: gamma and beta, (C,), or None for 1 and 0.
        training: Normalise with the batch's statistics.
        momentum: ``new = (1 - momentum) * old + momentum * batch``.
        eps: Added to the variance before the root; above 0 in training.
        activation: "relu", "leaky_relu", "sigmoid", "silu", "tanh", "gelu", or None.
        residual: Added before the activation; a tensor of the input's shape.
        kernel: "auto", "reference", "aten" or "numba".

    Returns:
        A tensor of the input's shape and dtype.

    Raises:
        TooFewValuesError: Training with one value per channel. It is a ValueError, as PyTorch's is.
        SettingsError: An unknown activation or kernel, a shape that does not fit, statistics missing, eps not above 0.

    Example:
        >>> import torch
        >>> batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True)
        tensor([[-1.0000],
                [ 1.0000]])
    """
    if activation is not None:
        check_activation(activation)
    if input.dim() < 2:
        raise SettingsError(f"batch_norm got an input of shape {tuple(input.shape)}; expected (N, C) or (N, C, *)")
    if not training and (running_mean is None or running_var is None):
        raise SettingsError("batch_norm got no running statistics; expected both, or training=True")
    if training:
        output, statistics = by_batch_statistics(
            input, weight, bias, eps, activation, residual, kernel, caller="batch_norm"
        )
        if statistics is not None and running_mean is not None and running_var is not None:
            running_statistics.move(running_mean, running_var, *statistics, momentum)
        return output
    assert running_mean is not None and running_var is not None
    return by_given_statistics(input, running_mean, running_var, weight, bias, eps, activation, residual, kernel)


def by_batch_statistics(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    kernel: str,
    caller: str,
    group: synchronised.Group | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """``x`` normalised by its own statistics, and those (mean, unbiased variance); None for an empty batch.

    ``caller`` stands at the start of an error's message. With a ``group``, the batch is that of all its processes
    together, of which ``x`` is a part.
    """
    if not eps > 0:
        raise SettingsError(f"{caller} got eps={eps} in training; expected a number above 0")
    _check_residual(x, residual, caller)
    values = x.numel() // max(x.shape[1], 1)
    merged = None
    if group is not None:
        synchronised.check_usable(kernel, caller)
        merged = synchronised.merge(x, group, caller)
        values = merged.values_per_channel(values)
    if values == 1:
        where = "" if group is None else f" in all {group.size} processes together"
        raise TooFewValuesError(
            f"{caller} got an input of shape {tuple(x.shape)} in training: one value per channel{where}, whose "
            "deviation is 0, so that every output would be beta; drop the last short batch (drop_last=True), use a "
            "larger batch, or freeze the layer (.eval() normalises with the running statistics)"
        )
    if values == 0:
        # Nothing to take statistics of. Any will do, and all gradients are zeros of the right shape.
        nothing = x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        args = (weight, bias, eps, activation, residual)
        return select("reference", x).kernel.by_given_statistics(x, nothing, nothing, *args), None
    if group is not None and merged is not None:
        return synchronised.normalise(x, merged, weight, bias, eps, activation, residual, group, caller)
    chosen = select(kernel, x).kernel
    normalised: Normalised = chosen.by_batch_statistics(x, weight, bias, eps, activation, residual)
    return normalised.output, (normalised.mean, normalised.unbiased_variance)


def by_given_statistics(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    kernel: str,
) -> Tensor:
    """``x`` normalised by ``mean`` and ``variance``, both (C,)."""
    _check_residual(x, residual, "batch_norm")
    chosen = select(kernel, x).kernel
    return chosen.by_given_statistics(x, mean, variance, weight, bias, eps, activation, residual)


def _check_residual(x: Tensor, residual: Tensor | None, caller: str) -> None:
    if residual is not None and residual.shape != x.shape:
        raise SettingsError(
            f"{caller} got a residual of shape {tuple(residual.shape)}; expected the input's, {tuple(x.shape)}"
        )
