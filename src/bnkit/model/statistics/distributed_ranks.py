"""The processes that train one model together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bnkit.errors import ModelError
from bnkit.model.preserve_state import preserve_attribute

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Result = TypeVar("Result")


class Ranks:
    """The processes of a ``torch.distributed`` group; only this process if no group is initialised.

    Args:
        together: Whether to work with the other processes.
        group: None for all processes.
    """

    def __init__(self, *, together: bool = True, group: ProcessGroup | None = None) -> None:
        self._group = group
        initialised = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.count = torch.distributed.get_world_size(group) if together and initialised else 1
        self.own = torch.distributed.get_rank(group) if self.count > 1 else 0

    def gather(self, work: Callable[[], Result]) -> list[Result]:
        """Gather the results of ``work`` from all ranks, in order, on every rank.

        If it raises on one rank, it raises on all; otherwise the others would wait for that rank.

        Raises:
            ModelError: ``work`` raised on another rank.
        """
        if self.count == 1:
            return [work()]
        own: list[Result] = []
        failure: Exception | None = None
        try:
            own.append(work())
        except Exception as error:
            failure = error
        description = None if failure is None else f"{type(failure).__name__}: {failure}"
        answers: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(answers, (description, own), group=self._group)
        if failure is not None:
            raise failure
        for rank, (message, _) in enumerate(answers):
            if message is not None:
                raise ModelError(f"rank {rank} failed, so that all ranks stopped; there: {message}")
        return [result for _, results in answers for result in results]


@contextmanager
def without_broadcasts(model: nn.Module) -> Iterator[None]:
    """Inside, ``DistributedDataParallel`` leaves buffers alone.

    Otherwise it broadcasts those of rank 0 before every forward pass, in evaluation too, and the others would wait for
    a rank with fewer batches.
    """
    wrappers = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
    with preserve_attribute(wrappers, "require_forward_param_sync"):
        for wrapper in wrappers:
            wrapper.require_forward_param_sync = False
        yield
