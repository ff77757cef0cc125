"""What is set around a call, and would reach into the model that a verb returns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch.nn.utils import parametrize

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def isolate_from_ambient_modes(verb: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """``verb``, which returns the same inside of ``torch.inference_mode`` and ``torch.autocast`` as outside.

    In inference mode, the copy would be made of tensors that can never be trained. Autocast remembers weights that it has
    cast, and would use them after the weights were changed; it still casts, but remembers nothing. Neither do
    parametrizations, which remember by the address of a module.
    """

    @wraps(verb)
    def apart(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with ExitStack() as stack:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            stack.callback(torch.clear_autocast_cache)
            stack.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
            torch.set_autocast_cache_enabled(False)
            torch.clear_autocast_cache()
            stack.callback(setattr, parametrize, "_cache_enabled", parametrize._cache_enabled)
            parametrize._cache_enabled = 0
            return verb(*args, **kwargs)

    return apart


def copy_values(tensor: torch.Tensor, content: torch.Tensor) -> None:
    """Give ``tensor`` the values of ``content``, also where one of them was made in inference mode."""
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        tensor.copy_(content)
