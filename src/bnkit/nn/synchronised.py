"""Statistics over several processes: what they tell each other in the forward pass, and in the backward pass.

Forward, every process sends the count, mean and sum of squared deviations of its own values; these determine those of
all values exactly (Chan, Golub & LeVeque, 1979, equations 2.1), whatever the sizes of the parts, empty ones included.
Backward, the gradients with respect to the shared mean and variance are summed. That is one collective each way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from bnkit.errors import KernelError, ModelError, SettingsError
from bnkit.kernels import reference
from bnkit.kernels.activation import activate_own

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Group(NamedTuple):
    """The processes that share their statistics: what ``torch.distributed`` calls their group, and how many they are."""

    name: str
    size: int


class Merged(NamedTuple):
    """The statistics of all processes together, float64, the same bits in each of them, outside the autograd graph.

    Attributes:
        total: How many values each channel has; 0-d.
        mean: (C,); 0 where there are no values.
        variance: (C,), biased; 0 where there are no values.
    """

    total: Tensor
    mean: Tensor
    variance: Tensor

    def values_per_channel(self, own: int | Tensor) -> int:
        """What decides whether there are enough values: ``own``, those of this process, or those of all of them.

        Where ``own`` is 2 or more, the answer is known without waiting for the device. The others read the count of
        all, which is the same everywhere, so that either no process refuses the batch or all do.
        """
        if isinstance(own, int) and own >= 2:
            return own
        if torch.compiler.is_compiling():  # a graph cannot branch on a value
            torch._assert_async(self.total > 1, "one value per channel, or none, in all processes together")
            return 2
        return int(self.total)


def group_for(process_group: ProcessGroup | None, caller: str) -> Group | None:
    """The group to share statistics with; None where there is nobody to share them with.

    Args:
        process_group: A group of ``torch.distributed``, or None for the default one.
        caller: Stands at the start of an error's message.

    Raises:
        SettingsError: This process is not in the group.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    size = distributed.get_world_size(process_group)
    if size < 1:
        raise SettingsError(
            f"{caller} got a process_group that this process is no member of; expected the group that "
            "torch.distributed.new_group returns in its members"
        )
    if size == 1:
        return None
    group = distributed.group.WORLD if process_group is None else process_group
    assert group is not None
    return Group(group.group_name, size)


def check_usable(kernel: str, caller: str) -> None:
    """A KernelError where statistics cannot be shared: this kernel keeps its own, or torch.func transforms the call."""
    if kernel not in {"auto", reference.NAME}:
        raise KernelError(
            f"{caller} got kernel={kernel!r} with sync=True; it takes the statistics of one process only; "
            f"use kernel='auto' or kernel={reference.NAME!r}"
        )
    if torch._C._are_functorch_transforms_active():
        raise KernelError(
            f"{caller} got a call under a torch.func transform (vmap, grad, jvp, ...) with sync=True; processes cannot "
            "exchange what is being transformed; use sync=False there"
        )


def merge(x: Tensor, mask: Tensor | None, own_count: int | Tensor, group: Group, caller: str) -> Merged:
    """The statistics of the ``x`` of all processes of ``group``, (N, C, *) each, of any N; one collective.

    ``own_count`` values a channel count in this process: those where ``mask`` (N, 1, *) is True, if there is one.
    """
    values = _wide(x.detach())
    channels = x.shape[1]
    # float64 even for half inputs, whose sums are float32: it costs nothing here, and a count stays a whole number.
    count = torch.as_tensor(own_count, dtype=torch.float64, device=x.device).reshape(1)
    mean = _counted(values, mask).sum(_all_but_channels(x)) / count.clamp(min=1).to(values.dtype)
    deviations = _counted(values - _per_channel(mean, x), mask).square().sum(_all_but_channels(x))
    parts = _gather(torch.cat([count, mean.to(count.dtype), deviations.to(count.dtype)]), group, caller)
    counts, means, deviations = parts[:, :1], parts[:, 1 : channels + 1], parts[:, channels + 1 :]
    total = counts.sum()
    divisor = total.clamp(min=1)
    mean = (counts * means).sum(0) / divisor
    deviations = (deviations + counts * (means - mean).square()).sum(0)
    return Merged(total, mean, deviations / divisor)


def normalise(
    x: Tensor,
    mask: Tensor | None,
    merged: Merged,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    group: Group,
    caller: str,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """``activation(batch_norm(x) + residual)`` by the ``merged`` statistics, and those (mean, unbiased variance)."""
    total, mean, variance = merged
    output: Tensor
    output, _, _ = _Normalise.apply(x, weight, bias, mask, total, mean, variance, eps, group, caller)  # type: ignore[no-untyped-call]
    if residual is not None:
        output = (output + residual).to(output.dtype)
    return activate_own(output, activation), (mean, variance * (total / (total - 1)))


class _Normalise(torch.autograd.Function):
    """``x`` normalised by the mean and variance of all processes, which depend on the ``x`` of each of them.

    The statistics go in as known values and come out as functions of ``x``: what autograd keeps of them for the
    backward pass is then connected to ``x``, so that the backward pass can be differentiated in its turn. Nothing else
    of the size of ``x`` is kept but ``x``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mask: Tensor | None,
        total: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        group: Group,
        caller: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = mean.clone(), variance.clone()  # an output of its own, not an input handed on
        ctx.save_for_backward(x, weight, bias, mask, total, mean, variance)
        ctx.eps, ctx.group, ctx.caller = eps, group, caller
        output = (_wide(x) - _per_channel(mean, x)) * _per_channel(torch.rsqrt(variance + eps), x)
        if weight is not None:
            output = output * _per_channel(weight, x)
        if bias is not None:
            output = output + _per_channel(bias, x)
        return output.to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The chain rule, with one collective between the statistics and ``x``, taken by every process or by none.

        A process whose batch is empty adds zeros, but it takes part.
        """
        x, weight, bias, mask, total, mean, variance = ctx.saved_tensors
        by_output, by_mean, by_variance = gradients
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        over = _all_but_channels(x)

        by_output = _wide(by_output)
        inverse_deviation = torch.rsqrt(variance + ctx.eps)
        centred = _wide(x) - _per_channel(mean, x)
        if mask is not None:  # what neither counts nor is a number has no part in any gradient
            lost = ~(mask | torch.isfinite(centred))
            by_output, centred = by_output.masked_fill(lost, 0), centred.masked_fill(lost, 0)
        by_beta = by_output.sum(over)
        by_gamma = (by_output * centred).sum(over) * inverse_deviation

        by_x = None
        if needs_x:
            scale = inverse_deviation if weight is None else inverse_deviation * weight
            by_mean = by_mean - scale * by_beta
            by_variance = by_variance - 0.5 * scale * inverse_deviation * by_gamma
            own = torch.cat([by_mean, by_variance])
            by_mean, by_variance = (_AllReduce.apply(own, ctx.group, ctx.caller) / total).chunk(2)  # type: ignore[no-untyped-call]
            by_statistics = _per_channel(by_mean, x) + _per_channel(2 * by_variance, x) * centred
            by_x = (_per_channel(scale, x) * by_output + _counted(by_statistics, mask)).to(x.dtype)
        # Of this process's samples, like every gradient of a parameter: DistributedDataParallel takes their mean.
        by_weight = by_gamma.to(weight.dtype) if needs_weight else None
        by_bias = by_beta.to(bias.dtype) if needs_bias else None
        return by_x, by_weight, by_bias, *[None] * 7


class _AllReduce(torch.autograd.Function):
    """The sum over all processes. Each of them gets it, so the backward pass is the same sum, of the gradients."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Group, caller: str) -> Tensor:
        ctx.group, ctx.caller = group, caller
        return _collective(lambda: torch.ops._c10d_functional.all_reduce(own, "sum", group.name), group, caller)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _AllReduce.apply(gradients[0].contiguous(), ctx.group, ctx.caller), None, None  # type: ignore[no-untyped-call]


def _gather(own: Tensor, group: Group, caller: str) -> Tensor:
    """The ``own`` of all processes, (K,) each, as (processes, K)."""
    gather = torch.ops._c10d_functional.all_gather_into_tensor
    return _collective(lambda: gather(own, group.size, group.name), group, caller).reshape(group.size, -1)


def _collective(start: Callable[[], Tensor], group: Group, caller: str) -> Tensor:
    """The result of a collective that ``start`` begins; where it fails, an error that names the layer."""
    # The operators that torch.distributed._functional_collectives calls: only these go into a compiled graph.
    wait = torch.ops._c10d_functional.wait_tensor
    result: Tensor
    if torch.compiler.is_compiling():
        result = wait(start())
        return result
    try:
        result = wait(start())
    except RuntimeError as error:
        reason = str(error).partition(". ")[0]
        raise ModelError(
            f"{caller} waited in vain for the statistics of the other processes of its group of {group.size}: one has "
            f"ended, or has not come to this layer within the group's time limit ({reason}); look for the first error "
            "in the other processes, and let all of them run the same layers, forward and backward"
        ) from error
    return result


def _counted(values: Tensor, mask: Tensor | None) -> Tensor:
    """``values``, and 0 where the mask is False."""
    return values if mask is None else torch.where(mask, values, 0)


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _per_channel(statistic: Tensor, x: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, ...), so that it broadcasts against the wide ``x``, in that one's dtype."""
    return statistic.to(_wide_dtype(x)).reshape(1, -1, *[1] * (x.dim() - 2))


def _wide(x: Tensor) -> Tensor:
    return x.to(_wide_dtype(x))


def _wide_dtype(x: Tensor) -> torch.dtype:
    """One precision wider than ``x``, so that no sum and no difference of it costs a digit of the result."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else torch.float64
