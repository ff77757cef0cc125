"""Small networks for tests of memory, one training step, and how many bytes are held for its backward pass."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import bnkit

# Who normalises: PyTorch's module and a module or a function behind it, or ours with each of its kernels.
NORMS = ("torch", "functional", "auto", "aten", "numba", "reference")


class FunctionalRelu(nn.Module):
    """ReLU that no module tells of."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x)


def normalised(norm: str, channels: int, activation: bool = True) -> list[nn.Module]:
    """Batch normalization, and ReLU if ``activation``."""
    if norm in {"torch", "functional"}:
        relu = nn.ReLU(inplace=True) if norm == "torch" else FunctionalRelu()
        return [nn.BatchNorm2d(channels), *([relu] if activation else [])]
    return [bnkit.nn.BatchNorm2d(channels, activation="relu" if activation else None, kernel=norm)]


def vgg(norm: str, widths: tuple[int, ...] = (8, 8, 0, 16, 16, 0)) -> nn.Sequential:
    """Convolutions of ``widths``, max-pooling where it is 0, and a linear layer."""
    layers: list[nn.Module] = []
    before = 3
    for width in widths:
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), *normalised(norm, width)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


class Block(nn.Module):
    """The residual block of ResNet-18."""

    def __init__(self, norm: str, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(before, width, 3, stride, 1, bias=False), *normalised(norm, width))
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.adds_itself = norm not in {"torch", "functional"}
        self.norm = normalised(norm, width, activation=self.adds_itself)[0]
        self.in_place = norm == "torch"
        self.shortcut = nn.Sequential()
        if stride != 1 or before != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), *normalised(norm, width, False)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual, out = self.shortcut(x), self.second(self.first(x))
        if self.adds_itself:
            return self.norm(out, residual)
        if not self.in_place:
            return functional.relu(self.norm(out) + residual)
        out = self.norm(out)
        out += residual
        return functional.relu(out, inplace=True)


def resnet(norm: str, widths: tuple[int, ...] = (8, 16), blocks: int = 3) -> nn.Sequential:
    """A stem, ``blocks`` for each of the ``widths``, and a linear layer."""
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), *normalised(norm, widths[0])]
    before = widths[0]
    for stage, width in enumerate(widths):
        for place in range(blocks):
            layers.append(Block(norm, before, width, 2 if stage > 0 and place == 0 else 1))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


NETWORKS: dict[str, Callable[[str], nn.Sequential]] = {"vgg": vgg, "resnet": resnet}


def batch(size: int = 4, side: int = 16, **kind: Any) -> tuple[Tensor, Tensor]:
    """Images and targets."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, side, side, generator=generator).to(**kind), torch.arange(size) % 10


class Held(TorchDispatchMode):
    """Counts the bytes of what operations allocated and is still alive."""

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                storage = tensor.untyped_storage()
                self._found[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return result

    def bytes(self) -> int:
        """How many bytes are alive now."""
        return sum(size for storage, size in self._found.values() if not storage.expired())


def step(model: nn.Module, x: Tensor, targets: Tensor, *, again: bool) -> dict[str, Tensor]:
    """A step of training: the output, the loss, all gradients and buffers; with ``recompute`` if ``again``."""
    model = copy.deepcopy(model)
    x = x.clone().requires_grad_()
    with bnkit.recompute(model) if again else contextlib.nullcontext():
        output = model(x)
        loss = functional.cross_entropy(output.float(), targets)
    loss.backward()
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    return {"output": output, "loss": loss, "input": x.grad, **gradients, **dict(model.named_buffers())}


def held(model: nn.Module, x: Tensor, targets: Tensor, *, again: bool) -> int:
    """How many bytes are held after a forward pass."""
    model = copy.deepcopy(model)
    with Held() as counted, bnkit.recompute(model) if again else contextlib.nullcontext():
        loss = functional.cross_entropy(model(x), targets)
    assert loss.requires_grad
    return counted.bytes()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """All values equal, bit by bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def gradients(layers: nn.Module, loss: Tensor) -> tuple[Tensor, ...]:
    """Of all parameters."""
    return torch.autograd.grad(loss, list(layers.parameters()))
