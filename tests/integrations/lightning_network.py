"""A LightningModule in a user's file."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import nn


class Options:
    """A hyper-parameter that only code can make."""


class Net(pl.LightningModule):
    def __init__(self, width, options=None):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, x):
        return self.net(x)


def make():
    return Net(5)
