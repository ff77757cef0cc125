"""What happens inside a network while it trains: layer by layer, at the steps that are looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.model.saturation import OF_MODULES, OF_NAMES, activations_called, dead_share
from bnkit.model.trace import as_it_was

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Quantiles are taken of so many values of a tensor at most, evenly spread: sorting is what costs.
_VALUES = 2048
_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)

# The figures of one layer at one step: plain values, None where one is not finite.
Figures = dict[str, Any]


class LayerWatch:
    """Looks at the layers of a network at single steps of its training, and leaves everything else as it is.

    What it sees of a layer, by dotted name:

    - of a batch norm: ``input`` and ``output`` (``mean``, ``deviation``, ``quantiles`` of all values, ``QUANTILES``), ``gamma``
      and ``beta`` likewise, ``running_shift`` (the distance between the running mean and the batch's, in the batch's standard
      deviations, averaged over the channels) and ``running_ratio`` (the running variance over the batch's, geometric mean);
    - of a convolution or linear layer: ``input``; ``gradient_norm`` of its weight; ``update_ratio``, the norm of what the step
      changed over the norm of the weight; and ``input_shift``, how far the step moved the distribution of its input: the
      change of each unit's mean over the same batch, in that unit's standard deviations before, averaged over the units.
      That is the internal covariate shift of Ioffe & Szegedy (2015), section 2, "the change in the distribution of
      network activations due to the change in network parameters";
    - of an activation that can saturate (ReLU, sigmoid, tanh; modules, fused into our batch norm, or functions that a module
      calls: ``block.relu``, ``block.relu.1``): ``dead``, the share of its units that stay at a limit, where they pass no
      gradient, for the whole batch. Functions are not seen in a network that is compiled, nor in one
      that calls none in the first step that is looked at.

    Args:
        model: Looked at; hooks are in it only during a step that is looked at.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._weighted = {name: module for name, module in model.named_modules() if isinstance(module, _WEIGHTED)}
        # Whether to look out for activations that are called as functions, with a mode and hooks: known after one step.
        self._calls_functions = True

    @contextmanager
    def step(self, inputs: Tensor) -> Iterator[dict[str, Figures]]:
        """Inside, a step of the optimizer is taken on ``inputs``; afterwards the dictionary holds the figures."""
        found: dict[str, Figures] = {}
        moments: dict[str, tuple[Tensor, Tensor]] = {}
        before = {name: module.weight.detach().clone() for name, module in self._weighted.items()}
        random_state = torch.get_rng_state()

        def weighted(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
                if given and isinstance(given[0], Tensor) and name not in moments:
                    moments[name] = _moments(given[0], _unit_dimension(module))
                    found.setdefault(name, {})["input"] = _distribution(given[0], moments[name])

            return hook

        functions = 0

        def called(name: str, output: Tensor, limits: tuple[float, ...]) -> None:
            nonlocal functions
            functions += 1
            if name not in found:
                found[name] = {"dead": _dead(output, limits)}

        with self._hooked(weighted, found):
            if self._calls_functions:
                with activations_called(self._model, called):
                    yield found
                self._calls_functions = functions > 0
            else:
                yield found
        after = self._moments_after(inputs, set(moments), random_state)
        for name, module in self._weighted.items():
            if name in moments:
                found[name] |= _of_weight(module.weight, before[name])
                if name in after:
                    found[name]["input_shift"] = _shift(moments[name], after[name])

    @contextmanager
    def _hooked(self, weighted: Callable[[str], Callable[..., None]], found: dict[str, Figures]) -> Iterator[None]:
        handles = []
        for name, module in self._model.named_modules():
            if name in self._weighted:
                handles.append(module.register_forward_hook(weighted(name)))
            elif isinstance(module, _BatchNorm):
                handles.append(module.register_forward_hook(_norm_hook(found.setdefault(name, {}))))
            elif type(module) in OF_MODULES:
                handles.append(module.register_forward_hook(_dead_hook(found.setdefault(name, {}))))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _moments_after(self, inputs: Tensor, names: set[str], random_state: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The moments of the layers' inputs for the same batch under the new weights, and the same dropout."""
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def hook_of(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
                found.setdefault(name, _moments(given[0], _unit_dimension(module)))

            return hook

        with as_it_was(self._model), torch.no_grad():
            torch.set_rng_state(random_state)
            handles = [self._weighted[name].register_forward_pre_hook(hook_of(name)) for name in names]
            try:
                self._model(inputs)
            finally:
                for handle in handles:
                    handle.remove()
        return found


def _norm_hook(figures: Figures) -> Callable[..., None]:
    def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        assert isinstance(module, _BatchNorm)
        if "input" in figures or not isinstance(output, Tensor):
            return
        moments = _moments(given[0], 1)
        figures["input"] = _distribution(given[0], moments)
        figures["output"] = _distribution(output, _moments(output, 1))
        if module.affine:
            for name, values in (("gamma", module.weight), ("beta", module.bias)):
                if isinstance(values, Tensor):
                    figures[name] = _distribution(values, (values.detach(), torch.zeros_like(values)))
        if module.running_mean is not None and module.running_var is not None:
            deviation = (moments[1].square() + module.eps).sqrt()
            figures["running_shift"] = _plain(((module.running_mean - moments[0]).abs() / deviation).mean())
            ratio = (module.running_var + module.eps) / deviation.square()
            figures["running_ratio"] = _plain(ratio.log().mean().exp())
        limits = OF_NAMES.get(getattr(module, "activation", None) or "")
        if limits is not None:
            figures["dead"] = _dead(output, limits)

    return hook


def _dead_hook(figures: Figures) -> Callable[..., None]:
    def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and "dead" not in figures:
            figures["dead"] = _dead(output, OF_MODULES[type(module)])

    return hook


def _dead(output: Tensor, limits: tuple[float, ...]) -> float | None:
    share = dead_share(output, limits)
    return None if share is None else _plain(share)


def _unit_dimension(module: nn.Module) -> int:
    """Where the units of a layer's input are: its last dimension, or the channels of a convolution."""
    return -1 if isinstance(module, nn.Linear) else 1


def _moments(values: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """Mean and (biased) deviation of each unit, (units,)."""
    values = values.detach()
    if not values.is_floating_point() or values.numel() == 0:
        values = values.float()
    dimension %= values.dim()
    others = [d for d in range(values.dim()) if d != dimension]
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    deviation, mean = torch.std_mean(values, dim=others or [0], correction=0)
    return mean, deviation


def _distribution(values: Tensor, moments: tuple[Tensor, Tensor]) -> Figures:
    """Mean, deviation and quantiles of all values; the first two follow from those of the units, which are equally many."""
    means, deviations = (moment.cpu().double().numpy() for moment in moments)
    with np.errstate(all="ignore"):  # of what is not finite, nothing is said
        mean = float(means.mean())
        deviation = float(np.sqrt((deviations**2 + (means - mean) ** 2).mean()))
    flat = values.detach().reshape(-1)
    # NumPy sorts a few thousand values ten times as fast as torch does.
    ordered = np.sort(flat[:: max(1, -(-flat.numel() // _VALUES))].float().cpu().numpy())
    quantiles = [_rounded(float(ordered[round(share * (len(ordered) - 1))])) for share in QUANTILES]
    return {"mean": _rounded(mean), "deviation": _rounded(deviation), "quantiles": quantiles}


def _of_weight(weight: Tensor, before: Tensor) -> Figures:
    with torch.no_grad():
        size = before.norm()
        return {
            "gradient_norm": None if weight.grad is None else _plain(weight.grad.norm()),
            "update_ratio": _plain((weight - before).norm() / size) if size > 0 else None,
        }


def _shift(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> float | None:
    """The average change of the units' means, in their deviations; units that do not vary are left out."""
    varies = before[1] > 1e-6 * before[1].max()
    if not bool(varies.any()):
        return None
    return _plain(((after[0] - before[0]).abs()[varies] / before[1][varies]).mean())


def _plain(value: Tensor) -> float | None:
    return _rounded(value.item())


def _rounded(value: float) -> float | None:
    """With as many digits as anybody reads: a record holds thousands of these."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
