"""Batch normalization as a function, with PyTorch's signature and semantics."""

from __future__ import annotations

from torch import Tensor

from bnkit.errors import SettingsError
from bnkit.kernels import check_activation
from bnkit.kernels.kernel_interface import BatchNormArgs
from bnkit.nn import running_statistics
from bnkit.nn.ghost_batch_norm import check_size, forward_in_parts
from bnkit.nn.input_checks import check_both, check_input, check_moving
from bnkit.nn.layer_forward import batch_stats_forward, running_stats_forward, training_step
from bnkit.nn.masks import as_wide_as, count_of


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
    mask: Tensor | None = None,
    virtual_batch_size: int | None = None,
    kernel: str = "auto",
) -> Tensor:
    """``activation(batch_norm(input) + residual)``, normalised channel by channel.

    The first eight arguments are those of ``torch.nn.functional.batch_norm``: training normalises by the batch's own
    mean and biased variance, and moves the running buffers in place by ``momentum`` towards the batch's mean and
    unbiased variance; otherwise the running buffers normalise. Ioffe & Szegedy (2015), Algorithms 1 and 2.

    Args:
        input: (N, C) or (N, C, *), float32, float64, float16 or bfloat16; see ``docs/reference/layers.md`` for mixed dtypes.
        running_mean, running_var: (C,), or both None: then no statistics are kept (and ``training`` must be true).
        weight, bias: gamma and beta, (C,), or None for 1 and 0.
        training: Normalise with the batch's statistics.
        momentum: ``new = (1 - momentum) * old + momentum * batch``.
        eps: Added to the variance before the root; above 0 in training.
        activation: "relu", "leaky_relu", "relu6", "sigmoid", "silu", "tanh", "gelu", or None.
        residual: Added before the activation; a tensor of the input's shape.
        mask: bool, broadcastable to (N, 1, *spatial). False positions do not count in the statistics, but are
            normalised like the others. All False is an empty batch: the running statistics, if any, are used and do not
            change.
        virtual_batch_size: In training, split the batch into virtual batches of this size, the last one possibly
            smaller: each is normalised by its own statistics, and updates the buffers.
        kernel: "auto", "reference", "aten", "numba" or "triton".

    Returns:
        A tensor of the input's shape and dtype.

    Raises:
        TooFewValuesError: In training, there is one value per channel. It is a ValueError, like PyTorch's.
        SettingsError: The input is not a dense tensor of floats, the activation or kernel is unknown, a shape does not
            fit, statistics are missing, eps is not above 0, the mask is not bool, or the virtual batch size is below 1.

    Examples:
        >>> import torch
        >>> batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True)
        tensor([[-1.0000],
                [ 1.0000]])
    """
    _check(input, running_mean, running_var, activation, training=training)
    if input.dim() < 2:  # PyTorch also accepts an empty tensor without channels
        return input.clone()
    if mask is not None:
        mask = as_wide_as(input, mask, "batch_norm")
    if not training:
        args = BatchNormArgs(input, running_mean, running_var, weight, bias, False, momentum, eps, activation, residual)
        return running_stats_forward(args, kernel, _called)
    if virtual_batch_size is not None:
        check_size(virtual_batch_size, "batch_norm")

    def normalise(x: Tensor, residual: Tensor | None, mask: Tensor | None) -> Tensor:
        count = x.numel() // max(x.shape[1], 1) if mask is None else count_of(mask)
        args = BatchNormArgs(
            x, running_mean, running_var, weight, bias, True, momentum, eps, activation, residual, mask, count
        )
        if mask is None and running_mean is not None and running_var is not None:
            output = training_step(args, kernel, _called)
            if output is not None:
                return output
        output, statistics = batch_stats_forward(args, kernel, _called)
        if statistics is not None and running_mean is not None and running_var is not None:
            running_statistics.move(running_mean, running_var, *statistics, momentum)
        return output

    return forward_in_parts(input, residual, mask, virtual_batch_size, normalise)


def _check(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, activation: str | None, *, training: bool
) -> None:
    check_input(input, _called)
    if input.dim() < 2 and tuple(input.shape) != (0,):
        raise SettingsError(f"batch_norm got an input of shape {tuple(input.shape)}; expected (N, C) or (N, C, *)")
    if activation is not None:
        check_activation(activation)
    if training:
        check_moving(running_mean, running_var, _called)
    elif running_mean is None and running_var is None:
        raise SettingsError("batch_norm got no running statistics; expected both, or training=True")
    else:
        check_both(running_mean, running_var, _called)


def _called() -> str:
    return "batch_norm"
