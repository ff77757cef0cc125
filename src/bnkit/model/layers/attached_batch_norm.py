"""A layer that runs an attached batch norm on its output; its parameters keep their names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.model.layers.put_mixin_before_class import mix_in, take_out

# The name of the batch norm in its layer: `conv1.batch_norm.weight` next to `conv1.weight`.
CHILD = "batch_norm"


class WithBatchNorm(nn.Module):
    """Mixin before the class of a layer: its output goes through ``batch_norm``.

    Attributes:
        batch_norm: The batch norm.
        features_last: Whether the channels are the last dimension, as after a linear layer.
        lost_bias: Whether the layer had a bias before.
        bias_trained: Whether that bias had a gradient.
        keeps_outputs: Whether the batch norm was initialised so that the outputs in evaluation mode stay the same.
    """

    batch_norm: nn.Module
    features_last: bool
    lost_bias: bool
    bias_trained: bool = True
    keeps_outputs: bool

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The batch-normalised output of the layer."""
        output = super().forward(*args, **kwargs)
        if not self.features_last or output.dim() == 2:
            normalised: Tensor = self.batch_norm(output)
            return normalised
        rows: Tensor = self.batch_norm(output.flatten(0, -2))
        return rows.view_as(output)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Also load a checkpoint from before the batch norm was added: its bias goes into the batch norm."""
        norm = self.batch_norm  # or the layer it was converted to
        if not any(key.startswith(f"{prefix}{CHILD}.") for key in state_dict):
            bias = state_dict.pop(f"{prefix}bias", None) if self.lost_bias else None
            own = {key: value.detach().clone() for key, value in norm.state_dict().items()}
            if bias is not None and self.keeps_outputs and {"bias", "running_mean"} <= own.keys():
                own["bias"] = own["running_mean"] + bias.to(own["bias"])
            elif bias is not None and "running_mean" in own:
                own["running_mean"] = -bias.to(own["running_mean"])
            state_dict.update({f"{prefix}{CHILD}.{key}": value for key, value in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *others)


def attach_batch_norm(
    layer: nn.Module, norm: _BatchNorm, *, features_last: bool, keeps_outputs: bool, take_bias: bool
) -> None:
    """Make ``layer`` run ``norm`` on its output; if ``take_bias``, its bias moves into the running mean.

    Otherwise the bias stays, and is normalised with the rest of the output.
    """
    bias = layer._parameters.get("bias") if take_bias else None
    mix_in(layer, WithBatchNorm)
    assert isinstance(layer, WithBatchNorm)
    layer.batch_norm = norm
    layer.features_last, layer.keeps_outputs = features_last, keeps_outputs
    layer.lost_bias = bias is not None
    if bias is not None:
        assert norm.running_mean is not None
        with torch.no_grad():
            norm.running_mean.sub_(bias.to(norm.running_mean))
        layer.bias_trained = bias.requires_grad
        layer.register_parameter("bias", None)


def detach_batch_norm(layer: WithBatchNorm) -> nn.Module:
    """Detach and return the batch norm of ``layer``. A bias that moved into it is not restored."""
    norm = layer.batch_norm
    del layer.batch_norm, layer.features_last, layer.lost_bias, layer.keeps_outputs
    vars(layer).pop("bias_trained", None)
    take_out(layer, WithBatchNorm)
    return norm
