"""The two small CNNs of the course's page on batch norm in a testing framework: network1 and network2."""

from __future__ import annotations

from torch import nn

from bnkit.experiments.networks.blocks import (
    dropout,
    image_shape,
    make_activation,
    norm,
    sequence,
    size_after_two_convolutions,
)
from bnkit.experiments.networks.max_pool import MaxPool2d
from bnkit.experiments.networks.normalization_kinds import Arm
from bnkit.experiments.run_settings import Settings


def two_cnn(arm: Arm, input_shape: tuple[int, ...], out_features: int, settings: Settings) -> nn.Module:
    """Two 5×5 convolutions (6 and 12 channels) and three linear layers (120, 60, ``out_features``), ReLU.

    As in the course, batch norm stands after the first pooling and after the first linear layer's activation, and the
    layers in front keep their bias.
    """
    channels, height, width = image_shape("two-cnn", input_shape, smallest=16)
    positions = size_after_two_convolutions(height) * size_after_two_convolutions(width)
    return sequence(
        conv1=nn.Conv2d(channels, 6, 5),
        activation1=make_activation(settings.activation, "relu"),
        pool1=MaxPool2d(2),
        norm1=norm(arm.norm2d, 6),
        conv2=nn.Conv2d(6, 12, 5),
        activation2=make_activation(settings.activation, "relu"),
        pool2=MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(12 * positions, 120),
        activation3=make_activation(settings.activation, "relu"),
        norm2=norm(arm.norm1d, 120),
        dropout1=dropout(settings.dropout),
        fc2=nn.Linear(120, 60),
        activation4=make_activation(settings.activation, "relu"),
        dropout2=dropout(settings.dropout),
        out=nn.Linear(60, out_features),
    )
