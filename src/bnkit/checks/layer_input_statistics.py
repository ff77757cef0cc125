"""Statistics of the inputs of a model's batch norms, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.kernels.channel_moments import PlaneMoments, plane_moments
from bnkit.mergeable_moments import Moments
from bnkit.model.inspect.recognise_batch_norm import BatchNormLike, BatchNormSite
from bnkit.model.statistics.measure_population_statistics import BatchNormCall, collect

# From this many values in one batch on, it pays to load the compiled loops (half a second), which run at memory speed.
_LONG = 1 << 21


@dataclass
class InputStatistics:
    """Statistics of the input of one batch norm.

    Attributes:
        site: The batch norm.
        batches: For each batch, the moments of its input over all its calls in that batch, finite or not; None if it did
            not run.
        calls: The number of calls in each batch.
        examples: The number of examples in all calls together.
        means: For each batch the mean of each channel over the positions of each example, (N, C), of the first call; only for
            the batch norm that runs first.
    """

    site: BatchNormSite
    batches: list[Moments | None] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    examples: int = 0
    means: list[Tensor] = field(default_factory=list)

    def add(self, call: BatchNormCall, moments: Moments) -> None:
        """Add the moments of a call."""
        self.pad(call.batch_number)
        before = self.batches[-1]
        self.batches[-1] = moments if before is None else before.merge(moments)
        self.calls[-1] += 1
        self.examples += call.values.shape[0]

    def pad(self, count: int) -> None:
        """Fill the lists up to ``count`` batches."""
        missing = count - len(self.batches)
        self.batches += [None] * missing
        self.calls += [0] * missing

    @cached_property
    def population(self) -> Moments | None:
        """The moments over all batches; None if it never ran, or never on two values."""
        measured = [moments for moments in self.batches if moments is not None]
        merged = reduce(Moments.merge, measured) if measured else None
        return merged if merged is not None and merged.count > 1 else None


class ActivationCollector:
    """Measures the input of each batch norm while all batch norms normalise with the statistics of the batch.

    Args:
        sites: The batch norms, in evaluation mode. The caller restores their buffers.

    Attributes:
        statistics: The statistics of their inputs, by first dotted name, in the order of the first run.
    """

    def __init__(self, sites: Sequence[BatchNormSite]) -> None:
        self.statistics: dict[str, InputStatistics] = {}
        self._sites = {site.name: site for site in sites}
        self._values = 0

    def collect(self, batches: Iterable[Any], run: Callable[[Any, int], object]) -> int:
        """Measure all ``batches``, with ``run`` to run the model on each, and return their number."""
        count = collect({name: site.module for name, site in self._sites.items()}, batches, run, self._on_call)
        for statistics in self.statistics.values():
            statistics.pad(count)
        return count

    def _on_call(self, call: BatchNormCall) -> Moments | None:
        planes = plane_moments(call.values) if self._is_long(call) and call.mask is None else None
        moments = call.moments if planes is None else planes.whole
        site = self._sites[call.name]
        statistics = self.statistics.setdefault(call.name, InputStatistics(site))
        statistics.add(call, moments)
        if call.number == 0 and next(iter(self.statistics)) == call.name:
            statistics.means.append(_means(call.values, planes))
        return moments if takes_statistics(site) else None

    def _is_long(self, call: BatchNormCall) -> bool:
        """Whether the batch norms have received many values in this batch, including these, or in an earlier one."""
        if self._values <= _LONG:
            self._values = call.values.numel() + (self._values if call.position else 0)
        return self._values > _LONG


def takes_statistics(site: BatchNormSite) -> bool:
    """Whether a batch norm has buffers for the statistics of data, and would use them."""
    norm, module = site.recognised_as, site.module
    return (
        isinstance(norm, BatchNormLike)
        and not norm.is_frozen
        and isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and module.running_var is not None
    )


def _means(values: Tensor, planes: PlaneMoments | None) -> Tensor:
    """The mean of each channel of each example, (N, C), in float64."""
    if planes is not None:
        return planes.means
    means = values.flatten(2).mean(2) if values.dim() > 2 else values
    return means.detach().double().cpu().clone()
