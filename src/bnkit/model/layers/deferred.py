"""A batch norm that waits for the sum and the activation that a network's own code applies to what it returns.

The code stays as it is. What the layer returns stands for its output: nothing is computed until something is done with it. Where
that is the sum, the activation, or both, the layer does them in the same pass over memory; whatever else it is, gets the output
that the layer would have returned at once.
"""

from __future__ import annotations

import weakref
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils._pytree import tree_leaves, tree_map_only

from bnkit.errors import ModelError
from bnkit.kernels.fused.tracing import is_plain_eager
from bnkit.model.layers.activation_calls import ABOUT_SHAPE, ACTIVATIONS, SUMS, activation_in
from bnkit.nn.batch_norm import _BatchNorm
from bnkit.nn.dispatch import batch_stats_forward, is_fused, running_stats_forward

# Under this name a layer keeps what it has returned last, as long as somebody has it.
LATEST = "_latest_computation"


class Deferring(_BatchNorm):
    """Put before the class of a batch norm of ours: it waits for what its network does with the output.

    It does not wait where somebody looks at single operations or at outputs (hooks, torch.compile, export, a dispatch mode), nor
    where no kernel does several steps in one pass.

    Attributes:
        awaits_sum: Whether something of the output's shape is added to it.
        awaited_activation: What is applied then: a name, or None.
        passed_through: The modules that hand the output on, up to where that happens.
        waits_always: Whether it waits where no kernel does several steps in one pass, too: to see what comes of it.
    """

    awaits_sum: bool
    awaited_activation: str | None
    passed_through: tuple[nn.Module, ...]
    waits_always = False

    def forward(self, input: Tensor, residual: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """See ``bnkit.nn.BatchNorm1d``; what is returned may be computed later."""
        if residual is not None or mask is not None or not self._may_wait(input):
            return super().forward(input, residual, mask)
        kept = self.__dict__.get(LATEST)
        earlier = None if kept is None else kept()
        if earlier is not None and earlier.is_open:  # the buffers follow the inputs in their order
            earlier.result()
        computation = _Computation(self, input)
        self.__dict__[LATEST] = weakref.ref(computation)
        return DeferredOutput(computation)

    def normalised_again(self, input: Tensor) -> Tensor:
        """The output for an input that has moved the buffers already."""
        mean, var, _ = self._statistics()
        training = self.training or mean is None or var is None
        args = self._args(input, (mean, var, None), None, None, None, training=training)
        if training:
            return batch_stats_forward(args, self.kernel, self._called)[0]
        return running_stats_forward(args, self.kernel, self._called)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != LATEST}

    def extra_repr(self) -> str:
        """That of the layer, and what it waits for."""
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
    """What a batch norm is to compute, with what it is told to add.

    Attributes:
        layer, input: Of the call.
        residual: What is to be added; None until then.
        value: The result, once something needed it.
        source: The same without ``residual``, where that was not added in place.
        has_run: Whether the layer has computed something for this call, and moved its buffers.
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
        """Move the buffers for an output that nobody used."""
        if self.source is None and not self.has_run and self.layer.training:
            with torch.no_grad():
                self.fused(None)

    def add(self, residual: Tensor) -> None:
        self.residual, self._versions = residual, (self._versions[0], _version_of(residual))

    @property
    def is_learnt_from(self) -> bool:
        """Whether gradients go through it."""
        operands = (self.input, self.residual, *self.layer.parameters(recurse=False))
        return self.is_differentiated and any(tensor is not None and tensor.requires_grad for tensor in operands)

    @property
    def is_open(self) -> bool:
        """Whether nothing has been computed yet."""
        root = self if self.source is None else self.source
        return self.value is None and root.value is None and not root.has_run

    def fused(self, activation: str | None) -> Tensor:
        """The layer's output, sum and activation in one pass; only while the computation is open."""
        (self if self.source is None else self.source).has_run = True
        changed = _version_of(self.input) != self._versions[0]
        if changed or (self.residual is not None and _version_of(self.residual) != self._versions[1]):
            raise ModelError(
                f"what {self.layer._called()} was given, or was to add, was changed in place before its output was used; expected "
                "it unchanged: convert the model without example_inputs, or leave the layer out with exclude"
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
    """Stands for the output of a batch norm that has not been computed."""

    computation: _Computation

    @staticmethod
    def __new__(cls, computation: _Computation) -> Self:  # noqa: ANN001 - ruff knows classes, not static methods
        x = computation.input
        output = Tensor._make_wrapper_subclass(cls, x.shape, x.stride(), dtype=x.dtype, device=x.device)
        output.computation = computation
        made: Self = output
        return made

    def __add__(self, other: Any) -> Tensor:
        return _sum(self, other, in_place=False)

    def __radd__(self, other: Any) -> Tensor:
        return _sum(self, other, in_place=False)

    def __iadd__(self, other: Any) -> Tensor:
        return _sum(self, other, in_place=True)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The sum and the activation that the layer awaits, in one pass with it; everything else, on its output."""
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
        """The same for code that is not Python: it is too late for gradients there."""
        leaves = tree_leaves((args, kwargs or {}))
        if any(isinstance(value, DeferredOutput) and value.computation.is_learnt_from for value in leaves):
            raise ModelError(
                f"{func} got the output of a batch norm past PyTorch's Python functions, where it would have no gradient; convert "
                "the model without example_inputs, or leave the layer out with exclude"
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
