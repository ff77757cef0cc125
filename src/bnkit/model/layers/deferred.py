"""A batch norm that waits for the sum and the activation that a network's own code applies to what it returns.

The code stays as it is. What the layer returns stands for its output: nothing is computed until something is done with it. Where
that is the sum, the activation, or both, the layer does them in the same pass over memory; whatever else it is, gets the output
that the layer would have returned at once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as module_hooks
from torch.utils._pytree import tree_leaves, tree_map_only

from bnkit.errors import ModelError
from bnkit.kernels.activation import LEAKY_SLOPE
from bnkit.kernels.fused.tracing import is_plain_eager
from bnkit.nn.batch_norm import _BatchNorm
from bnkit.nn.dispatch import batch_stats_forward, is_fused, running_stats_forward

# Under this name a layer keeps what it has returned last, as long as somebody has it.
_LATEST = "_latest_computation"


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
        kept = self.__dict__.get(_LATEST)
        earlier = None if kept is None else kept()
        if earlier is not None and earlier.is_open:  # the buffers follow the inputs in their order
            earlier.result()
        computation = _Computation(self, input)
        self.__dict__[_LATEST] = weakref.ref(computation)
        return DeferredOutput(computation)

    def normalised_again(self, input: Tensor) -> Tensor:
        """The output for an input that has moved the buffers already."""
        mean, var, _ = self._statistics()
        if self.training or mean is None or var is None:
            return batch_stats_forward(input, self._args(None), None, None, otherwise=(mean, var))[0]
        return running_stats_forward(input, mean, var, self._args(None), None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != _LATEST}

    def extra_repr(self) -> str:
        """That of the layer, and what it waits for."""
        awaited = ["sum"] * self.awaits_sum + ([] if self.awaited_activation is None else [self.awaited_activation])
        return f"{super().extra_repr()}, fused={' and '.join(awaited)!r}"

    def _may_wait(self, input: Tensor) -> bool:
        return (
            (is_plain_eager(input) if self.waits_always else is_fused(self.kernel, input))
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
        self.is_differentiated = torch.is_grad_enabled() if source is None else source.is_differentiated
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
        output = Tensor._make_wrapper_subclass(cls, x.shape, x.stride(), dtype=x.dtype, device=x.device)  # type: ignore[attr-defined]
        output.computation = computation
        made: Self = output
        return made

    def __add__(self, other: Any) -> Tensor:
        return _sum(self, other, in_place=False)

    def __radd__(self, other: Any) -> Tensor:
        return _sum(self, other, in_place=False)

    def __iadd__(self, other: Any) -> Tensor:  # type: ignore[misc,override]
        return _sum(self, other, in_place=True)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The sum and the activation that the layer awaits, in one pass with it; everything else, on its output."""
        if func in _ABOUT_SHAPE:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        if func in _SUMS and len(args) == 2 and not kwargs:
            first, second = args
            if isinstance(first, DeferredOutput):
                return _sum(first, second, in_place=_SUMS[func])
            if not _SUMS[func]:
                return _sum(second, first, in_place=False)
        if func in _ACTIVATIONS and isinstance(args[0] if args else None, DeferredOutput):
            name, in_place = _activation_in(func, args[1:], kwargs or {})
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
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The same for code that is not Python: it is too late for gradients there."""
        found = tree_leaves((args, kwargs or {}))
        if any(isinstance(value, DeferredOutput) and value.computation.is_learnt_from for value in found):
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


def _activation_in(func: Callable[..., Any], extra: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str | None, bool]:
    """The name of the activation that a call is, None where its arguments make it another one; and whether it is in place."""
    name, in_place, arguments = _ACTIVATIONS[func]
    given = {**dict(zip(arguments, extra, strict=False)), **kwargs}
    in_place = bool(given.pop("inplace", in_place))
    is_usual = len(extra) <= len(arguments) and all(_USUAL.get(key) == value for key, value in given.items())
    if func is functional.hardtanh:  # which is something else by itself
        is_usual = is_usual and len(given) == 2
    return name if is_usual else None, in_place


# The arguments that an activation has by its name.
_USUAL = {"negative_slope": LEAKY_SLOPE, "approximate": "none", "min_val": 0.0, "max_val": 6.0}
# By function: the name, whether it is in place, and what it takes besides.
_ACTIVATIONS: dict[Any, tuple[str, bool, tuple[str, ...]]] = {
    functional.relu: ("relu", False, ("inplace",)),
    functional.leaky_relu: ("leaky_relu", False, ("negative_slope", "inplace")),
    functional.hardtanh: ("relu6", False, ("min_val", "max_val", "inplace")),
    functional.relu6: ("relu6", False, ("inplace",)),
    functional.silu: ("silu", False, ("inplace",)),
    functional.gelu: ("gelu", False, ()),
    functional.leaky_relu_: ("leaky_relu", True, ("negative_slope",)),
    **{
        function: (name, name_in_torch.endswith("_"), ())
        for name in ("relu", "sigmoid", "tanh")
        for name_in_torch in (name, f"{name}_")
        for home in (torch, Tensor)
        for function in [getattr(home, name_in_torch)]
    },
}
# Whether they are in place.
_SUMS: dict[Any, bool] = {torch.add: False, Tensor.add: False, Tensor.add_: True, Tensor.__add__: False}
_ABOUT_SHAPE = frozenset(
    {
        Tensor.shape.__get__,  # type: ignore[attr-defined]
        Tensor.dtype.__get__,  # type: ignore[attr-defined]
        Tensor.device.__get__,  # type: ignore[attr-defined]
        Tensor.ndim.__get__,  # type: ignore[attr-defined]
        Tensor.size,
        Tensor.dim,
        Tensor.numel,
    }
)
