"""Networks that do what networks should not do, in the third step of their training."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn


class Trouble(nn.Module):
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


def chatters() -> None:
    for _ in range(64):
        os.write(1, b"x" * (1 << 20))
        sys.stderr.write("and more\n")


def seeds_everything() -> None:
    torch.manual_seed(1)


def does(deed, *arguments):
    """A factory of a network with that deed."""
    return partial(Trouble, partial(deed, *arguments))


def nothing() -> None:
    pass
