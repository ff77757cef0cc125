"""Networks that draw nothing while they train, for processes that train one run together: ``ddp_networks.py:networks``."""

from __future__ import annotations

import os
import signal
from collections import OrderedDict
from pathlib import Path

from torch import Tensor, nn


def plain() -> nn.Module:
    return nn.Sequential(OrderedDict(fc1=nn.Linear(6, 8), act=nn.ReLU(), out=nn.Linear(8, 3)))


def with_batch_norm() -> nn.Module:
    layers = OrderedDict(fc1=nn.Linear(6, 8, bias=False), norm=nn.BatchNorm1d(8), act=nn.ReLU(), out=nn.Linear(8, 3))
    return nn.Sequential(layers)


def networks():
    return {"no_batch_norm": plain, "batch_norm": with_batch_norm}


class _Dies(nn.Module):
    """Ends process 1 in the eighth step of its training, once."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.steps = with_batch_norm(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        if self.training and self.steps == 8 and os.environ.get("RANK") == "1" and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner(x)


def mortal():
    return {"no_batch_norm": plain, "batch_norm": _Dies}
