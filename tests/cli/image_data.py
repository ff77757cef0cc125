"""Pictures of three classes, as bytes, in every form that data come in; and networks that tell them apart."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

Pair = tuple[torch.Tensor, torch.Tensor]


@cache
def images() -> tuple[Pair, Pair]:
    """Training and test part: (N, 1, 4, 4) bytes, and class numbers. A class is bright in rows of its own."""
    draw = torch.Generator().manual_seed(0)
    parts = []
    for count in (240, 120):
        targets = torch.arange(count) % 3
        inputs = torch.randint(0, 120, (count, 1, 4, 4), generator=draw)
        inputs[torch.arange(count), 0, targets + 1] += 90
        parts.append((inputs.to(torch.uint8), targets))
    return parts[0], parts[1]


def scaled():
    """From 0 to 1, as the networks were trained."""
    return tuple((inputs.float() / 255, targets) for inputs, targets in images())


def as_bytes():
    return images()


def as_datasets():
    return tuple(TensorDataset(inputs.float() / 255, targets) for inputs, targets in images())


def as_datasets_of_bytes():
    return tuple(TensorDataset(*pair) for pair in images())


def in_noise():
    """A training part that is not what the network was trained on: noise, ten times as wide."""
    train, test = scaled()
    return (10 * torch.randn(train[0].shape, generator=torch.Generator().manual_seed(0)), train[1]), test


def regression():
    """What is bright is to be predicted."""
    return tuple((inputs, inputs[:, 0, :, 0]) for inputs, _ in scaled())


def without_labels_that_fit():
    """Class numbers that the network has no outputs for."""
    return tuple((inputs, targets + 100) for inputs, targets in scaled())


def write_npz(path: Path) -> None:
    (x_train, y_train), (x_test, y_test) = images()
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    np.savez(path, **{name: tensor.numpy() for name, tensor in arrays.items()})


def write_folder(path: Path) -> None:
    for part, (inputs, targets) in zip(("train", "test"), images(), strict=True):
        for number, (picture, target) in enumerate(zip(inputs, targets.tolist(), strict=True)):
            (path / part / str(target)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture[0].numpy()).save(path / part / str(target) / f"{number:03}.png")


def doubled(inputs):
    """In place of a preparation."""
    return inputs.float() / 255 * 2


def one_number(inputs):
    return 3


def shorter(inputs):
    return inputs[:1]


def _network(*layers):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), *layers, nn.ReLU(), nn.Linear(8, 3))


def _trained(*layers):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _network(*layers)
        for layer in (model[1], model[-1]):
            layer.reset_parameters()
        inputs, targets = scaled()[0]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for _ in range(8):
            for rows in torch.randperm(len(inputs)).split(24):
                optimizer.zero_grad()
                functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
                optimizer.step()
    return model


def trained():
    """A network that is nearly always right."""
    return _trained(nn.BatchNorm1d(8))


def trained_without():
    return _trained()


def untrained():
    return _network(nn.BatchNorm1d(8))


def untrained_without():
    return _network()


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8, bias=False), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))


def predicting():
    """The sum of each row is what is bright in it: right as it is."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4, bias=False), nn.BatchNorm1d(4))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(16)[::4])
        model[2].running_mean.zero_()
        model[2].running_var.fill_(1 - model[2].eps)
    return model


class DividingBytes(nn.Module):
    """A network that takes bytes and divides them itself."""

    def __init__(self):
        super().__init__()
        self.inside = trained()

    def forward(self, x):
        return self.inside(x / 255 if x.dtype == torch.uint8 else x)


def with_one_never_updated():
    """Right as it is: its second batch norm has the statistics of the beginning, and a layer before it that fits them."""
    first = trained()
    model = nn.Sequential(*first[:4], nn.BatchNorm1d(8), first[4])
    model[4].momentum = 0.1
    model[4].num_batches_tracked.zero_()
    return model


def tokens():
    draw = torch.Generator().manual_seed(0)
    parts = [(torch.randint(5, (count, 6), generator=draw), torch.arange(count) % 2) for count in (64, 32)]
    return parts[0], parts[1]


class OfTokens(nn.Module):
    """The mean of embeddings."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(self.norm(self.table(ids).mean(1)))
