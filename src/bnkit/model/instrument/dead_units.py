"""Find dead units: those whose activation passes no gradient for a whole batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from bnkit.model.instrument.batched_statistics import BatchedStatistics
from bnkit.model.preserve_state import temporary_hooks

# A unit of a saturating activation is dead if its values stay within this distance of one limit.
_NEAR = 0.01
_RELU, _RELU6, _SIGMOID, _TANH = (0.0,), (0.0, 6.0), (0.0, 1.0), (-1.0, 1.0)
# The limits of each activation: by module class, by bnkit's name, by function.
OF_MODULES: dict[type[nn.Module], tuple[float, ...]] = {
    nn.ReLU: _RELU, nn.ReLU6: _RELU6, nn.Sigmoid: _SIGMOID, nn.Tanh: _TANH,
}  # fmt: skip
OF_NAMES: dict[str, tuple[float, ...]] = {"relu": _RELU, "sigmoid": _SIGMOID, "tanh": _TANH}
_OF_FUNCTIONS: dict[Any, tuple[str, tuple[float, ...]]] = {
    function: (name, limits)
    for name, limits, functions in (
        ("relu", _RELU, (functional.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)),
        ("relu6", _RELU6, (functional.relu6,)),
        ("sigmoid", _SIGMOID, (functional.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_)),
        ("tanh", _TANH, (functional.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_)),
    )
    for function in functions
}


class DeadUnitFractions(BatchedStatistics[float]):
    """The share of units whose values all lie at one limit, for outputs (N, units, *) recorded with their limits."""

    def _reduce(self, stacked: Tensor, key: tuple[float, ...]) -> tuple[Tensor, ...]:
        others = [d for d in range(1, stacked.dim()) if d != 2]
        low, high = stacked.amin(others), stacked.amax(others)
        near = 0.0 if key == _RELU else _NEAR  # a ReLU reaches its limit exactly
        dead = torch.zeros_like(low, dtype=torch.bool)
        for limit in key:
            dead |= (low >= limit - near) & (high <= limit + near)
        return (dead.float().mean(1),)

    def _figures(self, *reduced: Tensor) -> list[float]:
        return [share for shares in reduced for share in shares.tolist()]


@contextmanager
def activations_called(model: nn.Module, note: Callable[[str, Tensor, tuple[float, ...]], None]) -> Iterator[None]:
    """Inside, ``note(name, output, limits)`` is called for each activation that ``model`` calls as a function.

    The name consists of the name of the calling module and that of the function; the second call in a forward pass is
    ``block.relu.1``. A compiled model is not observed, because observing it would recompile it.
    """
    modules = dict(model.named_modules())
    if any(_is_compiled(module) for module in modules.values()):
        yield
        return
    calls = _ActivationCalls(note)
    with temporary_hooks(hook for name, module in modules.items() for hook in calls.hooks(name, module)), calls:
        yield


class _ActivationCalls(TorchFunctionMode):
    """Tracks the running module, and reports its calls of activation functions."""

    def __init__(self, note: Callable[[str, Tensor, tuple[float, ...]], None]) -> None:
        super().__init__()
        self._note = note
        # The running modules: name, whether it is itself a known activation, and the number of calls of each function.
        self._running: list[tuple[str, bool, Counter[str]]] = []

    def hooks(self, name: str, module: nn.Module) -> Iterable[Any]:
        """Hooks that track when the module runs."""
        is_known = type(module) in OF_MODULES or isinstance(module, _BatchNorm)

        def enter(*_: Any) -> None:
            self._running.append((name, is_known, Counter()))

        def leave(*_: Any) -> None:
            while self._running and self._running.pop()[0] != name:
                pass  # a module that raised has not been removed

        return module.register_forward_pre_hook(enter), module.register_forward_hook(leave)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        activation = _OF_FUNCTIONS.get(function)
        if activation is not None and self._running and isinstance(output, Tensor):
            (name, limits), (module, is_known, counts) = activation, self._running[-1]
            if not is_known:
                counts[name] += 1
                path = f"{module}.{name}" if module else name
                self._note(path if counts[name] == 1 else f"{path}.{counts[name] - 1}", output, limits)
        return output


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None
