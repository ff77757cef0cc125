"""What synchronised statistics cost a training step, and the bytes that they move against the least possible.

    python -m benchmarks.sync --processes 2 4

Processes on this machine, one thread each, connected by gloo; each has its own batch. A layer alone, and the course's CNN,
with `sync=False` and `sync=True` in turns. More processes than processors share them: then a step takes longer for that
alone, in both columns.

Bytes: what one process has to send for a step, if tensors go round in a ring, the least for these collectives
(Patarasuk & Yuan, 2009): (P - 1) K for gathering K bytes from each of P processes, 2 (P - 1) / P K for a sum of K bytes.
The least possible for the task is a sum of 2 C numbers forward, and of 2 C backward, in the precision of the statistics,
float32. Small messages wait for the exchange, not for the bytes: what gathering takes, and what a sum takes, is printed too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bnkit.nn import BatchNorm1d, BatchNorm2d

NAMES = ("layer 32×64×28×28", "layer 64×512×7×7", "two-CNN, batch 256")


class Bytes(TorchDispatchMode):
    """Adds up what a process sends in collectives, if they go round in a ring."""

    def __init__(self, processes: int) -> None:
        super().__init__()
        self.processes, self.sent = processes, 0.0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "_c10d_functional" and "wait" not in str(func):
            size = args[0].numel() * args[0].element_size()
            share = self.processes - 1
            self.sent += share * size if "gather" in str(func) else 2 * share / self.processes * size
        return func(*args, **(kwargs or {}))


def network(name: str, sync: bool) -> tuple[nn.Module, Tensor]:
    """A network and a batch for it."""
    generator = torch.Generator().manual_seed(0)
    if name.startswith("layer"):
        shape = [int(size) for size in name.split()[1].split("×")]
        x = torch.randn(shape, generator=generator).requires_grad_()
        return BatchNorm2d(shape[1], sync=sync, activation="relu", kernel="auto"), x
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), BatchNorm2d(6, sync=sync),
        nn.Conv2d(6, 12, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(192, 120), nn.ReLU(), BatchNorm1d(120, sync=sync), nn.Linear(120, 10),
    )  # fmt: skip
    return model, torch.randn(256, 1, 28, 28, generator=generator)


def exchanges(rank: int, processes: int) -> None:
    """Measure the ways to tell each other 128 numbers, in turns."""
    name = dist.group.WORLD.group_name
    operations = torch.ops._c10d_functional
    numbers = torch.ones(128)
    ways: dict[str, Callable[[], Tensor]] = {
        "gathering 128 float32": lambda: operations.all_gather_into_tensor(numbers, processes, name),
        "gathering 128 float64": lambda: operations.all_gather_into_tensor(numbers.double(), processes, name),
        "a sum of 128 float32": lambda: operations.all_reduce(numbers, "sum", name),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(12):
        for way, start in ways.items():
            dist.barrier()
            began = time.perf_counter()
            for _ in range(20):
                operations.wait_tensor(start())
            taken[way].append((time.perf_counter() - began) / 20)
    if rank == 0:
        said = (f"{way} {statistics.median(seconds) * 1e3:.2f} ms" for way, seconds in taken.items())
        sys.stdout.write(f"{processes} processes: {', '.join(said)}\n")


def process(rank: int, processes: int, place: str, rounds: int) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{place}/store", processes), rank=rank, world_size=processes)
    exchanges(rank, processes)
    for name in NAMES:
        pairs = {sync: network(name, sync) for sync in (False, True)}
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(rounds + 2):
            for sync, (model, x) in pairs.items():
                dist.barrier()
                began = time.perf_counter()
                for _ in range(5):
                    model(x).sum().backward()
                dist.barrier()
                if turn >= 2:
                    seconds[sync].append((time.perf_counter() - began) / 5)
        model, x = pairs[True]
        with Bytes(processes) as counted:
            output = model(x).sum()
        forward = counted.sent
        with counted:
            output.backward()
        channels = sum(layer.num_features for layer in model.modules() if isinstance(layer, (BatchNorm1d, BatchNorm2d)))
        least = 2 * (2 * (processes - 1) / processes * 2 * channels * 4)
        if rank == 0:
            without, with_sync = (statistics.median(seconds[sync]) * 1e3 for sync in (False, True))
            sys.stdout.write(
                f"{name:20} {processes} processes: {without:7.2f} ms without, {with_sync:7.2f} ms with; "
                f"{with_sync - without:+6.2f} ms; {forward / 1e3:6.1f} + {(counted.sent - forward) / 1e3:5.1f} kB sent, "
                f"{counted.sent / least:.1f} times the least\n"
            )
            sys.stdout.flush()
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    sys.stdout.write(f"{os.cpu_count()} processors, torch {torch.__version__}\n")
    sys.stdout.flush()
    for processes in options.processes:
        with tempfile.TemporaryDirectory() as place:
            Path(place).mkdir(exist_ok=True)
            multiprocessing.spawn(process, (processes, place, options.rounds), processes)


if __name__ == "__main__":
    main()
