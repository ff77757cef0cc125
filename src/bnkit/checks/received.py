"""What every batch norm got, batch by batch, noted while a model runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.kernels.measuring import PlaneMoments, plane_moments
from bnkit.model.counterparts import OURS, PLAIN
from bnkit.model.frozen import bare_class
from bnkit.model.norms import BatchNormLike, Place
from bnkit.model.population import store
from bnkit.moments import Moments

# Classes whose own training pass gives the moments of its input.
_GIVE_MOMENTS = frozenset((*OURS.values(), *PLAIN.values()))
# From so many values in one batch on, it pays to load compiled loops (half a second), which measure at the speed of memory: a
# batch norm takes five to ten times as long in training mode as in evaluation.
_LONG = 1 << 21


@dataclass
class Received:
    """What one batch norm got.

    Attributes:
        place: The batch norm.
        batches: For each batch, the moments of its input over all its calls in that batch, finite or not; None where it did
            not run.
        calls: How often it ran in each batch.
        examples: How many examples there were in all calls together.
        means: For each batch the mean of each channel over the positions of each example, (N, C), of the first call; of the
            batch norm that runs first only.
    """

    place: Place
    batches: list[Moments | None] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    examples: int = 0
    means: list[Tensor] = field(default_factory=list)

    @cached_property
    def population(self) -> Moments | None:
        """The moments over all batches; None if it never ran, or never on two values."""
        found = [moments for moments in self.batches if moments is not None]
        merged = reduce(Moments.merge, found) if found else None
        return merged if merged is not None and merged.count > 1 else None


def is_measured(place: Place) -> bool:
    """Whether the statistics of data could stand in the buffers of a batch norm, and would be used."""
    found, module = place.found, place.module
    return (
        isinstance(found, BatchNormLike)
        and not found.is_frozen
        and isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and module.running_var is not None
    )


class Watch:
    """Notes the moments of what each batch norm gets, and lets it normalise by those of the batch.

    Args:
        places: The batch norms.
        received: Where what they got is entered, by their first dotted names, in the order in which they first run.
    """

    def __init__(self, places: Sequence[Place], received: dict[str, Received]) -> None:
        self._places, self._received = places, received
        self._calls: Counter[str] = Counter()
        self._moments: dict[str, Moments] = {}
        self._values = 0

    def begin(self) -> None:
        """Say that a batch begins."""
        self._calls.clear()
        self._moments.clear()
        self._values = 0

    def end(self, count: int) -> None:
        """Enter what was noted as that of batch ``count``."""
        for name, received in self._received.items():
            missing = count - 1 - len(received.batches)
            received.batches += [None] * missing
            received.calls += [0] * missing
            received.batches.append(self._moments.get(name))
            received.calls.append(self._calls[name])

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside, it watches. Modes, momenta and classes are as before afterwards; buffers are not."""
        handles = []
        momenta = {place.module: place.module.momentum for place in self._places if _gives_moments(place)}
        try:
            for place in self._places:
                call = _Call(self, place)
                handles.append(place.module.register_forward_pre_hook(call.before, with_kwargs=True))
                handles.append(place.module.register_forward_hook(call.after, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module, momentum in momenta.items():
                module.momentum = momentum
                module.training = False

    def is_long(self, values: Tensor) -> bool:
        """Whether the batch norms have got many values in this batch, these among them."""
        self._values += values.numel()
        return self._values > _LONG

    def enter(self, place: Place, values: Tensor, planes: PlaneMoments | None) -> None:
        """Note that a batch norm was called."""
        received = self._received.setdefault(place.name, Received(place))
        received.examples += len(values)
        if self._calls[place.name] == 0 and next(iter(self._received)) == place.name:
            if planes is not None:
                received.means.append(planes.means)
                return
            means = values.flatten(2).mean(2) if values.dim() > 2 else values
            received.means.append(means.detach().double().cpu().clone())

    def add(self, place: Place, moments: Moments) -> None:
        """Note the moments of what the batch norm was called with."""
        name = place.name
        if moments.mean.device.type != "cpu":
            moments = Moments(moments.count.cpu(), moments.mean.cpu(), moments.squared_deviations.cpu())
        self._calls[name] += 1
        self._moments[name] = self._moments[name].merge(moments) if name in self._moments else moments


class _Call:
    """What happens around a call of one batch norm.

    Its moments come from where they cost least: in a long batch from the compiled loops, the layer then evaluates with
    them; from the layer's own pass in training mode; or from a pass over the values.
    """

    def __init__(self, watch: Watch, place: Place) -> None:
        self._watch, self._place, self._gives = watch, place, _gives_moments(place)

    def before(self, layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        values = _input(arguments, keywords)
        if values is None:
            return  # the layer says what is wrong with it
        planes = plane_moments(values) if self._watch.is_long(values) else None
        self._watch.enter(self._place, values, planes)
        count = values.numel() // max(1, values.shape[1])
        layer.training = self._gives and count > 1 and planes is None
        if layer.training:
            layer.momentum = 1.0  # type: ignore[assignment]
            for buffer in (layer.running_mean, layer.running_var):
                buffer.zero_()  # type: ignore[operator]  # no times NaN is NaN
            return
        moments = Moments.of(values) if planes is None else planes.whole
        self._watch.add(self._place, moments)
        if moments.count > 1 and is_measured(self._place) and values.shape[1] == len(layer.running_mean):  # type: ignore[arg-type]
            store(layer, moments, unbiased=False)  # type: ignore[arg-type]

    def after(self, layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        values = _input(arguments, keywords)
        if not layer.training or values is None:
            return
        layer.training = False
        assert isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None
        count = values.numel() // values.shape[1]
        self._watch.add(self._place, Moments.of_batch(count, layer.running_mean, layer.running_var))


def _input(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor | None:
    values = arguments[0] if arguments else keywords.get("input", next(iter(keywords.values()), None))
    return values if isinstance(values, Tensor) and values.dim() >= 2 else None


def _gives_moments(place: Place) -> bool:
    """Whether a training pass of the layer leaves the moments of its input in its buffers, and does nothing else."""
    module = place.module
    return (
        is_measured(place)
        and bare_class(module) in _GIVE_MOMENTS
        and bool(getattr(module, "track_running_stats", False))
        and not getattr(module, "sync", False)
        and not getattr(module, "skip_nonfinite", False)
        and getattr(module, "virtual_batch_size", None) is None
        and all(buffer.dtype in (torch.float32, torch.float64) for buffer in (module.running_mean, module.running_var))
    )
