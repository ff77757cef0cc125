"""A copy of a model to be changed, and how a module of it is exchanged for another."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import nn
from torch.nn.parameter import UninitializedBuffer

from bnkit.errors import ModelError, SettingsError


def copy_of(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with ``model`` but its code and its process groups.

    Modules that it uses twice are one in the copy too, and layers that are lazy still are lazy in it.

    Raises:
        SettingsError: It is no module.
        ModelError: It cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise SettingsError(f"model is a {type(model).__name__}; expected an nn.Module")
    groups = [(module, group) for module in model.modules() if (group := vars(module).get("process_group")) is not None]
    memo: dict[int, object] = {id(group): group for _, group in groups}
    for buffer in model.buffers():
        if isinstance(buffer, UninitializedBuffer):  # which PyTorch cannot copy
            data = buffer.data
            memo[id(buffer)] = UninitializedBuffer(device=data.device, dtype=data.dtype)  # type: ignore[call-arg]
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}); expected a model that "
            "copy.deepcopy takes: build it anew, or detach the tensors that it keeps"
        ) from error
    for module, group in groups:  # our layers leave it out of copies; this copy stays in this process
        vars(memo[id(module)])["process_group"] = group
    return twin


def exchange(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """``model`` with ``new`` wherever ``old`` stood, under all its names; ``new`` itself if ``old`` is the whole model."""
    if old is model:
        return new
    for parent, name in list(_places(model, old)):
        parent._modules[name] = new
    return model


def _places(model: nn.Module, module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is module:
                yield parent, name
