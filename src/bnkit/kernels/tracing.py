"""Whether a call is traced: by ``torch.export``, or where each PyTorch operation is intercepted, which rules out fast paths."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["is_exporting", "is_plain_eager", "is_traced", "is_transformed", "is_wrapped"]

_PLAIN = frozenset({Tensor, torch.nn.Parameter})


if hasattr(torch.compiler, "is_exporting"):
    is_exporting = torch.compiler.is_exporting
else:  # PyTorch 2.6, whose strict export cannot be distinguished from torch.compile

    def is_exporting() -> bool:
        """Whether ``torch.export`` is tracing without Dynamo."""
        return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def is_traced(x: Tensor) -> bool:
    """Whether every operation is intercepted: by torch.compile, torch.export, or a dispatch mode."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0 or isinstance(x, FakeTensor)


def is_transformed() -> bool:
    """Whether a torch.func transform or forward-mode differentiation is active."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def is_wrapped(gradient: Tensor) -> bool:
    """Whether a gradient is batched (``is_grads_batched``, ``torch.func.vmap``) or has a tangent, and so has no address."""
    return is_transformed() or torch._C._functorch.is_legacy_batchedtensor(gradient)


def is_plain_eager(x: Tensor) -> bool:
    """Whether the call is not traced, and ``x`` is a plain tensor, not one of a tracer or a transform."""
    if torch.compiler.is_compiling():  # first, because torch.compile cannot trace the rest
        return False
    return (
        type(x) in _PLAIN
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
        and torch._C._get_tracing_state() is None
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)  # a tensor that outlived its transform
    )
