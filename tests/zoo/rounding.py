"""How the output of a changed network is judged, when the network itself amplifies rounding."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.model.inspect.example import largest_difference, tensors_in


def outputs(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """The floating tensors that ``model`` returns in evaluation mode."""
    with torch.no_grad():
        return floating(model.eval()(inputs.clone()))


def floating(output: Any) -> list[Tensor]:
    return [tensor for _, tensor in tensors_in(output) if tensor.is_floating_point()]


def exact(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """What ``model`` would return without rounding: a copy of it in float64."""
    return outputs(copy.deepcopy(model).double(), inputs.double())


def assert_equal_up_to_rounding(ours: list[Tensor], theirs: list[Tensor], truth: list[Tensor]) -> None:
    """Our error against float64 is at most four times that of the network as it was, plus eight rounding steps.

    A network of a hundred layers makes of one rounding error what it likes: a fixed tolerance would be too wide for one
    and too narrow for the next.
    """
    error, allowed = largest_difference(truth, ours), largest_difference(truth, theirs)
    budget = 4 * allowed + 8 * torch.finfo(torch.float32).eps
    assert error <= budget, f"off by {error:.2e} of the largest magnitude; the network as it was by {allowed:.2e}"


def norms(model: nn.Module) -> list[str]:
    """The names of the batch norms that are there."""
    return [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]


def gradients(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Of one step of training, of all parameters that take part in it."""
    loss = torch.stack([tensor.square().mean() for tensor in floating(model.train()(inputs.clone()))]).sum()
    loss.backward()
    return {name: found.grad for name, found in model.named_parameters() if found.grad is not None}
