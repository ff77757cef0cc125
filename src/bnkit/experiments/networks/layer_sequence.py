"""Modules in sequence, of which ReLU and the max pooling after it are computed as one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from bnkit.experiments.networks.max_pool import MaxPool2d


class Sequential(nn.Sequential):
    """``torch.nn.Sequential``, with the same results: a max pooling goes before the ReLU in front of it.

    ReLU then has a quarter of the values. With a hook on one of the two modules, or if the operations are traced, they run in turn.

    Attributes:
        calls_in_order: Tells ``bnkit.convert`` that each module gets the output of the one before, as in ``torch.nn.Sequential``.
    """

    calls_in_order = True

    def forward(self, input: Tensor) -> Tensor:
        """The output of the last module."""
        x, modules, position = input, list(self), 0
        while position < len(modules):
            module, *following = modules[position : position + 2]
            pool = following[0] if following else None
            if isinstance(pool, MaxPool2d) and _may_swap(module, pool, x):
                x = pool.pool_relu(x)
                position += 2
            else:
                x = module(x)
                position += 1
        return x


def _may_swap(module: nn.Module, pool: MaxPool2d, input: Tensor) -> bool:
    return (
        type(module) is nn.ReLU
        and not module.inplace
        and pool.is_fast(input)  # before what torch.compile cannot trace
        and not any(map(_has_hooks, (module, pool)))
        and not _has_any_global_hook()  # type: ignore[no-untyped-call]
        and torch._C._len_torch_function_stack() == 0
    )


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    )
