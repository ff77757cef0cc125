"""Noting what every batch norm gets while a model runs, where that costs least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.checks.input_statistics import InputStatistics, takes_statistics
from bnkit.kernels.channel_moments import PlaneMoments, plane_moments
from bnkit.model.inspect.recognise import Place
from bnkit.model.layers.activated import OURS, PLAIN
from bnkit.model.layers.frozen import bare_class
from bnkit.model.statistics.population import set_running_statistics
from bnkit.moments import Moments

# Classes whose own training pass gives the moments of its input.
_GIVE_MOMENTS = frozenset((*OURS.values(), *PLAIN.values()))
# Those of PyTorch, whose forward pass is known, and the dimensions of what they take.
_RANKS: dict[type[nn.Module], tuple[int, ...]] = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}
# From so many values in one batch on, it pays to load compiled loops (half a second), which measure at the speed of memory: a
# batch norm takes five to ten times as long in training mode as in evaluation.
_LONG = 1 << 21


class ActivationCollector:
    """Notes the moments of what each batch norm gets, and lets it normalise by those of the batch.

    Args:
        sites: The batch norms.
        inputs: Where what they got is entered, by their first dotted names, in the order in which they first run.
    """

    def __init__(self, sites: Sequence[Place], inputs: dict[str, InputStatistics]) -> None:
        self._sites, self._inputs = sites, inputs
        self._noted: dict[str, list[Moments | PlaneMoments]] = {}
        self._values = 0

    def begin(self) -> None:
        """Say that a batch begins."""
        self._noted.clear()
        if self._values <= _LONG:
            self._values = 0

    def end(self, count: int) -> None:
        """Enter what was noted as that of batch ``count``."""
        for name, inputs in self._inputs.items():
            missing = count - 1 - len(inputs.batches)
            inputs.batches += [None] * missing
            inputs.calls += [0] * missing
            noted = self._noted.get(name, [])
            moments = [one.whole if isinstance(one, PlaneMoments) else one for one in noted]
            inputs.batches.append(reduce(Moments.merge, moments) if moments else None)
            inputs.calls.append(len(moments))

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Inside, it watches. Modes, momenta and classes are as before afterwards; buffers are not."""
        handles = []
        momenta = {site.module: site.module.momentum for site in self._sites if _gives_moments(site)}
        replaced = [site.module for site in self._sites if _is_pytorchs(site)]
        try:
            for site in self._sites:
                call = _Call(self, site)
                if _is_pytorchs(site):
                    vars(site.module)["forward"] = call.forward
                else:
                    handles.append(site.module.register_forward_pre_hook(call.before, with_kwargs=True))
                    handles.append(site.module.register_forward_hook(call.after, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in replaced:
                vars(module).pop("forward", None)
            for module, momentum in momenta.items():
                module.momentum = momentum
                module.training = False

    def is_long(self, values: Tensor) -> bool:
        """Whether the batch norms have got many values in this batch, these among them, or in one before."""
        if self._values <= _LONG:
            self._values += values.numel()
        return self._values > _LONG

    def enter(self, site: Place, values: Tensor, planes: PlaneMoments | None) -> None:
        """Note that a batch norm was called."""
        inputs = self._inputs.get(site.name)
        if inputs is None:
            inputs = self._inputs[site.name] = InputStatistics(site)
        inputs.examples += values.shape[0]
        if site.name not in self._noted and next(iter(self._inputs)) == site.name:
            if planes is not None:
                inputs.means.append(planes.means)
                return
            means = values.flatten(2).mean(2) if values.dim() > 2 else values
            inputs.means.append(means.detach().double().cpu().clone())

    def add(self, site: Place, moments: Moments | PlaneMoments) -> None:
        """Note the moments of what the batch norm was called with."""
        if isinstance(moments, Moments) and moments.mean.device.type != "cpu":
            moments = Moments(moments.count.cpu(), moments.mean.cpu(), moments.squared_deviations.cpu())
        self._noted.setdefault(site.name, []).append(moments)


class _Call:
    """What happens around a call of one batch norm, or in its place.

    Its moments come from where they cost least: in a long batch from the compiled loops, the layer then evaluates with
    them; from the layer's own pass in training mode; or from a pass over the values.
    """

    def __init__(self, collector: ActivationCollector, site: Place) -> None:
        self._collector, self._site, self._gives = collector, site, _gives_moments(site)
        self._ranks = _RANKS.get(bare_class(site.module), ())

    def forward(self, input: Tensor) -> Tensor:
        """In place of the forward pass of a layer of PyTorch's.

        In as few steps as there can be: behind a convolution nothing of this is in the processor's caches, and each step takes
        tens of microseconds.
        """
        layer = self._site.module
        assert isinstance(layer, _BatchNorm)
        values = _input((input,), {})
        if values is not None:
            planes = self._planes(values)
            if planes is not None and planes.values > 1 and self._fits(layer, values):
                self._collector.enter(self._site, values, planes)
                self._collector.add(self._site, planes)
                mean, variance = planes.mean_and_variance(values.dtype)
                return functional.batch_norm(values, mean, variance, layer.weight, layer.bias, False, 0.0, layer.eps)
            self._begin(layer, values, planes)
        output: Tensor = type(layer).forward(layer, input)
        if values is not None:
            self._end(layer, values)
        return output

    def before(self, layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        values = _input(arguments, keywords)
        if values is not None:  # or the layer says what is wrong with it
            self._begin(layer, values, self._planes(values))

    def after(self, layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        values = _input(arguments, keywords)
        if values is not None:
            self._end(layer, values)

    def _planes(self, values: Tensor) -> PlaneMoments | None:
        return plane_moments(values) if self._collector.is_long(values) else None

    def _begin(self, layer: nn.Module, values: Tensor, planes: PlaneMoments | None) -> None:
        """Note the moments, and let the layer evaluate with them; or let it train, and note them at the end."""
        self._collector.enter(self._site, values, planes)
        count = values.numel() // max(1, values.shape[1])
        layer.training = self._gives and count > 1 and planes is None
        if layer.training:
            layer.momentum = 1.0  # type: ignore[assignment]
            for buffer in (layer.running_mean, layer.running_var):
                buffer.zero_()  # type: ignore[operator]  # no times NaN is NaN
            return
        moments = Moments.of(values) if planes is None else planes.whole
        self._collector.add(self._site, moments)
        if moments.count > 1 and takes_statistics(self._site) and values.shape[1] == len(layer.running_mean):  # type: ignore[arg-type]
            set_running_statistics(layer, moments, unbiased=False)  # type: ignore[arg-type]

    def _end(self, layer: nn.Module, values: Tensor) -> None:
        if not layer.training:
            return
        layer.training = False
        assert isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None
        count = values.numel() // values.shape[1]
        self._collector.add(self._site, Moments.of_batch(count, layer.running_mean, layer.running_var))

    def _fits(self, layer: _BatchNorm, values: Tensor) -> bool:
        """Whether the layer takes ``values`` and computes in their dtype: others it refuses itself, or converts."""
        tensors = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        return values.dim() in self._ranks and all(
            t is None or (t.dtype == values.dtype and t.shape[0] == values.shape[1]) for t in tensors
        )


def _input(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor | None:
    values = arguments[0] if arguments else keywords.get("input", next(iter(keywords.values()), None))
    return values if isinstance(values, Tensor) and values.dim() >= 2 else None


def _is_pytorchs(site: Place) -> bool:
    """Whether the layer does what PyTorch's do, and nothing else."""
    return _gives_moments(site) and bare_class(site.module) in _RANKS


def _gives_moments(site: Place) -> bool:
    """Whether a training pass of the layer leaves the moments of its input in its buffers, and does nothing else."""
    module = site.module
    return (
        takes_statistics(site)
        and bare_class(module) in _GIVE_MOMENTS
        and bool(getattr(module, "track_running_stats", False))
        and not getattr(module, "sync", False)
        and not getattr(module, "skip_nonfinite", False)
        and getattr(module, "virtual_batch_size", None) is None
        and all(buffer.dtype in (torch.float32, torch.float64) for buffer in (module.running_mean, module.running_var))
    )
