"""Several processes that train one run together, each on its share of every batch; torchrun starts them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bnkit.errors import BnkitError
from bnkit.model.preserve_state import preserve_attribute

Loss = Callable[[Tensor, Tensor], Tensor]
T = TypeVar("T")

# Longer than a training step, or the evaluation after an epoch.
_TIMEOUT = timedelta(minutes=10)
# Longer for messages about runs, because a process may itself wait for the others in a step.
_MESSAGE_TIMEOUT = timedelta(minutes=30)


class Processes:
    """All processes of ``torch.distributed``, or this one alone.

    Attributes:
        rank: The number of this process; process 0 writes.
        count: The number of processes.
    """

    def __init__(self, rank: int = 0, count: int = 1, messages: Any = None) -> None:
        self.rank, self.count = rank, count
        self._messages = messages

    def share(self, examples: int) -> slice:
        """This process's rows of a batch with ``examples`` examples; shares differ by one at most."""
        return slice(examples * self.rank // self.count, examples * (self.rank + 1) // self.count)

    def distributed_model(self, model: nn.Module) -> nn.Module:
        """``model`` in ``DistributedDataParallel``: its gradients are the mean over all processes."""
        if self.count == 1:
            return model
        # Running statistics are the same in all processes. Newer versions of PyTorch have another name for the option.
        known = inspect.signature(DistributedDataParallel).parameters
        options: dict[str, Any] = {
            "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
        }
        return DistributedDataParallel(model, **options)

    def scale_loss(self, loss: Loss, examples: int) -> Loss:
        """``loss`` of this process's share of a batch, scaled so that the mean over the processes is the loss of the batch."""
        if self.count == 1:
            return loss

        def scaled_loss(outputs: Tensor, targets: Tensor) -> Tensor:
            return loss(outputs, targets) * (len(targets) * self.count / examples)

        return scaled_loss

    def all_reduce(self, own: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count == 1:
            return own
        result = own.clone()
        dist.all_reduce(result)
        return result

    def all_gather_rows(self, own: Tensor) -> Tensor:
        """The rows of all processes, those of process 0 first."""
        if self.count == 1:
            return own
        return torch.cat([rows.to(own.device) for rows in self.all_gather(own.cpu())])

    def all_gather(self, value: T) -> list[T]:
        """The value of each process, that of process 0 first."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._messages)
        return values

    def broadcast(self, value: T | None) -> T:
        """The value of process 0; the others pass None."""
        values: list[Any] = [value]
        if self.count > 1:
            dist.broadcast_object_list(values, src=0, group=self._messages)
        result: T = values[0]
        return result


SINGLE_PROCESS = Processes()


@contextmanager
def local_batch_norm(model: nn.Module, processes: Processes) -> Iterator[None]:
    """Inside, synchronised batch norms use the statistics of this process alone: each measures the same data."""
    layers = [module for module in model.modules() if processes.count > 1 and getattr(module, "sync", False) is True]
    with preserve_attribute(layers, "sync"):
        for layer in layers:
            layer.sync = False  # type: ignore[assignment]
        yield


@contextmanager
def process_group() -> Iterator[Processes]:
    """The processes that torchrun has started, connected; afterwards disconnected, unless they were connected before.

    Raises:
        BnkitError: If they cannot connect.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    was_connected = dist.is_initialized()
    if not was_connected:
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise BnkitError(f"the processes of torchrun do not find each other: {error}") from error
    messages = dist.new_group(backend="gloo", timeout=_MESSAGE_TIMEOUT)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), messages)
    finally:
        if not was_connected:
            dist.destroy_process_group()
