"""What the processes of a group tell each other: sums, and what each of them has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from bnkit.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# In a group of so many, a sum is taken of what is gathered: that is one exchange, where a reduction takes two. Beyond, the
# bytes of gathering outweigh that (`benchmarks/sync.py`).
_MAX_GATHERED = 4


class Group(NamedTuple):
    """The processes that share their statistics: what ``torch.distributed`` calls their group, and how many they are."""

    name: str
    size: int


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


def gather(own: Tensor, group: Group, caller: str) -> Tensor:
    """The ``own`` of all processes, (K,) each, as (processes, K).

    Raises:
        ModelError: Another process has ended, or has not come within the group's time limit.
    """
    start = torch.ops._c10d_functional.all_gather_into_tensor
    return _collective(lambda: start(own, group.size, group.name), group, caller).reshape(group.size, -1)


class Sum(torch.autograd.Function):
    """The sum over all processes. Each of them gets it, so the backward pass is the same sum, of the gradients."""

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
