"""Classify operations and modules by their role for batch normalization."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from torch import nn
from torch.nn.modules import activation, batchnorm, conv, instancenorm, normalization, pooling
from torch.nn.parameter import is_lazy


class OpType(StrEnum):
    """The kind of an operation."""

    CONVOLUTION = "convolution"
    LINEAR = "linear"
    NORM = "norm"
    ACTIVATION = "activation"
    POOL = "pool"
    RESHAPE = "reshape"  # the same values in another shape or order
    MERGE = "merge"  # a sum or a concatenation
    SCALE = "scale"  # a product, including a gate
    THROUGH = "through"  # passes values on, perhaps changed: padding, upsampling, a cast
    OTHER = "other"

    @property
    def keeps_features(self) -> bool:
        """Whether the result still has the same features."""
        return self in (OpType.POOL, OpType.RESHAPE, OpType.MERGE, OpType.SCALE, OpType.THROUGH)

    @property
    def has_weights(self) -> bool:
        """Whether it is a convolution or a linear layer."""
        return self in (OpType.CONVOLUTION, OpType.LINEAR)


# By the name of the ATen operation, without the namespace, the overload, and the underscore of in-place variants.
_OPERATIONS = {
    OpType.CONVOLUTION: """convolution convolution_overrideable _convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d
        conv_transpose3d mkldnn_convolution cudnn_convolution cudnn_convolution_transpose""",
    OpType.LINEAR: "addmm mm linear bmm baddbmm matmul mv addmv",
    OpType.NORM: """native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit
        _native_batch_norm_legit_no_training _native_batch_norm_legit_no_stats _batch_norm_with_update
        _batch_norm_no_update batch_norm native_layer_norm layer_norm native_group_norm group_norm instance_norm rms_norm
        _fused_rms_norm""",
    OpType.ACTIVATION: """relu relu6 leaky_relu elu celu selu gelu silu mish hardswish hardtanh softplus sigmoid hardsigmoid
        tanh log_sigmoid_forward prelu _prelu_kernel rrelu_with_noise threshold""",
    OpType.POOL: """max_pool2d_with_indices max_pool3d_with_indices max_pool1d max_pool2d max_pool3d mkldnn_max_pool2d
        quantized_max_pool2d avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d
        adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        fractional_max_pool2d mean amax""",
    OpType.RESHAPE: """view reshape _unsafe_view _reshape_alias transpose permute t movedim flatten unflatten squeeze unsqueeze
        contiguous clone detach alias lift_fresh expand""",
    OpType.MERGE: "add sub cat stack concat",
    OpType.SCALE: "mul div",
    OpType.THROUGH: """_to_copy to native_dropout dropout constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
        replication_pad1d replication_pad2d replication_pad3d upsample_nearest1d upsample_nearest2d upsample_nearest3d
        upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact2d slice select
        split split_with_sizes unsafe_split chunk unbind roll flip index index_select narrow pixel_shuffle pixel_unshuffle
        channel_shuffle native_channel_shuffle copy""",
}
_BY_OPERATION = {name: kind for kind, names in _OPERATIONS.items() for name in names.split()}

# Modules that count as one operation.
_MODULES: tuple[tuple[OpType, tuple[type, ...]], ...] = (
    (OpType.CONVOLUTION, (conv._ConvNd,)),
    (OpType.LINEAR, (nn.Linear,)),
    (
        OpType.NORM,
        (
            batchnorm._NormBase,
            instancenorm._InstanceNorm,
            normalization.LayerNorm,
            normalization.GroupNorm,
            normalization.RMSNorm,
        ),
    ),
    (
        OpType.POOL,
        (
            pooling._MaxPoolNd,
            pooling._AvgPoolNd,
            pooling._AdaptiveAvgPoolNd,
            pooling._AdaptiveMaxPoolNd,
            pooling._LPPoolNd,
        ),
    ),
    (
        OpType.ACTIVATION,
        tuple(
            value
            for name in activation.__all__
            if name not in ("MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "LogSoftmax")
            for value in [getattr(activation, name)]
        ),
    ),
)


def type_of_operation(name: str, arguments: tuple[Any, ...]) -> OpType:
    """The kind of the ATen operation ``name``, such as ``relu_``, called with ``arguments``.

    Examples:
        >>> type_of_operation("relu_", ()).value, type_of_operation("bernoulli_", ()).value
        ('activation', 'other')
    """
    plain = name.rstrip("_") if not name.startswith("_") else name
    if plain in ("clamp", "clamp_min"):  # a ReLU if it cuts at 0
        cuts_at_nothing = len(arguments) > 1 and isinstance(arguments[1], (int, float)) and arguments[1] == 0
        return OpType.ACTIVATION if cuts_at_nothing else OpType.THROUGH
    return _BY_OPERATION.get(plain, OpType.OTHER)


def type_of_module(module: nn.Module) -> OpType | None:
    """The kind of a module that counts as one operation; None for a module whose operations are traced one by one."""
    for kind, types in _MODULES:
        if isinstance(module, types):
            return kind
    own = dict((*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)))
    if any(map(is_lazy, own.values())):
        return None  # a lazy module, without a shape yet
    looks_like_a_norm = "norm" in type(module).__name__.lower() or {"running_mean", "running_var"} <= own.keys()
    if looks_like_a_norm and own and all(tensor.dim() <= 1 for tensor in own.values()):
        return OpType.NORM  # a custom class, such as a layer norm over channels or a frozen batch norm
    return None
