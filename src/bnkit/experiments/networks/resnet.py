"""The residual networks of He et al. for CIFAR, of any depth 6n + 2 and any width."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from bnkit.errors import SettingsError
from bnkit.experiments.networks.blocks import Residual, dropout, image_shape, make_activation, norm, sequence
from bnkit.experiments.networks.normalization_kinds import Arm
from bnkit.experiments.run_settings import Settings

_DEPTH, _WIDTH = 20, 16


def resnet(arm: Arm, input_shape: tuple[int, ...], out_features: int, settings: Settings) -> nn.Module:
    """He et al. (2015), "Deep Residual Learning", section 4.2: a 3×3 convolution, three stages of n blocks, the mean.

    ``depth`` is 6n + 2 (20 if 0); ``width`` (16 if 0) the channels of the first stage, doubled at each of the two
    that follow while the sides are halved. Shortcuts have no parameters (option A). Convolutions that are normalised
    have no bias.
    """
    channels, _, _ = image_shape("resnet", input_shape, smallest=8)
    depth, width = settings.depth or _DEPTH, settings.width or _WIDTH
    if depth < 8 or depth % 6 != 2:
        raise SettingsError(f"grid: depth={depth} with network resnet; expected 6n + 2, as in 8, 20, 56 or 110")
    layers: dict[str, nn.Module | None] = {
        "conv": _convolution(arm, channels, width, 1),
        "norm": norm(arm.norm2d, width),
        "activation": make_activation(settings.activation, "relu"),
    }
    before = width
    for stage, after in enumerate((width, 2 * width, 4 * width), start=1):
        for block in range(1, (depth - 2) // 6 + 1):
            layers[f"stage{stage}_block{block}"] = _block(arm, before, after, settings)
            before = after
    return sequence(
        **layers,
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        dropout=dropout(settings.dropout),
        out=nn.Linear(before, out_features),
    )


def _block(arm: Arm, before: int, after: int, settings: Settings) -> nn.Module:
    body = sequence(
        conv1=_convolution(arm, before, after, stride=after // before),
        norm1=norm(arm.norm2d, after),
        activation1=make_activation(settings.activation, "relu"),
        conv2=_convolution(arm, after, after, 1),
        norm2=norm(arm.norm2d, after),
    )
    shortcut = _Subsample(after - before) if after != before else None
    return Residual(body, make_activation(settings.activation, "relu"), shortcut)


def _convolution(arm: Arm, before: int, after: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=arm.norm2d is None)


class _Subsample(nn.Module):
    """Option A of the paper: every second row and column, and channels of zeros for those that are new."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + new, ceil(H / 2), ceil(W / 2))."""
        padded: Tensor = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.new_channels))
        return padded

    def extra_repr(self) -> str:
        """How many channels of zeros are added."""
        return f"new_channels={self.new_channels}"
