"""A batch norm that is computed lazily, fused with the sum and activation that the network applies to its output.

The network's code does not change. The layer returns a proxy for its output, which is computed when an operation uses
it. If that is the awaited sum, activation, or both, they are computed in the same pass over memory as the batch norm.
For any other operation, the ordinary output is computed.
"""

from __future__ import annotations

import weakref
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils._pytree import tree_leaves, tree_map_only

from bnkit.errors import ModelError
from bnkit.kernels.tracing import is_plain_eager
from bnkit.model.layers.activation_calls import ABOUT_SHAPE, ACTIVATIONS, SUMS, activation_in
from bnkit.nn.batch_norm import _BatchNorm
from bnkit.nn.layer_forward import batch_stats_forward, is_fused, running_stats_forward

# The attribute in which a layer keeps a weak reference to its latest computation.
LATEST = "_latest_computation"


class Deferring(_BatchNorm):
    """Mixin before the class of one of bnkit's batch norms: it defers its computation until the output is used.

    It does not defer if single operations or outputs are observed (hooks, torch.compile, export, a dispatch mode), or
    if no kernel can fuse the operations.

    Attributes:
        awaits_sum: Whether the network adds a tensor of the same shape to the output.
        awaited_activation: The name of the activation applied after that, or None.
        passed_through: The modules that pass the output on, up to these operations.
        waits_always: Whether it defers even if no kernel can fuse the operations; used to check the fusion.
    """

    awaits_sum: bool
    awaited_activation: str | None
    passed_through: tuple[nn.Module, ...]
    waits_always = False

    def forward(self, input: Tensor, residual: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """See ``bnkit.nn.BatchNorm1d``; the output may be computed later."""
        if residual is not None or mask is not None or not self._may_wait(input):
            return super().forward(input, residual, mask)
        kept = self.__dict__.get(LATEST)
        earlier = None if kept is None else kept()
        if earlier is not None and earlier.is_open:  # the buffers must be updated in the order of the inputs
            earlier.result()
        computation = _Computation(self, input)
        self.__dict__[LATEST] = weakref.ref(computation)
        return DeferredOutput(computation)

    def normalised_again(self, input: Tensor) -> Tensor:
        """The output for an input that the buffers already include."""
        mean, var, _ = self._statistics()
        training = self.training or mean is None or var is None
        args = self._args(input, (mean, var, None), None, None, None, training=training)
        if training:
            return batch_stats_forward(args, self.kernel, self._called)[0]
        return running_stats_forward(args, self.kernel, self._called)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != LATEST}

    def extra_repr(self) -> str:
        """The arguments of the layer, and the operations that it waits for."""
        awaited = ["sum"] * self.awaits_sum + ([] if self.awaited_activation is None else [self.awaited_activation])
        return f"{super().extra_repr()}, fused={' and '.join(awaited)!r}"

    def _fuses(self, input: Tensor) -> bool:
        if self.waits_always:
            return is_plain_eager(input)
        return is_fused(self.kernel, input, self.awaited_activation, self.awaits_sum)

    def _may_wait(self, input: Tensor) -> bool:
        return (
            self._fuses(input)
            and self.activation is None
            and not self.sync
            and self.virtual_batch_size is None
            and not _are_outputs_watched(self)
            and not any(map(_are_outputs_watched, self.passed_through))
            and not (
                module_hooks._global_forward_hooks
                or module_hooks._global_backward_hooks
                or module_hooks._global_backward_pre_hooks
            )
        )


def _are_outputs_watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._backward_hooks or module._backward_pre_hooks)


class _Computation:
    """A deferred call of a batch norm, with the tensor to add.

    Attributes:
        layer, input: The layer and its input.
        residual: The tensor to add; None until the sum is called.
        value: The result, once it was needed.
        source: The computation without ``residual``, if the sum was not in place.
        has_run: Whether the layer has run for this call, and updated its buffers.
        is_differentiated: Whether gradients were enabled at the call.
    """

    __slots__ = (
        "__weakref__",
        "_versions",
        "has_run",
        "input",
        "is_differentiated",
        "layer",
        "residual",
        "source",
        "value",
    )

    def __init__(self, layer: Deferring, input: Tensor, source: _Computation | None = None) -> None:
        self.layer, self.input, self.source = layer, input, source
        self.residual: Tensor | None = None
        self.value: Tensor | None = None
        self.has_run = False
        self.is_differentiated: bool = torch.is_grad_enabled() if source is None else source.is_differentiated
        self._versions = (_version_of(input), 0)

    def __del__(self) -> None:
        """Update the buffers even if the output was never used."""
        if self.source is None and not self.has_run and self.layer.training:
            with torch.no_grad():
                self.fused(None)

    def add(self, residual: Tensor) -> None:
        self.residual, self._versions = residual, (self._versions[0], _version_of(residual))

    @property
    def is_learnt_from(self) -> bool:
        """Whether it needs a gradient."""
        operands = (self.input, self.residual, *self.layer.parameters(recurse=False))
        return self.is_differentiated and any(tensor is not None and tensor.requires_grad for tensor in operands)

    @property
    def is_open(self) -> bool:
        """Whether nothing has been computed yet."""
        root = self if self.source is None else self.source
        return self.value is None and root.value is None and not root.has_run

    def fused(self, activation: str | None) -> Tensor:
        """The batch norm, sum and activation in one pass; only while the computation is open."""
        (self if self.source is None else self.source).has_run = True
        changed = _version_of(self.input) != self._versions[0]
        if changed or (self.residual is not None and _version_of(self.residual) != self._versions[1]):
            raise ModelError(
                f"what {self.layer._called()} was given, or was to add, was changed in place before its output was used; expected "
                "it unchanged: convert the model without `example_inputs`, or leave the layer out with `exclude`"
            )
        return self.layer._normalise(self.input, self.residual, None, activation)

    def result(self) -> Tensor:
        """The output without an activation."""
        if self.value is None:
            with torch.set_grad_enabled(self.is_differentiated):
                if self.is_open:
                    self.value = self.fused(None)
                else:
                    again = self.layer.normalised_again(self.input) if self.source is None else self.source.result()
                    self.value = again if self.residual is None else again + self.residual
        return self.value


def _version_of(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


class DeferredOutput(Tensor):
    """Proxy for the output of a batch norm that has not been computed."""

    computation: _Computation

    @staticmethod
    def __new__(cls, computation: _Computation) -> Self:  # noqa: ANN001 - ruff knows classes, not static methods
        x = computation.input
        output = Tensor._make_wrapper_subclass(cls, x.shape, x.stride(), dtype=x.dtype, device=x.device)
        output.computation = computation
        deferred: Self = output
        return deferred

    def __add__(self, other: Any) -> Tensor:
        return _sum(self, other, in_place=False)

    def __radd__(self, other: Any) -> Tensor:
        return _sum(self, other, in_place=False)

    def __iadd__(self, other: Any) -> Tensor:
        return _sum(self, other, in_place=True)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Fuse the awaited sum and activation with the layer; run any other function on the computed output."""
        if func in ABOUT_SHAPE:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        if func in SUMS and len(args) == 2 and not kwargs:
            first, second = args
            if isinstance(first, DeferredOutput):
                return _sum(first, second, in_place=SUMS[func])
            if not SUMS[func]:
                return _sum(second, first, in_place=False)
        if func in ACTIVATIONS and isinstance(args[0] if args else None, DeferredOutput):
            name, in_place = activation_in(func, args[1:], kwargs or {})
            computation = args[0].computation
            if (
                name is not None
                and name == computation.layer.awaited_activation
                and computation.is_open
                and torch.is_grad_enabled() == computation.is_differentiated
            ):
                output = computation.fused(name)
                if in_place:
                    computation.value = output
                return output
        return func(*_computed(args), **_computed(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Handle operations called from outside Python, where gradients can no longer be recorded."""
        leaves = tree_leaves((args, kwargs or {}))
        if any(isinstance(value, DeferredOutput) and value.computation.is_learnt_from for value in leaves):
            raise ModelError(
                f"{func} got the output of a batch norm past PyTorch's Python functions, where it would have no gradient; convert "
                "the model without `example_inputs`, or leave the layer out with `exclude`"
            )
        return func(*_computed(args), **_computed(kwargs or {}))


def _sum(deferred: DeferredOutput, other: Any, *, in_place: bool) -> Tensor:
    computation = deferred.computation
    if isinstance(other, DeferredOutput) and other is not deferred:
        other = other.computation.result()
    if (
        computation.layer.awaits_sum
        and computation.residual is None
        and computation.is_open
        and type(other) in (Tensor, nn.Parameter)
        and other.shape == computation.input.shape
        and other.dtype is computation.input.dtype
        and other.device == computation.input.device
        and torch.is_grad_enabled() == computation.is_differentiated
    ):
        if not in_place:
            deferred = DeferredOutput(_Computation(computation.layer, computation.input, computation))
            computation = deferred.computation
        computation.add(other)
        return deferred if computation.layer.awaited_activation is not None else computation.result()
    value, other = computation.result(), _computed(other)
    if in_place:
        value += other
        return value
    total: Tensor = value + other
    return total


def _computed(values: Any) -> Any:
    return tree_map_only(DeferredOutput, lambda deferred: deferred.computation.result(), values)
