"""What the batch norms of a model got, call by call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.errors import DataError, ModelError, TooFewValuesError
from bnkit.model.inspect.batches import Batches
from bnkit.model.inspect.example import tensors_in
from bnkit.model.statistics.population import set_running_statistics
from bnkit.moments import Moments

Layers = Mapping[str, _BatchNorm]

Call = tuple[str, int]
"""A batch norm's dotted name, and which of its calls within one batch, from 0."""

# So many values are taken to float64 at a time: the copy stays in the processor's cache, and small beside the model's own memory.
_VALUES_AT_A_TIME = 1 << 18


@dataclass
class LayerStatistics:
    """The moments of each call's input over all batches.

    Attributes:
        moments: In the order in which the calls were first seen; on the CPU.
        leading: The calls that came first in some batch.
        passed_by: The layers that got something else than (N, C, *) in a call.
        ran: The layers that ran, with values or without.
        batches: How many batches there were.
    """

    moments: dict[Call, Moments] = field(default_factory=dict)
    leading: set[Call] = field(default_factory=set)
    unsupported: set[str] = field(default_factory=set)
    ran: set[str] = field(default_factory=set)
    batches: int = 0

    def add(self, call: Call, moments: Moments) -> None:
        """Merge ``moments`` into those of ``call``."""
        self.moments[call] = self.moments[call].merge(moments) if call in self.moments else moments

    def merge(self, other: LayerStatistics) -> LayerStatistics:
        """What was measured here and there together."""
        merged = LayerStatistics(
            dict(self.moments),
            self.leading | other.leading,
            self.unsupported | other.unsupported,
            self.ran | other.ran,
            self.batches + other.batches,
        )
        for call, moments in other.moments.items():
            merged.add(call, moments)
        return merged

    def by_layer(self) -> dict[str, Moments]:
        """The moments of all calls of a layer together, by its name."""
        layers = LayerStatistics()
        for (name, _), moments in self.moments.items():
            layers.add((name, 0), moments)
        return {name: moments for (name, _), moments in layers.moments.items()}


class _StopForward(BaseException):
    """Ends a forward pass whose rest nobody needs. Not an Exception: a model that catches those would go on."""


def collect_statistics(
    model: nn.Module,
    layers: Layers,
    batches: Batches,
    given: Iterable[Any],
    *,
    accept_single: bool = False,
) -> LayerStatistics:
    """Every call of ``layers``, each behind layers that normalise with the statistics of the batch.

    The statistics are put into the buffers of the layer, which evaluates: no layer runs in training mode, where it would
    count, refuse, or wait for other processes. The buffers are not given back here.

    Args:
        given: The batches themselves, once through.
        accept_single: Take one value per channel, which normalises by what stood in the buffers before.

    Raises:
        TooFewValuesError: A layer got one value per channel, and that is not accepted.
        ModelError, DataError: NaN or inf reached a layer, or the model raised.
    """
    statistics = LayerStatistics()

    def see(layer: _BatchNorm, call: Call, values: Tensor, batch: Any) -> None:
        moments = _moments(values)
        _check_finite(moments, call, statistics.batches, batch)
        if moments.count == 1 and not accept_single:
            raise TooFewValuesError(
                f"batch norm {call[0]!r} got one value per channel in batch {statistics.batches}, shape {tuple(values.shape)}, "
                "which has no deviation to normalise by; drop the last short batch (drop_last=True), use larger batches, or "
                "sequential=True, which takes batches of any size"
            )
        if moments.count > 0:
            statistics.add(call, moments)
        if moments.count > 1:
            set_running_statistics(layer, moments, unbiased=False)

    _run_batches(model, layers, batches, given, statistics, see)
    return statistics


def collect_calls(model: nn.Module, layers: Layers, batches: Batches, calls: AbstractSet[Call]) -> LayerStatistics:
    """Some calls, behind layers that normalise with what stands in their buffers. Each forward pass ends with the last.

    Raises:
        ModelError, DataError: NaN or inf reached a layer, or the model raised.
    """
    statistics = LayerStatistics()
    batch_of_last = seen = 0

    def see(layer: _BatchNorm, call: Call, values: Tensor, batch: Any) -> None:
        nonlocal batch_of_last, seen
        if call not in calls:
            return
        moments = _moments(values)
        _check_finite(moments, call, statistics.batches, batch)
        statistics.add(call, moments)
        seen = seen + 1 if batch_of_last == statistics.batches else 1
        batch_of_last = statistics.batches
        if seen == len(calls):
            raise _StopForward

    _run_batches(model, layers, batches, batches, statistics, see)
    return statistics


def _run_batches(
    model: nn.Module,
    layers: Layers,
    batches: Batches,
    given: Iterable[Any],
    statistics: LayerStatistics,
    see: Callable[[_BatchNorm, Call, Tensor, Any], None],
) -> None:
    """Run ``model`` on all batches; ``see`` gets each layer, its call, what came in, and the batch."""
    counts: Counter[str] = Counter()
    batch: Any = None

    def hook_of(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            assert isinstance(layer, _BatchNorm)
            values = arguments[0] if arguments else keywords.get("input", next(iter(keywords.values()), None))
            assert layer.running_mean is not None
            # Not what the layer says: its tensors may have been cut by hand.
            if not isinstance(values, Tensor) or values.dim() < 2 or values.shape[1] != layer.running_mean.numel():
                statistics.unsupported.add(name)  # most layers raise on it, too
                return
            call = (name, counts[name])
            if not counts:
                statistics.leading.add(call)
            counts[name] += 1
            statistics.ran.add(name)
            see(layer, call, values, batch)

        return hook

    with _hooked(layers, hook_of):
        for batch in given:
            statistics.batches += 1
            counts.clear()
            try:
                batches.run(model, batch, statistics.batches)
            except _StopForward:
                continue
    statistics.moments = {call: _on_the_cpu(moments) for call, moments in statistics.moments.items()}


@contextmanager
def _hooked(layers: Layers, hook_of: Callable[[str], Callable[..., None]]) -> Iterator[None]:
    hooks = [layer.register_forward_pre_hook(hook_of(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _moments(values: Tensor) -> Moments:
    """The moments of ``values``, (N, C, *), in float64, a few examples at a time."""
    values = values.detach()
    if values.device.type == "mps":  # has no float64
        values = values.cpu()
    first, *others = torch.split(values, max(1, _VALUES_AT_A_TIME // max(1, values.shape[1:].numel())))
    moments = Moments.of(first)
    for part in others:
        moments = moments.merge(Moments.of(part))
    return moments


def _check_finite(moments: Moments, call: Call, number: int, batch: Any) -> None:
    if moments.squared_deviations.isfinite().all():
        return
    if all(tensor.isfinite().all() for _, tensor in tensors_in(batch) if tensor.is_floating_point()):
        raise ModelError(
            f"NaN or inf reached batch norm {call[0]!r} in batch {number}, which itself is finite; expected finite values: look "
            "at the weights before that layer"
        )
    raise DataError(
        f"batch {number} holds NaN or inf, which reached batch norm {call[0]!r}; expected finite values: mend or leave out the "
        "batch"
    )


def _on_the_cpu(moments: Moments) -> Moments:
    return Moments(moments.count.cpu(), moments.mean.cpu(), moments.squared_deviations.cpu())
