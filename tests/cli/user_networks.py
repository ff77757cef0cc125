"""Networks of a user, as the command line names them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Normalised(nn.Module):
    """A convolution with batch norm, trained a little: its statistics and γ are not those of the beginning."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 3 * 3, 3)
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)
            self.norm.weight.uniform_(0.5, 2)

    def forward(self, x):
        return self.head(functional.max_pool2d(functional.relu(self.norm(self.conv(x))), 2).flatten(1))


def plain():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 3 * 3, 3))


class Tokens(nn.Module):
    """Two inputs, one of them integers."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 6)
        self.fc = nn.Linear(6, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, ids, scale):
        return self.norm(self.fc(self.table(ids).mean(1))) * scale


def data():
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(65, 1, 8, 8, generator=generator) + 1, torch.arange(65) % 3
    return (inputs, targets), (inputs[:12], targets[:12])


def layer_norm_alone():
    return nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 3))


def raises():
    raise OSError("no such weights")


def ends():
    raise SystemExit(7)


def number():
    return 3


EXISTING = plain()
SIZE = 3


def biased():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 3 * 3, 3)
    )
    nn.init.normal_(model[0].bias)
    return model
