"""The activations in PyTorch's autograd graph, and the functions that recompute them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Activation(NamedTuple):
    """An activation.

    Attributes:
        plain: The function that returns a new tensor.
        in_place: The in-place function; None if PyTorch has none.
        arguments: The names of the other arguments that the node keeps.
    """

    plain: Callable[..., Tensor]
    in_place: Callable[..., Tensor] | None
    arguments: tuple[str, ...] = ()


def _gelu(x: Tensor, approximate: str) -> Tensor:
    return functional.gelu(x, approximate=approximate)


_nn: Any = torch._C._nn
_LEAKY = Activation(_nn.leaky_relu, _nn.leaky_relu_, ("negative_slope",))
_ELU = Activation(_nn.elu, _nn.elu_, ("alpha", "scale", "input_scale"))

# By the class name of the node; "Backward1" is the node of the in-place function.
ACTIVATIONS: dict[str, Activation] = {
    "ReluBackward0": Activation(torch.relu, torch.relu_),
    "SigmoidBackward0": Activation(torch.sigmoid, torch.sigmoid_),
    "TanhBackward0": Activation(torch.tanh, torch.tanh_),
    "HardtanhBackward0": Activation(_nn.hardtanh, _nn.hardtanh_, ("min_val", "max_val")),  # relu6 too
    "LeakyReluBackward0": _LEAKY,
    "LeakyReluBackward1": _LEAKY,
    "EluBackward0": _ELU,  # selu too
    "EluBackward1": _ELU,
    "CeluBackward0": Activation(torch.celu, torch.celu_, ("alpha",)),
    "SiluBackward0": Activation(_nn.silu, _nn.silu_),
    "MishBackward0": Activation(_nn.mish, _nn.mish_),
    "HardswishBackward0": Activation(_nn.hardswish, _nn.hardswish_),
    "HardsigmoidBackward0": Activation(_nn.hardsigmoid, _nn.hardsigmoid_),
    "GeluBackward0": Activation(_gelu, None, ("approximate",)),
    "SoftplusBackward0": Activation(_nn.softplus, None, ("beta", "threshold")),
}
