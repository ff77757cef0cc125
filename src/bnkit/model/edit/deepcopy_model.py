"""Copy a model to be changed, and replace modules of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

from bnkit.errors import ModelError
from bnkit.model.inspect.supported_models import check_supported


def deepcopy_model(model: nn.Module) -> nn.Module:
    """A copy that shares only the code and the process groups of ``model``.

    Shared modules stay shared in the copy, and lazy layers stay lazy.

    Raises:
        SettingsError: It is not a module.
        ModelError: It cannot be copied, or cannot be changed.
    """
    check_supported(model, changes=True)
    groups = [(module, group) for module in model.modules() if (group := vars(module).get("process_group")) is not None]
    memo: dict[int, object] = {id(group): group for _, group in groups}
    for buffer in model.buffers():
        if isinstance(buffer, UninitializedBuffer):  # which PyTorch cannot copy
            data = buffer.data
            memo[id(buffer)] = UninitializedBuffer(device=data.device, dtype=data.dtype)  # type: ignore[call-arg]
    for tensor in _computed(model):
        memo[id(tensor)] = tensor.detach().clone()
    try:
        with torch.no_grad():  # TorchScript would record the copying in the autograd graph
            twin = copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}); expected a model that "
            "copy.deepcopy takes: build a new one, or detach the tensors that it keeps"
        ) from error
    for parameter, copied in zip(model.parameters(), twin.parameters(), strict=True):
        if copied.requires_grad != parameter.requires_grad:
            copied.requires_grad_(parameter.requires_grad)
    for module, group in groups:  # bnkit's layers do not copy it; this copy stays in this process
        vars(memo[id(module)])["process_group"] = group
    return twin


def _computed(model: nn.Module) -> Iterator[Tensor]:
    """The weights and biases that pruning, weight norm and spectral norm compute before each forward pass.

    After training they are part of an autograd graph, and ``copy.deepcopy`` refuses them; the copy computes its own.
    """
    for module in model.modules():
        for name, value in vars(module).items():
            sources = (f"{name}_orig", f"{name}_g")
            if (
                isinstance(value, Tensor)
                and value.grad_fn is not None
                and any(s in module._parameters for s in sources)
            ):
                yield value


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Replace ``old`` by ``new`` in ``model``, under all its names; returns ``new`` if ``old`` is the whole model."""
    if old is model:
        return new
    for parent, name in list(_owners(model, old)):
        parent._modules[name] = new
    return model


def _owners(model: nn.Module, module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is module:
                yield parent, name
