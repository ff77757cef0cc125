"""Uninitialised parameters, which lazy layers have until their first input."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bnkit.model.inspect.example import Example
from bnkit.model.preserve_state import preserve_model


def first_lazy(model: nn.Module) -> str | None:
    """The dotted name of the first parameter or buffer without a shape; None if all have one."""
    named = chain(model.named_parameters(), model.named_buffers())
    return next((name for name, tensor in named if is_lazy(tensor)), None)


def materialise(model: nn.Module, example: Example) -> None:
    """Initialise the lazy layers of ``model`` in place: run it on ``example`` in evaluation mode.

    Raises:
        ModelError: The model raises on the example.
    """
    with preserve_model(model), torch.no_grad():
        model.eval()
        example.fresh().run(model)
