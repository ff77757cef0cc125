"""ReLU and the max pooling after it: the figures of the modules one after the other, and what is watched runs in turn."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import bnkit
from bnkit.experiments.networks.layer_sequence import Sequential
from bnkit.experiments.networks.max_pool import MaxPool2d


def _special_values() -> Tensor:
    """Windows with every combination of NaN, infinities, zeros, subnormals, and ties."""
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-45, -1.0, 2.0])
    windows = torch.cartesian_prod(*[values] * 4).view(2, 8, 16, 16, 2, 2)
    return windows.transpose(3, 4).reshape(2, 8, 32, 32)


_INPUTS = {
    "special values": _special_values(),
    "odd sides": torch.randn(3, 7, 7, 9),
    "many ties": torch.randint(-2, 3, (11, 13, 6, 8)).float(),
    "bfloat16": torch.randn(2, 3, 6, 6).bfloat16(),
    "float64": torch.randn(4, 64, 4, 4).double(),
    "channels last": torch.randn(2, 3, 6, 6).contiguous(memory_format=torch.channels_last),
    "no batch": torch.randn(3, 6, 6),
}


@pytest.mark.parametrize("x", _INPUTS.values(), ids=_INPUTS)
@pytest.mark.parametrize("enabled", [True, False], ids=["gradients", "no gradients"])
def test_figures_are_those_of_torch_nn(x, enabled):
    ours, theirs = Sequential(nn.ReLU(), MaxPool2d(2)), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    with torch.set_grad_enabled(enabled):
        results, inputs = [], []
        for model in (ours, theirs):
            inputs.append(x.clone().requires_grad_(enabled))
            results.append(model(inputs[-1]))
    torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)
    if enabled:
        upstream = torch.arange(results[0].numel(), dtype=x.dtype).view_as(results[0]) + 1
        gradients = [
            torch.autograd.grad(result, seen, upstream)[0] for result, seen in zip(results, inputs, strict=True)
        ]
        assert torch.equal(*gradients)


class _CountsReLU(TorchFunctionMode):
    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self._sizes = sizes

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is nn.functional.relu:
            self._sizes.append(args[0].numel())
        return func(*args, **(kwargs or {}))


def _hook(register: str) -> Callable[[nn.Sequential, list[int]], object]:
    return lambda model, sizes: getattr(model[0], register)(lambda *_: sizes.append(64))


_WATCHERS: dict[str, Callable[[nn.Sequential, list[int]], object]] = {
    **{
        name: _hook(name)
        for name in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook")
    },
    "a hook of the pooling": lambda model, sizes: model[1].register_forward_pre_hook(
        lambda _, inputs: sizes.append(inputs[0].numel())
    ),
    "a hook of all modules": lambda model, sizes: nn.modules.module.register_module_forward_hook(
        lambda module, _, output: sizes.append(output.numel()) if module is model[0] else None
    ),
    "a function mode": lambda model, sizes: _CountsReLU(sizes),
}


@pytest.mark.parametrize("watch", _WATCHERS.values(), ids=_WATCHERS)
def test_who_watches_sees_relu_on_all_values(watch):
    model, sizes = Sequential(nn.ReLU(), MaxPool2d(2)), []
    watcher = watch(model, sizes)
    with watcher if isinstance(watcher, TorchFunctionMode) else nullcontext():
        model(torch.randn(2, 2, 4, 4, requires_grad=True)).sum().backward()
    if hasattr(watcher, "remove"):
        watcher.remove()
    assert sizes == [64]


@pytest.mark.parametrize(
    "layers",
    [(nn.Sigmoid(), MaxPool2d(2)), (nn.ReLU(), MaxPool2d(3)), (nn.ReLU(), nn.MaxPool2d(2)), (MaxPool2d(2), nn.ReLU())],
)
def test_other_modules_run_in_turn(layers):
    x = torch.randn(2, 2, 6, 6, requires_grad=True)
    assert torch.equal(Sequential(*layers)(x), nn.Sequential(*layers)(x))


def test_relu_in_place_still_changes_its_input():
    x = torch.randn(2, 2, 4, 4)
    Sequential(nn.ReLU(inplace=True), MaxPool2d(2))(x)
    assert (x >= 0).all()


def test_it_can_be_differentiated_twice_and_keeps_less_for_the_backward_pass():
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    model = Sequential(nn.ReLU(), MaxPool2d(2))
    assert torch.autograd.gradcheck(model, x)
    assert torch.autograd.gradgradcheck(model, x)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: kept.append(saved.numel()) or saved, lambda saved: saved
    ):
        model(x)
    assert sum(kept) == 2 * x.numel() // 4


def test_it_looks_like_the_class_of_torch_and_is_sliced_like_it():
    model = Sequential(nn.ReLU(), MaxPool2d(2), nn.Flatten())
    assert repr(model) == repr(nn.Sequential(nn.ReLU(), MaxPool2d(2), nn.Flatten()))
    assert type(model[:2]) is Sequential
    assert torch.fx.symbolic_trace(model)(torch.ones(1, 1, 2, 2)).item() == 1


def test_batch_norm_in_it_is_fused_with_the_activation_after_it():
    layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), MaxPool2d(2)
    _, changes = bnkit.convert(Sequential(*layers), example_inputs=torch.randn(4, 1, 8, 8))
    assert [change.detail for change in changes] == [
        "torch.nn.BatchNorm2d to bnkit.nn.BatchNorm2d; fused with relu (2)"
    ]
