"""Third-party networks as data: from `transformers` and `pytorchcv`, with random weights.

Small ones of each family, or made small by their own settings. Statistics, gamma and beta are those of a batch, shifted
and scaled channel by channel, so that each of them does something and activations stay of order one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

CLASSES = 7


@dataclass(frozen=True)
class Network:
    """How to build one, and what to know of it.

    Attributes:
        name: Of the library, a dot, and the network.
        make: Builds it with random weights.
        shape: Of one input.
        is_quick: Whether the ordinary run of the tests looks at it with ``bnkit.check``.
        jumps: Whether the least rounding can change its output a lot, since it picks places of largest values.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    is_quick: bool = False
    jumps: bool = False


def build(network: Network, seed: int = 0) -> nn.Module:
    """``network`` in evaluation mode, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network.make()
        randomize_batch_norms(model, example(network, seed=seed + 1, batch=4))
    return model.eval()


def example(network: Network, seed: int = 0, batch: int = 2) -> Tensor:
    """What ``network`` is called with."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, *network.shape), generator=generator)


def randomize_batch_norms(model: nn.Module, batch: Tensor) -> None:
    """Give the batch norms of ``model`` a gamma and beta, and statistics that are not quite those of ``batch``."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    generator = torch.Generator().manual_seed(3)
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train().momentum = None  # the cumulative average: of the one batch, its own moments
        if norm.affine:
            norm.weight.data.uniform_(0.5, 1.5, generator=generator)
            norm.bias.data.normal_(std=0.3, generator=generator)
    with torch.no_grad():
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        if norm.running_mean is not None:
            shift = torch.randn(norm.running_mean.shape, generator=generator)
            norm.running_mean.add_(0.3 * shift * norm.running_var.sqrt())
            norm.running_var.mul_(torch.rand(norm.running_var.shape, generator=generator) + 0.5).add_(0.05)
    model.eval()


def _pytorchcv(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return _from_function(name, **{"num_classes": CLASSES, **arguments})


def _from_function(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        provider = importlib.import_module("pytorchcv.model_provider")
        return _of_any_size(provider.get_model(name, pretrained=False, **arguments))

    return make


def _from_class(path: str, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        module, _, name = path.rpartition(".")
        kind = getattr(importlib.import_module(f"pytorchcv.models.{module}"), name)
        return kind(num_classes=CLASSES, **arguments)

    return make


def _of_any_size(model: nn.Module) -> nn.Module:
    """Its last pooling takes all that is left, so that inputs may be small."""
    for parent in model.modules():
        if isinstance(getattr(parent, "final_pool", None), nn.AvgPool2d):
            parent.final_pool = nn.AdaptiveAvgPool2d(1)
    return model


def _transformers(name: str, head: str = "ForImageClassification", **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        library = importlib.import_module("transformers")
        config = getattr(library, f"{name}Config")(num_labels=CLASSES, **settings)
        return getattr(library, f"{name}{head}")(config)

    return make


SMALL, MIDDLE, LARGE = (3, 64, 64), (3, 128, 128), (3, 224, 224)
CIFAR = (3, 32, 32)
_STAGES = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 2, 1, 1]}
_VGG = [[8], [16], [16, 16], [24, 24], [24, 24]]
_WIDTHS = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
_SWIFTFORMER = {"image_size": 64, "embed_dims": [16, 24, 32, 40], "depths": [1, 1, 2, 1]}
_EFFICIENTNET = {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320, "image_size": 64}
_MOBILEVIT2 = {"image_size": 64, "width_multiplier": 0.25, "base_attn_unit_dims": [64, 64, 64]}
_SEGFORMER = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}
_UNIVNET = {
    "model_in_channels": 8,
    "model_hidden_channels": 8,
    "num_mel_bins": 10,
    "kernel_predictor_hidden_channels": 8,
}
_ALEXNET = {
    "channels": [[16], [24], [32, 24, 16]],
    "kernel_sizes": [[11], [5], [3, 3, 3]],
    "strides": [[4], [1], [1, 1, 1]],
    "paddings": [[2], [2], [1, 1, 1]],
}
_MOBILEVIT = {
    "image_size": 64,
    "hidden_sizes": [16, 24, 32],
    "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64],
    "num_attention_heads": 2,
}
_LEVIT = {
    "image_size": 64,
    "hidden_sizes": [32, 48, 64],
    "num_attention_heads": [2, 3, 4],
    "depths": [1, 1, 1],
    "key_dim": [8, 8, 8],
}
_HGNET = {
    "embedding_size": 8,
    "depths": [1, 1, 2, 1],
    "hidden_sizes": [16, 24, 32, 40],
    "stem_channels": [3, 8, 8],
    "stage_in_channels": [8, 16, 24, 32],
    "stage_mid_channels": [8, 8, 8, 16],
    "stage_out_channels": [16, 24, 32, 40],
}
_TEXTNET = {
    "hidden_sizes": [16, 16, 24, 24, 32],
    "stem_out_channels": 16,
    "conv_layer_kernel_sizes": [[[3, 3], [3, 3]], [[3, 3], [1, 3]], [[3, 3], [3, 1]], [[3, 3], [1, 3]]],
    "conv_layer_strides": [[1, 2], [2, 1], [2, 1], [2, 1]],
}

# Without batch norm.
PLAIN = (
    Network("pytorchcv.vgg", _from_class("vgg.VGG", channels=_VGG), LARGE, is_quick=True),
    Network("pytorchcv.alexnet", _from_class("alexnet.AlexNet", use_lrn=True, **_ALEXNET), LARGE, is_quick=True),
    Network("pytorchcv.squeezenet_v1_1", _pytorchcv("squeezenet_v1_1"), SMALL, is_quick=True),
    Network("pytorchcv.squeezeresnet_v1_1", _pytorchcv("squeezeresnet_v1_1"), SMALL),
    Network("pytorchcv.nin_cifar10", _pytorchcv("nin_cifar10", num_classes=10), CIFAR),
    Network("pytorchcv.diracnet18v2", _pytorchcv("diracnet18v2"), SMALL),
    Network("transformers.ConvNext", _transformers("ConvNext", **_WIDTHS), SMALL, is_quick=True),
    Network("transformers.PoolFormer", _transformers("PoolFormer", **_WIDTHS), SMALL, is_quick=True),
    Network("transformers.UnivNet", _transformers("UnivNet", "Model", **_UNIVNET), (100, 10)),
)

# With batch norm: residual and dense, before and behind the convolution, grouped, shuffled, transposed, gated, shared.
NORMALISED = (
    Network("transformers.ResNet", _transformers("ResNet", **_STAGES), SMALL, is_quick=True),
    Network("transformers.ResNet basic", _transformers("ResNet", layer_type="basic", **_STAGES), SMALL),
    Network("transformers.RegNet", _transformers("RegNet", groups_width=8, **_STAGES), SMALL, is_quick=True),
    Network("transformers.RegNet x", _transformers("RegNet", groups_width=8, layer_type="x", **_STAGES), SMALL),
    Network("transformers.MobileNetV1", _transformers("MobileNetV1", depth_multiplier=0.25), SMALL, is_quick=True),
    Network("transformers.MobileNetV2", _transformers("MobileNetV2", depth_multiplier=0.35), SMALL, is_quick=True),
    Network("transformers.Levit", _transformers("Levit", **_LEVIT), SMALL, is_quick=True),
    Network(
        "transformers.Levit two heads", _transformers("Levit", "ForImageClassificationWithTeacher", **_LEVIT), SMALL
    ),
    Network("transformers.EfficientNet", _transformers("EfficientNet", **_EFFICIENTNET), SMALL, is_quick=True),
    Network("transformers.MobileViT", _transformers("MobileViT", **_MOBILEVIT), SMALL, is_quick=True),
    Network(
        "transformers.MobileViT segmentation",
        _transformers("MobileViT", "ForSemanticSegmentation", aspp_out_channels=16, **_MOBILEVIT),
        SMALL,
    ),
    Network("transformers.MobileViTV2", _transformers("MobileViTV2", **_MOBILEVIT2), SMALL),
    Network("transformers.SwiftFormer", _transformers("SwiftFormer", **_SWIFTFORMER), SMALL),
    Network("transformers.HGNetV2", _transformers("HGNetV2", **_HGNET), SMALL),
    Network("transformers.TextNet", _transformers("TextNet", **_TEXTNET), SMALL, is_quick=True),
    Network("transformers.PPLCNet", _transformers("PPLCNet", scale=0.25), SMALL),
    Network("transformers.Segformer", _transformers("Segformer", "ForSemanticSegmentation", **_SEGFORMER), SMALL),
    Network("pytorchcv.vgg with batch norm", _from_class("vgg.VGG", channels=_VGG, bias=False, use_bn=True), LARGE),
    Network("pytorchcv.resnet10", _pytorchcv("resnet10"), SMALL, is_quick=True),
    Network("pytorchcv.resnet20_cifar10", _pytorchcv("resnet20_cifar10", num_classes=10), CIFAR, is_quick=True),
    Network("pytorchcv.preresnet20_cifar10", _pytorchcv("preresnet20_cifar10", num_classes=10), CIFAR, is_quick=True),
    Network("pytorchcv.seresnet20_cifar10", _pytorchcv("seresnet20_cifar10", num_classes=10), CIFAR),
    Network("pytorchcv.resnext20_32x2d_cifar10", _pytorchcv("resnext20_32x2d_cifar10", num_classes=10), CIFAR),
    Network(
        "pytorchcv.densenet40_k12_bc_cifar10",
        _pytorchcv("densenet40_k12_bc_cifar10", num_classes=10),
        CIFAR,
        is_quick=True,
    ),
    Network("pytorchcv.fractalnet_cifar10", _pytorchcv("fractalnet_cifar10", num_classes=10), CIFAR),
    Network("pytorchcv.msdnet22_cifar10", _pytorchcv("msdnet22_cifar10", num_classes=10), CIFAR),
    Network("pytorchcv.rir_cifar10", _pytorchcv("rir_cifar10", num_classes=10), CIFAR),
    Network("pytorchcv.wrn20_10_1bit_cifar10", _pytorchcv("wrn20_10_1bit_cifar10", num_classes=10), CIFAR),
    Network("pytorchcv.mobilenet_wd4", _pytorchcv("mobilenet_wd4"), SMALL),
    Network("pytorchcv.mobilenetv3_small_w7d20", _pytorchcv("mobilenetv3_small_w7d20"), SMALL, is_quick=True),
    Network("pytorchcv.igcv3_wd4", _pytorchcv("igcv3_wd4"), SMALL),
    Network("pytorchcv.shufflenet_g3_wd4", _pytorchcv("shufflenet_g3_wd4"), SMALL),
    Network("pytorchcv.shufflenetv2_wd2", _pytorchcv("shufflenetv2_wd2"), SMALL, is_quick=True),
    Network("pytorchcv.menet108_8x1_g3", _pytorchcv("menet108_8x1_g3"), SMALL),
    Network("pytorchcv.ghostnet", _pytorchcv("ghostnet"), SMALL, is_quick=True),
    Network("pytorchcv.efficientnet_b0b", _pytorchcv("efficientnet_b0b"), SMALL),
    Network("pytorchcv.mixnet_s", _pytorchcv("mixnet_s"), SMALL),
    Network("pytorchcv.hrnet_w18_small_v1", _pytorchcv("hrnet_w18_small_v1"), SMALL),
    Network("pytorchcv.darknet_tiny", _pytorchcv("darknet_tiny"), SMALL, is_quick=True),
    Network("pytorchcv.dla46c", _pytorchcv("dla46c"), SMALL),
    Network("pytorchcv.hardnet39ds", _pytorchcv("hardnet39ds"), SMALL),
    Network("pytorchcv.peleenet", _pytorchcv("peleenet"), SMALL),
    Network("pytorchcv.condensenet74_c4_g4", _pytorchcv("condensenet74_c4_g4"), SMALL),
    Network("pytorchcv.dicenet_wd5", _pytorchcv("dicenet_wd5"), SMALL),
    Network("pytorchcv.espnetv2_wd2", _pytorchcv("espnetv2_wd2"), SMALL),
    Network("pytorchcv.octresnet10_ad2", _pytorchcv("octresnet10_ad2"), SMALL),
    Network("pytorchcv.resnesta18", _pytorchcv("resnesta18"), SMALL),
    Network("pytorchcv.sknet50", _pytorchcv("sknet50"), SMALL),
    Network("pytorchcv.ibn_resnet50", _pytorchcv("ibn_resnet50"), SMALL),
    Network("pytorchcv.sharesnet18", _pytorchcv("sharesnet18"), SMALL),
    Network("pytorchcv.revnet38", _pytorchcv("revnet38"), SMALL),
    Network("pytorchcv.cbam_resnet18", _pytorchcv("cbam_resnet18"), SMALL),
    Network("pytorchcv.dpn68", _pytorchcv("dpn68"), LARGE),
    Network("pytorchcv.inceptionv3", _pytorchcv("inceptionv3"), (3, 96, 96)),
    Network("pytorchcv.xception", _pytorchcv("xception"), (3, 299, 299)),
    Network("pytorchcv.erfnet_cityscapes", _pytorchcv("erfnet_cityscapes", in_size=(64, 64)), SMALL, is_quick=True),
    Network("pytorchcv.fastscnn_cityscapes", _pytorchcv("fastscnn_cityscapes", in_size=(128, 128)), MIDDLE),
    Network("pytorchcv.segnet_cityscapes", _pytorchcv("segnet_cityscapes", in_size=(64, 64)), SMALL, jumps=True),
    Network("pytorchcv.centernet_resnet18_coco", _pytorchcv("centernet_resnet18_coco"), MIDDLE),
    Network("pytorchcv.lwopenpose2d", _from_function("lwopenpose2d_mobilenet_cmupan_coco"), SMALL),
)


# As different in structure as few can be.
FEW = frozenset({
    "pytorchcv.vgg", "pytorchcv.squeezenet_v1_1", "transformers.ConvNext",
    "transformers.ResNet", "transformers.MobileNetV2", "transformers.Levit", "pytorchcv.preresnet20_cifar10",
    "pytorchcv.densenet40_k12_bc_cifar10", "pytorchcv.mobilenetv3_small_w7d20", "pytorchcv.shufflenetv2_wd2",
    "pytorchcv.erfnet_cityscapes",
})  # fmt: skip


def cases(networks: tuple[Network, ...], few: Container[str] = FEW) -> list[Any]:
    """``networks`` as parameters of a test; all but ``few`` only run with `make zoo`."""
    return [
        pytest.param(network, id=network.name, marks=() if network.name in few else pytest.mark.zoo)
        for network in networks
    ]
