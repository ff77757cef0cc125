"""Collectives between the processes of a group: gather and sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from bnkit.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# In groups up to this size, sums are computed by gathering, in one exchange where a reduction takes two. In larger
# groups, the additional bytes cost more (`benchmarks/sync.py`).
_MAX_GATHERED = 4


class Group(NamedTuple):
    """The processes that share their statistics: the name of their group in ``torch.distributed``, and their number."""

    name: str
    size: int


def group_for(process_group: ProcessGroup | None, caller: str) -> Group | None:
    """The group to share statistics with; None if there is no other process.

    Args:
        process_group: A group of ``torch.distributed``, or None for the default one.
        caller: The start of error messages.

    Raises:
        SettingsError: This process is not in the group.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    size = distributed.get_world_size(process_group)
    if size < 1:
        raise SettingsError(
            f"{caller} got a process_group that this process is not a member of; expected the group that "
            "torch.distributed.new_group returns in its members"
        )
    if size == 1:
        return None
    group = distributed.group.WORLD if process_group is None else process_group
    assert group is not None
    return Group(group.group_name, size)


def gather(own: Tensor, group: Group, caller: str) -> Tensor:
    """Gather ``own``, (K,), from all processes, as (processes, K).

    Raises:
        ModelError: Another process exited, or did not reach this call within the group's time limit.
    """
    start = torch.ops._c10d_functional.all_gather_into_tensor
    return _collective(lambda: start(own, group.size, group.name), group, caller).reshape(group.size, -1)


class Sum(torch.autograd.Function):
    """The sum over all processes, for each of them; the backward pass is the same sum over the gradients."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Group, caller: str) -> Tensor:
        ctx.group, ctx.caller = group, caller
        if group.size <= _MAX_GATHERED:
            return gather(own, group, caller).sum(0)
        start = torch.ops._c10d_functional.all_reduce
        return _collective(lambda: start(own, "sum", group.name), group, caller)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return Sum.apply(gradients[0].contiguous(), ctx.group, ctx.caller), None, None  # type: ignore[no-untyped-call]


def _collective(start: Callable[[], Tensor], group: Group, caller: str) -> Tensor:
    """The result of the collective that ``start`` begins; if it fails, raise an error that names the layer."""
    # The operators of torch.distributed._functional_collectives: only these can be part of a compiled graph.
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
            f"{caller} did not receive the statistics of the other processes in its group of {group.size}: one of them "
            f"exited, or did not reach this layer within the group's time limit ({reason}); look for the first error "
            "in the other processes, and make all of them run the same layers, forward and backward"
        ) from error
    return result
