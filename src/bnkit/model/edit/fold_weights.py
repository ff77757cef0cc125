"""Move a scale and a shift exactly into the weights of the layer before or after; computed in float64."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def into_output(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """Make ``layer`` return ``scale * output + shift``, channel by channel.

    Args:
        layer: A convolution, transposed or not, or a linear layer. It gets a bias if it has none.
        scale, shift: (out_channels,) or (out_features,), float64.
    """
    weight = _weight(layer)
    if isinstance(layer, _ConvTransposeNd):  # (in, out / groups, *kernel), the inputs of a group next to each other
        groups = layer.groups
        split = weight.reshape(groups, -1, *weight.shape[1:])
        scaled = split * scale.reshape(groups, 1, -1, *(1,) * (weight.dim() - 2))
        _set(layer, "weight", scaled.reshape(weight.shape))
    else:
        _set(layer, "weight", weight * scale.reshape(-1, *(1,) * (weight.dim() - 1)))
    bias = own_tensor(layer, "bias")
    _set(layer, "bias", shift if bias is None else bias.detach().double() * scale + shift)


def into_input(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """Make ``layer`` compute from ``x`` what it computes from ``scale * x + shift``, channel by channel.

    Args:
        layer: A layer for which ``why_not_into_input`` returns "".
        scale, shift: (in_channels,) or (in_features,), float64.
    """
    weight = _weight(layer)
    if isinstance(layer, _ConvTransposeNd):
        _set(layer, "weight", weight * scale.reshape(-1, *(1,) * (weight.dim() - 1)))
        return
    groups = layer.groups if isinstance(layer, _ConvNd) else 1
    ones = (1,) * (weight.dim() - 2)
    split = weight.reshape(groups, -1, *weight.shape[1:])  # (groups, out / groups, in / groups, *kernel)
    through = (split * shift.reshape(groups, 1, -1, *ones)).flatten(2).sum(2).flatten()
    _set(layer, "weight", (split * scale.reshape(groups, 1, -1, *ones)).reshape(weight.shape))
    bias = own_tensor(layer, "bias")
    if bias is not None or bool(through.any()):
        _set(layer, "bias", through if bias is None else bias.detach().double() + through)


def why_not_into_input(layer: nn.Module, shift: Tensor) -> str:
    """Why a scale and ``shift`` before ``layer`` cannot be folded into it; empty if they can."""
    if not bool(shift.any()):
        return ""
    if isinstance(layer, _ConvTransposeNd):
        return "a transposed convolution's edges get a shift from fewer places than its middle"
    if isinstance(layer, _ConvNd) and layer.padding_mode == "zeros" and any(layer._reversed_padding_repeated_twice):
        return "the zeros that its padding puts around the edges would have to be shifted too"
    return ""


def why_not_writable(layer: nn.Module, name: str) -> str:
    """Why the weights of ``layer``, named ``name``, cannot absorb a scale and a shift; empty if they can."""
    for kind in ("weight", "bias"):
        tensor = own_tensor(layer, kind)
        if tensor is None and getattr(layer, kind, None) is not None:
            return f"the {kind} of {name} is computed from others"
        if tensor is not None and is_wrapper_subclass(tensor):
            return f"the {kind} of {name} is a {type(tensor).__name__}"
    return f"{name} has no weight" if own_tensor(layer, "weight") is None else ""


def own_tensor(layer: nn.Module, name: str) -> Tensor | None:
    """The parameter or buffer ``name`` of ``layer``; None if it is missing, or computed from other tensors."""
    if is_parametrized(layer, name):
        return None
    tensor = layer._parameters.get(name)
    return tensor if tensor is not None else layer._buffers.get(name)


def is_wrapper_subclass(tensor: Any) -> bool:
    """Whether the class of ``tensor`` stores its values in other tensors, as for quantized weights."""
    return is_traceable_wrapper_subclass(tensor)


def is_shared(model: nn.Module, tensor: Tensor) -> bool:
    """Whether several modules of ``model`` have ``tensor`` as a parameter or buffer."""
    owners = (
        module
        for module in model.modules()
        if any(own is tensor for own in (*module._parameters.values(), *module._buffers.values()))
    )
    return len(list(owners)) > 1


def out_channels(layer: nn.Module) -> int:
    """The number of output channels of ``layer``, from its weight; 0 if it is not a convolution or linear layer."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or is_lazy(weight) or weight.dim() < 2:
        return 0
    return weight.shape[1] * layer.groups if isinstance(layer, _ConvTransposeNd) else weight.shape[0]


def add_bias(layer: nn.Module, value: Tensor) -> nn.Parameter:
    """Add a trainable bias to ``layer``, which has none, with the dtype and device of the weight."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    layer._buffers.pop("bias", None)  # a buffer set to None would block the parameter
    bias = nn.Parameter(value.to(weight.detach()))
    layer.register_parameter("bias", bias)
    return bias


def _weight(layer: nn.Module) -> Tensor:
    weight = own_tensor(layer, "weight")
    assert weight is not None
    return weight.detach().double()


def _set(layer: nn.Module, name: str, value: Tensor) -> None:
    tensor = own_tensor(layer, name)
    if tensor is None:
        add_bias(layer, value)
    else:  # in new memory: another layer may share the old one
        tensor.data = value.to(tensor)
