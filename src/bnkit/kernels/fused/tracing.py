"""Who looks at a call: what is faster than PyTorch's operations must not be taken where they are looked at one by one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

_PLAIN = frozenset({Tensor, torch.nn.Parameter})


def is_traced(x: Tensor) -> bool:
    """Whether somebody looks at every operation, and has to see one: torch.compile, torch.export, a dispatch mode."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0 or isinstance(x, FakeTensor)


def is_transformed() -> bool:
    """Whether a torch.func transform or forward-mode differentiation is at work."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def is_wrapped(gradient: Tensor) -> bool:
    """Whether a gradient stands for several (``is_grads_batched``, ``torch.func.vmap``), or has a tangent: it lies at no address."""
    return is_transformed() or torch._C._functorch.is_legacy_batchedtensor(gradient)


def is_plain_eager(x: Tensor) -> bool:
    """Whether nobody looks, and ``x`` is what it looks like: a tensor of its own, not a tracer's and not a transform's."""
    if torch.compiler.is_compiling():  # first: what follows, torch.compile cannot follow
        return False
    return (
        type(x) in _PLAIN
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
        and torch._C._get_tracing_state() is None
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)  # one that outlived its transform
    )
