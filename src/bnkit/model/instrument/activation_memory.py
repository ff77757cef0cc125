"""Measure the memory that a forward pass keeps for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnkit.model.preserve_state import preserve_model


def bytes_for_backward(model: nn.Module, inputs: Tensor) -> int:
    """The bytes of all tensors that a forward pass on ``inputs`` saves for the backward pass, without parameters.

    A storage that several layers save counts once. The model, its buffers and the random states are not changed.

    Examples:
        >>> bytes_for_backward(nn.Sigmoid(), torch.ones(2, 3, requires_grad=True))
        24
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, int] = {}
    kept: list[Tensor] = []  # kept alive, so that addresses are not reused

    def pack(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with (
        preserve_model(model),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        model(inputs)
    return sum(saved.values())
