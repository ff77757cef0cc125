"""The activations that PyTorch's graph names, and what computes them again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Activation(NamedTuple):
    """An activation.

    Attributes:
        plain: Gives the result as a new tensor.
        in_place: Writes it over the argument; None where PyTorch cannot.
        arguments: The names of what the node keeps of its other arguments.
    """

    plain: Callable[..., Tensor]
    in_place: Callable[..., Tensor] | None
    arguments: tuple[str, ...] = ()


def _gelu(x: Tensor, approximate: str) -> Tensor:
    return functional.gelu(x, approximate=approximate)


_nn: Any = torch._C._nn
_LEAKY = Activation(_nn.leaky_relu, _nn.leaky_relu_, ("negative_slope",))
_ELU = Activation(_nn.elu, _nn.elu_, ("alpha", "scale", "input_scale"))

# By the class of the node; the second of two is that of the function in place.
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
