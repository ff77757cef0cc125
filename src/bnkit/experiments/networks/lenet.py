"""The textbook's LeNet with batch normalization before each activation."""

from __future__ import annotations

from torch import nn

from bnkit.experiments.networks.blocks import (
    dropout,
    image_shape,
    norm_and_activation,
    sequence,
    size_after_two_convolutions,
)
from bnkit.experiments.networks.max_pool import MaxPool2d
from bnkit.experiments.networks.normalization_kinds import Arm
from bnkit.experiments.run_settings import Settings


def lenet(arm: Arm, input_shape: tuple[int, ...], out_features: int, settings: Settings) -> nn.Module:
    """Two 5×5 convolutions (6 and 16 channels) and three linear layers (120, 84, ``out_features``), sigmoid.

    Batch norm stands after each convolution and each hidden linear layer, before the activation (or after it, by
    ``order``). Pooling takes the maximum: LeCun's mean ends at a training loss of 0.27, the textbook prints 0.25.
    """
    channels, height, width = image_shape("lenet", input_shape, smallest=16)
    positions = size_after_two_convolutions(height) * size_after_two_convolutions(width)
    return sequence(
        conv1=nn.Conv2d(channels, 6, 5),
        **norm_and_activation(settings, "sigmoid", 1, arm.norm2d, 6),
        pool1=MaxPool2d(2, stride=2),
        conv2=nn.Conv2d(6, 16, 5),
        **norm_and_activation(settings, "sigmoid", 2, arm.norm2d, 16),
        pool2=MaxPool2d(2, stride=2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(16 * positions, 120),
        **norm_and_activation(settings, "sigmoid", 3, arm.norm1d, 120),
        dropout1=dropout(settings.dropout),
        fc2=nn.Linear(120, 84),
        **norm_and_activation(settings, "sigmoid", 4, arm.norm1d, 84),
        dropout2=dropout(settings.dropout),
        out=nn.Linear(84, out_features),
    )
