"""Callbacks at the end of the running backward pass."""

from __future__ import annotations

from typing import Protocol
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from bnkit.errors import ModelError

CHANGED = (
    "bnkit.recompute computed an output of batch normalization again and got another one; expected the output of the "
    "forward pass; a tensor was changed in a way that autograd does not see (through .data, .numpy() or a pointer), or "
    "PyTorch's number of threads or choice of algorithm was changed: avoid the change, or do not use bnkit.recompute"
)
# A pass that raises runs no callbacks; a later pass releases its tensors.
_LEFT_OVER = 8


class Holder(Protocol):
    """An object with memory that it can release."""

    def release(self) -> None:
        """Free it."""


class _End:
    """The callbacks at the end of one pass."""

    def __init__(self) -> None:
        self.holders: list[ReferenceType[Holder]] = []  # weak, so that they can be freed earlier
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
    """Make ``holder`` release its recomputed tensor at the end of the pass, unless it has done so before."""
    _end().holders.append(ref(holder))


def would_synchronize(tensor: Tensor) -> bool:
    """Whether reading ``tensor`` would synchronise with its device in the middle of a backward pass."""
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
