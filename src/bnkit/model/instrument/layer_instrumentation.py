"""Record statistics of a network's layers at selected training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.model.instrument.dead_units import OF_MODULES, OF_NAMES, DeadUnitFractions, activations_called
from bnkit.model.instrument.distributions import QUANTILES, Array, Distribution, Distributions, round_sig
from bnkit.model.preserve_state import RngState, preserve_model, temporary_hooks

__all__ = ["QUANTILES", "LayerInstrumentation"]

_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)

# The figures of one layer at one step: plain values, None for those that are not finite.
Figures = dict[str, Any]


class LayerInstrumentation:
    """Records figures of a network's layers at single training steps, without changing the training.

    The figures of each layer, by dotted name:

    - batch norm: ``input`` and ``output`` (``mean``, ``deviation``, ``quantiles`` of all values, ``QUANTILES``),
    ``gamma``
      and ``beta`` likewise, ``running_shift`` (the distance between the running mean and the batch's, in the batch's standard
      deviations, averaged over the channels) and ``running_ratio`` (the running variance over the batch's, geometric mean);
    - convolution or linear layer: ``input``; ``gradient_norm`` of its weight; ``update_ratio``, the norm of the update
      divided by the norm of the weight; and ``input_shift``, how far the step moved the distribution of its input: the
      change of each unit's mean over the same batch, in that unit's standard deviations before, averaged over the units.
      That is the internal covariate shift of Ioffe & Szegedy (2015), section 2, "the change in the distribution of
      network activations due to the change in network parameters";
    - activation that can saturate (ReLU, sigmoid, tanh; a module, fused into bnkit's batch norm, or a function that a
      module calls: ``block.relu``, ``block.relu.1``): ``dead``, the share of units that stay at a limit, where they
      pass no gradient, for the whole batch. Functions are not observed in a compiled network, nor in a network that
      calls none in the first observed step.

    Args:
        model: The network; it has hooks only during an observed step.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._weighted = {name: module for name, module in self._modules.items() if isinstance(module, _WEIGHTED)}
        # Whether to observe activation functions, with a mode and hooks: known after the first observed step.
        self._calls_functions = True

    @contextmanager
    def step(self, inputs: Tensor) -> Iterator[dict[str, Figures]]:
        """Observe the optimizer step on ``inputs`` made inside; afterwards the dictionary holds the figures."""
        observed = _ObservedStep()
        before = {name: module.weight.detach().clone() for name, module in self._weighted.items()}
        random_state = RngState()
        with self._hooked(observed):
            if self._calls_functions:
                with activations_called(self._model, observed.function):
                    yield observed.by_layer
                self._calls_functions = observed.functions > 0
            else:
                yield observed.by_layer
        after = self._inputs_after(inputs, observed.inputs, random_state)
        of_inputs = observed.compute()
        seen = {name: self._weighted[name] for name in of_inputs}
        for name, figures in _of_weights(seen, before).items():
            observed.by_layer[name] |= figures
            if name in after:
                observed.by_layer[name]["input_shift"] = _shift(of_inputs[name], after[name])

    @contextmanager
    def _hooked(self, observed: _ObservedStep) -> Iterator[None]:
        handles = []
        for name, module in self._modules.items():
            if name in self._weighted:
                handles.append(module.register_forward_hook(observed.weighted(name)))
            elif isinstance(module, _BatchNorm):
                handles.append(module.register_forward_hook(observed.norm(name)))
            elif type(module) in OF_MODULES:
                handles.append(module.register_forward_hook(observed.activation(name)))
        with temporary_hooks(handles):
            yield

    def _inputs_after(self, inputs: Tensor, names: Iterable[str], random_state: RngState) -> dict[str, Distribution]:
        """The inputs of the layers for the same batch and dropout, with the new weights."""
        numbers: dict[str, int] = {}
        noted = Distributions(quantiles=False)

        def hook_of(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
                if name not in numbers:
                    numbers[name] = noted.note(inputs[0], _unit_dimension(module))

            return hook

        with preserve_model(self._model), torch.no_grad():
            random_state.restore()
            with temporary_hooks(self._weighted[name].register_forward_pre_hook(hook_of(name)) for name in names):
                self._model(inputs)
        distributions = noted.compute()
        return {name: distributions[number] for name, number in numbers.items()}


class _ObservedStep:
    """One observed step. Its hooks only collect tensors; ``compute`` turns them into figures together.

    Attributes:
        by_layer: The figures by layer.
        inputs: The index of the recorded input of each layer with weights.
        functions: The number of observed calls of activation functions.
    """

    def __init__(self) -> None:
        self.by_layer: dict[str, Figures] = {}
        self.inputs: dict[str, int] = {}
        self.functions = 0
        self._noted = Distributions()
        # The layer and key of each recorded tensor's figures.
        self._destinations: list[tuple[str, str]] = []
        # For each batch norm: running mean, running variance, eps, and the index of its recorded input.
        self._running: dict[str, tuple[Tensor, Tensor, float, int]] = {}
        self._outputs = DeadUnitFractions()
        # The names of the activations whose outputs were recorded.
        self._activations: list[str] = []

    def _note(self, name: str, key: str, values: Tensor, dimension: int) -> int:
        self._destinations.append((name, key))
        return self._noted.note(values, dimension)

    def weighted(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor) and inputs[0].numel() and name not in self.inputs:
                self.by_layer.setdefault(name, {})
                self.inputs[name] = self._note(name, "input", inputs[0], _unit_dimension(module))

        return hook

    def norm(self, name: str) -> Callable[..., None]:
        self.by_layer[name] = {}
        seen = False

        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            nonlocal seen
            assert isinstance(module, _BatchNorm)
            if seen or not isinstance(output, Tensor) or not output.numel():
                return
            seen = True
            number = self._note(name, "input", inputs[0], 1)
            self._note(name, "output", output, 1)
            if module.affine:
                for key, values in (("gamma", module.weight), ("beta", module.bias)):
                    if isinstance(values, Tensor):
                        self._note(name, key, values, 0)
            mean, variance = module.running_mean, module.running_var
            if mean is not None and variance is not None:
                self._running[name] = mean.detach().clone(), variance.detach().clone(), module.eps, number
            limits = OF_NAMES.get(getattr(module, "activation", None) or "")
            if limits is not None:
                self.dead(name, output, limits)

        return hook

    def activation(self, name: str) -> Callable[..., None]:
        self.by_layer[name] = {}

        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                self.dead(name, output, OF_MODULES[type(module)])

        return hook

    def function(self, name: str, output: Tensor, limits: tuple[float, ...]) -> None:
        self.functions += 1
        if name not in self.by_layer:
            self.dead(name, output, limits)

    def dead(self, name: str, output: Tensor, limits: tuple[float, ...]) -> None:
        figures = self.by_layer.setdefault(name, {})
        if "dead" not in figures:
            figures["dead"] = None  # the output has no units
            if output.dim() > 1 and output.numel():
                self._activations.append(name)
                self._outputs.note(output, limits)

    def compute(self) -> dict[str, Distribution]:
        """Fill ``by_layer``, and return the distributions of the inputs of the layers with weights."""
        distributions = self._noted.compute()
        for (name, key), distribution in zip(self._destinations, distributions, strict=True):
            self.by_layer[name][key] = distribution.figures
        for name, share in zip(self._activations, self._outputs.compute(), strict=True):
            self.by_layer[name]["dead"] = round_sig(share)
        for name, (mean, variance, eps, number) in self._running.items():
            self.by_layer[name] |= _of_running(_array(mean), _array(variance), eps, distributions[number])
        return {name: distributions[number] for name, number in self.inputs.items()}


def _unit_dimension(module: nn.Module) -> int:
    """The dimension of the units of a layer's input: the channels for a convolution, otherwise the last one."""
    return -1 if isinstance(module, nn.Linear) else 1


def _of_running(mean: Array, variance: Array, eps: float, batch: Distribution) -> Figures:
    """The distance of the running statistics from the batch's."""
    of_batch = batch.deviations**2 + eps
    with np.errstate(all="ignore"):  # values that are not finite become None
        shift = (np.abs(mean - batch.means) / np.sqrt(of_batch)).mean()
        ratio = np.exp(np.log((variance + eps) / of_batch).mean())
    return {"running_shift": round_sig(float(shift)), "running_ratio": round_sig(float(ratio))}


def _of_weights(layers: Mapping[str, nn.Module], before: Mapping[str, Tensor]) -> dict[str, Figures]:
    """The gradient norm of each layer, and the norm of its update divided by that of its weight."""
    if not layers:
        return {}
    weights = {name: layer.get_parameter("weight") for name, layer in layers.items()}
    olds = [before[name] for name in weights]
    gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    with torch.no_grad():
        # The multi-tensor operations that PyTorch's optimizers use.
        moved = _values(torch._foreach_norm(torch._foreach_sub(list(weights.values()), olds)))
        sizes = _values(torch._foreach_norm(olds))
        norms = _values(torch._foreach_norm(list(gradients.values()))) if gradients else []
    of_gradients = dict(zip(gradients, norms, strict=True))
    return {
        name: {
            "gradient_norm": round_sig(of_gradients[name]) if name in of_gradients else None,
            "update_ratio": round_sig(move / size) if size > 0 else None,
        }
        for name, move, size in zip(weights, moved, sizes, strict=True)
    }


def _shift(before: Distribution, after: Distribution) -> float | None:
    """The average change of the units' means, in their deviations; constant units are left out."""
    varies = before.deviations > 1e-6 * before.deviations.max()
    if not varies.any():
        return None
    return round_sig(float((np.abs(after.means - before.means)[varies] / before.deviations[varies]).mean()))


def _values(scalars: Sequence[Tensor]) -> list[float]:
    """The values of 0-d tensors, fetched together."""
    if not scalars:
        return []
    values: list[float] = torch.stack([scalar.to(scalars[0].device, torch.float32) for scalar in scalars]).tolist()
    return values


def _array(values: Tensor) -> Array:
    array: Array = values.cpu().double().numpy()
    return array
