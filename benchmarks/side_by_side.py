"""What k processes side by side get done on this machine, of k times what one alone does: the most that any workers can make.

    python -m benchmarks.side_by_side --processes 2

Each load does one kind of work on one thread, in processes that know nothing of each other. Where they differ says what two
processors share:

- one chain: every instruction waits for the one before, so that a core is mostly idle. Two threads of one core do twice as much;
  only where a hypervisor gives processors less than their time do they not.
- eight chains: the units of a core are busy. Two threads of one core share them: 0.5 of twice; two cores: 1.
- level-2 cache, memory: sums over 512 KB and over 64 MB.
- small products: 64 × 64 float32, all of it in the level-1 cache; the vector units are busy.
- convolution steps: forward and backward of the course's CNN, batch 256, as a worker trains it.

Alone and side by side in turns, medians.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SECONDS = 0.3
_PATIENCE = 120.0


def loads() -> dict[str, Callable[[int], object]]:  # noqa: C901 - one short function for each load
    """By name, what does so many units of one kind of work. Compiled, and each has run once."""
    import numpy as np
    import torch
    from numba import njit
    from torch import nn

    from bnkit.memory import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()

    @njit
    def mixed(x: Any) -> Any:
        x ^= x << np.uint64(13)
        x ^= x >> np.uint64(7)
        return x ^ (x << np.uint64(17))

    @njit
    def one_chain(units: int) -> Any:
        a = np.uint64(1)
        for _ in range(units * 100_000):
            a = mixed(a)
        return a

    @njit
    def eight_chains(units: int) -> Any:
        a, b, c, d = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
        e, f, g, h = np.uint64(5), np.uint64(6), np.uint64(7), np.uint64(8)
        for _ in range(units * 30_000):
            a, b, c, d = mixed(a), mixed(b), mixed(c), mixed(d)
            e, f, g, h = mixed(e), mixed(f), mixed(g), mixed(h)
        return a ^ b ^ c ^ d ^ e ^ f ^ g ^ h

    @njit(fastmath=True)
    def total(values: Any, times: int) -> float:
        found = 0.0
        for _ in range(times):
            one = np.float32(0)
            for value in values:
                one += value
            found += one
        return found

    in_cache, in_memory = np.ones(1 << 17, np.float32), np.ones(1 << 24, np.float32)
    matrix, product = torch.randn(64, 64), torch.empty(64, 64)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 12, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(192, 120), nn.ReLU(), nn.Linear(120, 10),
    )  # fmt: skip
    images = torch.randn(256, 1, 28, 28)

    def products(units: int) -> None:
        for _ in range(units * 20):
            torch.mm(matrix, matrix, out=product)

    def steps(units: int) -> None:
        for _ in range(units):
            network.zero_grad()
            network(images).sum().backward()

    found = {
        "one chain": one_chain,
        "eight chains": eight_chains,
        "level-2 cache": lambda units: total(in_cache, units * 10),
        "memory": lambda units: total(in_memory, units),
        "small products": products,
        "convolution steps": steps,
    }
    for load in found.values():
        load(1)
    return found


def process() -> None:
    """Do what is said on standard input, a load and its units a line, and print when it began and ended. Until there is no more."""
    known = loads()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        name, units = json.loads(line)
        began = time.perf_counter()
        known[name](units)
        sys.stdout.write(f"{json.dumps([began, time.perf_counter()])}\n")
        sys.stdout.flush()


class Neighbours:
    """Processes that do what they are told, alone or side by side."""

    def __init__(self, running: list[subprocess.Popen[str]]) -> None:
        self._running = running
        for one in running:
            _line(one)

    def seconds(self, name: str, units: int, count: int) -> float:
        """That ``count`` of them take for so many units each, all started at once: until the last one has ended.

        The clock is the same in all of them (Linux).
        """
        order = f"{json.dumps([name, units])}\n"
        for one in self._running[:count]:
            assert one.stdin is not None
            one.stdin.write(order)
            one.stdin.flush()
        moments = [json.loads(_line(one)) for one in self._running[:count]]
        return float(max(ended for _, ended in moments) - min(began for began, _ in moments))

    def share(self, name: str, units: int, count: int) -> float:
        """What ``count`` of them side by side do, of ``count`` times one alone: measured before and after."""
        before, beside, after = (self.seconds(name, units, processes) for processes in (1, count, 1))
        return (before + after) / 2 / beside

    def units(self, name: str) -> int:
        """How many take one of them ``SECONDS``, alone."""
        units = 1
        while (taken := self.seconds(name, units, 1)) < SECONDS / 4:
            units *= 4
        return max(1, round(units * SECONDS / taken))


def _line(one: subprocess.Popen[str]) -> str:
    assert one.stdout is not None
    if not select.select([one.stdout], [], [], _PATIENCE)[0]:
        raise TimeoutError(f"process {one.pid} said nothing for {_PATIENCE:g} seconds")
    return one.stdout.readline()


@contextmanager
def neighbours(count: int) -> Iterator[Neighbours]:
    """So many processes; they end behind it."""
    command = [sys.executable, "-m", "benchmarks.side_by_side", "--obey"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    try:
        yield Neighbours(running)
    finally:
        for one in running:
            one.kill()
            one.communicate()


NAMES = ("one chain", "eight chains", "level-2 cache", "memory", "small products", "convolution steps")


def shares(count: int, rounds: int) -> dict[str, list[float]]:
    """By load and round, what ``count`` processes side by side do, of ``count`` times one alone."""
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    with neighbours(count) as those:
        units = {name: those.units(name) for name in NAMES}
        for _ in range(rounds):
            for name in NAMES:
                found[name].append(those.share(name, units[name], count))
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--obey", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.obey:
        process()
        return
    for name, found in shares(options.processes, options.rounds).items():
        sys.stdout.write(
            f"{name:18} {statistics.median(found):.2f} of {options.processes} times one alone "
            f"({min(found):.2f} to {max(found):.2f})\n"
        )


if __name__ == "__main__":
    main()
