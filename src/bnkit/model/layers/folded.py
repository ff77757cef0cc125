"""Modules that replace a batch norm that was folded or removed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScaleAndShift(nn.Module):
    """Replaces a batch norm that could not be folded into a layer: ``activation(weight * x + bias + residual)``.

    Attributes:
        weight, bias: Parameters, (C,).
        activation: A module; ``nn.Identity`` for none.
        features_last: Whether the channels are the last dimension, and not the second.
    """

    def __init__(self, weight: Tensor, bias: Tensor, activation: nn.Module, *, features_last: bool = False) -> None:
        super().__init__()
        self.weight, self.bias, self.activation = nn.Parameter(weight), nn.Parameter(bias), activation
        self.features_last = features_last

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """A tensor of the input's shape."""
        shape = (-1,) if self.features_last else (1, -1, *(1,) * (input.dim() - 2))
        output = torch.addcmul(self.bias.view(shape), input, self.weight.view(shape))
        result: Tensor = self.activation(output if residual is None else output + residual)
        return result


class ResidualActivation(nn.Module):
    """Replaces a batch norm that was folded into its layer: ``activation(x + residual)``.

    Attributes:
        activation: A module; ``nn.Identity`` for none.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """A tensor of the input's shape."""
        result: Tensor = self.activation(input if residual is None else input + residual)
        return result


class ClonedActivation(nn.Module):
    """Replaces a batch norm whose input is also used elsewhere: ``activation`` of a copy of the input.

    The batch norm returned a new tensor, which the following activation may change in place.

    Attributes:
        activation: A module; ``nn.Identity`` for none.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:
        """A tensor of the input's shape."""
        result: Tensor = self.activation(input.clone())
        return result


# The names of these classes in models that were pickled as a whole by earlier versions.
Rest, Apart = ResidualActivation, ClonedActivation
