"""Networks that do what networks should not do, in the third step of their training."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn


class FaultyNetwork(nn.Module):
    """A linear layer; ``deed`` happens in the third step that it trains."""

    def __init__(self, deed) -> None:
        super().__init__()
        self.inner, self.deed, self.steps = nn.Linear(6, 3), deed, 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        if self.training and self.steps == 3:
            self.deed()
        return self.inner(x)


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_once(flag: str) -> None:
    if not Path(flag).exists():
        Path(flag).touch()
        dies()


def crashes() -> None:
    ctypes.string_at(0)


def leaves() -> None:
    sys.exit("enough")


def vanishes() -> None:
    os._exit(7)


def hangs() -> None:
    while True:
        time.sleep(3600)


def leaks() -> None:
    """Holds ever more memory, until the system refuses; for a test, a quarter of a gigabyte more."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), before[1]))
    held = []
    try:
        while True:
            held.append(torch.ones(8 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def chatters(megabytes: int = 64) -> None:
    for _ in range(megabytes):
        os.write(1, b"x" * (1 << 20))
        sys.stderr.write("and more\n")


def seeds_everything() -> None:
    torch.manual_seed(1)


def faulty(deed, *arguments):
    """A factory of a network with that deed."""
    return partial(FaultyNetwork, partial(deed, *arguments))


def nothing() -> None:
    pass
