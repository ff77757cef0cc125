"""What has to be done at the end of the backward pass that is running."""

from __future__ import annotations

from typing import Protocol
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from bnkit.errors import ModelError

CHANGED = (
    "bnkit.recompute computed an output of batch normalization again and got another one; expected what the forward pass "
    "had; a tensor was changed in a way that autograd does not see (through .data, .numpy() or a pointer), or PyTorch's number "
    "of threads or its choice of algorithm was: do without the change, or without bnkit.recompute"
)
# A pass that ends in an error does nothing at its end; what it left is let go by one of the next.
_LEFT_OVER = 8


class Holder(Protocol):
    """What holds something that it can let go."""

    def release(self) -> None:
        """Free it."""


class _End:
    """What is done at the end of one pass."""

    def __init__(self) -> None:
        self.holders: list[ReferenceType[Holder]] = []  # they hold what would be freed on the way
        self.differs: list[Tensor] = []

    def release(self) -> None:
        for holder in self.holders:
            known = holder()
            if known is not None:
                known.release()

    def do(self) -> None:
        self.release()
        if any(bool(flag) for flag in self.differs):
            raise ModelError(CHANGED)


_ends: dict[int, _End] = {}


def is_running() -> bool:
    """Whether this thread is in a backward pass."""
    return bool(torch._C._current_graph_task_id() != -1)


def release_at_the_end(holder: Holder) -> None:
    """Have ``holder`` let go what it computed again, if it has not by then."""
    _end().holders.append(ref(holder))


def would_synchronize(tensor: Tensor) -> bool:
    """Whether to look at ``tensor`` would be to wait for its device in the middle of a backward pass."""
    return tensor.device.type != "cpu" and is_running()


def check_at_the_end(differs: Tensor) -> None:
    """Raise a ModelError at the end of the pass if ``differs``, 0-d bool, is true."""
    if differs.is_cuda and torch.cuda.is_current_stream_capturing():
        return  # a graph that is being captured cannot be read; earlier passes were checked
    _end().differs.append(differs)


def _end() -> _End:
    task = torch._C._current_graph_task_id()
    if task not in _ends:
        while len(_ends) > _LEFT_OVER:
            _ends.pop(next(iter(_ends))).release()
        _ends[task] = _End()
        torch.autograd.Variable._execution_engine.queue_callback(lambda: _ends.pop(task, _End()).do())
    return _ends[task]
