"""The activations that layers take by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnkit.errors import SettingsError
from bnkit.message_parts import unknown_name

Activation = Literal["relu", "leaky_relu", "relu6", "sigmoid", "silu", "tanh", "gelu"]

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "relu6": functional.relu6,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
}

# The equivalent modules, with PyTorch's default arguments.
MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}

LEAKY_SLOPE = 0.01  # of torch.nn.LeakyReLU

# Only those whose gradient PyTorch computes from the result; the others need their input for it.
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "sigmoid": torch.sigmoid_,
    "tanh": torch.tanh_,
}


# Activations whose slope is cheap to compute from the result, and expensive from the argument.
SLOPE_BY_RESULT = frozenset({"sigmoid", "tanh"})


def check_activation(name: Any) -> str:
    """``name``, if it is the name of a known activation; otherwise a SettingsError that lists them."""
    if not isinstance(name, str) or name not in FUNCTIONS:
        raise SettingsError(unknown_name("unknown activation", name, get_args(Activation), ", or an nn.Module"))
    return name


def activate(values: Tensor, activation: str | None) -> Tensor:
    """``activation(values)``; ``values`` itself if ``activation`` is None."""
    return values if activation is None else FUNCTIONS[activation](values)


def activate_own(values: Tensor, activation: str | None) -> Tensor:
    """``activation(values)``, in place if autograd allows it: for values without other references."""
    return values if activation is None else IN_PLACE.get(activation, FUNCTIONS[activation])(values)
