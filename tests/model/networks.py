"""Networks that are hard to read: what the verbs are tried on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


class Functional(nn.Module):
    """Activations and pooling as functions, a loop, and an input-dependent branch that is taken."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 6, 3)
        self.fc1 = nn.Linear(6 * 3 * 3, 8)
        self.fc2 = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu_(self.conv1(x))
        x = functional.gelu(functional.max_pool2d(self.conv2(x), 2))
        if x.shape[0] > 0:
            x = self.fc1(x.flatten(1)).clamp(min=0)
        return self.fc2(x)


class Residual(nn.Module):
    """Sums, a shared activation, a convolution that runs twice, an output layer behind a sigmoid."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(3, 4, 3, padding=1)
        self.body = nn.Conv1d(4, 4, 3, padding=1, bias=False)
        self.last = nn.Conv1d(4, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        for _ in range(2):
            x = self.relu(self.body(x) + x)
        x = self.relu(torch.cat([self.last(x), x], 1))[:, :4]
        return self.head(x.mean(2)).sigmoid()


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.reduce = nn.Conv2d(8, 2, 1)
        self.expand = nn.Conv2d(2, 8, 1)
        self.swish = nn.Conv2d(8, 8, 1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        gate = self.expand(functional.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()
        x = self.swish(x * gate)
        return self.out(x * x.sigmoid())


class Attention(nn.Module):
    """Attention written out, PyTorch's transformer block, and a perceptron of one's own: only that is for batch norm."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)
        self.wide = nn.Linear(8, 12)
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores = (self.query(x) @ self.key(x).transpose(1, 2)).softmax(2)
        x = self.block(scores @ self.value(x))
        return self.head(functional.gelu(self.wide(x))[:, 0])


@dataclass
class Answers:
    scores: Tensor
    more: dict[str, Tensor]


class Structured(nn.Module):
    """Keywords in, a dataclass out; a linear layer on (N, L, C); a branch that never runs."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Linear(5, 7)
        self.unused = nn.Conv2d(1, 1, 1)
        self.scores = nn.Linear(7, 2)

    def forward(self, *, sequence: Tensor, flag: bool = False) -> Answers:
        hidden = self.tokens(sequence).tanh()
        if flag:
            hidden = self.unused(hidden)
        return Answers(self.scores(hidden), {"hidden": hidden})


class PlainCnn(nn.Module):
    """Convolutions of all kinds, each with a module for its activation."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.act1 = activation()
        self.pool = nn.MaxPool2d(2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.act2 = activation()
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.act3 = activation()
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2, groups=3)
        self.act4 = activation()
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(6 * 4 * 4, 10)
        self.act5 = activation()
        self.out = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act1(self.conv(x)))
        x = self.act3(self.grouped(self.act2(self.depthwise(x))))
        return self.out(self.act5(self.fc(self.flatten(self.act4(self.up(x))))))


def example(model: nn.Module) -> object:
    """Something that ``model`` can be called with, the same each time."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        Functional: (2, 1, 8, 8),
        Residual: (4, 3, 6),
        SqueezeExcite: (2, 3, 5, 5),
        Attention: (2, 3, 8),
        Structured: (2, 3, 5),
        PlainCnn: (3, 3, 8, 8),
    }
    inputs = torch.randn(shapes[type(model)], generator=generator)
    return {"sequence": inputs} if isinstance(model, Structured) else inputs


ALL = (Functional, Residual, SqueezeExcite, Attention, Structured, PlainCnn)


def built(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """A new network of that kind, its weights those of ``seed``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind()
