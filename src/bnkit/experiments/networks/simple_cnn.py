"""The SimpleCNN of the course's page on performance."""

from __future__ import annotations

from torch import nn

from bnkit.experiments.networks.blocks import dropout, image_shape, make_activation, norm, sequence
from bnkit.experiments.networks.max_pool import MaxPool2d
from bnkit.experiments.networks.normalization_kinds import Arm
from bnkit.experiments.run_settings import Settings


def simple_cnn(arm: Arm, input_shape: tuple[int, ...], out_features: int, settings: Settings) -> nn.Module:
    """Two 3×3 convolutions (32 and 64 channels) with batch norm and ReLU, two linear layers (128, ``out_features``).

    The course's text has no pooling, yet a linear layer on 64·7·7 values: on 28×28 pixels that needs a 2×2 pooling
    after each convolution, and here they are.
    """
    channels, height, width = image_shape("simple-cnn", input_shape, smallest=4)
    return sequence(
        conv1=nn.Conv2d(channels, 32, 3, stride=1, padding=1),
        norm1=norm(arm.norm2d, 32),
        activation1=make_activation(settings.activation, "relu"),
        pool1=MaxPool2d(2),
        conv2=nn.Conv2d(32, 64, 3, stride=1, padding=1),
        norm2=norm(arm.norm2d, 64),
        activation2=make_activation(settings.activation, "relu"),
        pool2=MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(64 * (height // 4) * (width // 4), 128),
        activation3=make_activation(settings.activation, "relu"),
        dropout1=dropout(settings.dropout),
        out=nn.Linear(128, out_features),
    )
