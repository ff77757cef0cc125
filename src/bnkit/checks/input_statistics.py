"""What every batch norm of a model received, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.kernels.channel_moments import PlaneMoments, plane_moments
from bnkit.model.inspect.recognise import BatchNormLike, BatchNormSite
from bnkit.model.statistics.measurement import BatchNormCall, collect
from bnkit.moments import Moments

# Values in one batch from which on it pays to load compiled loops (half a second), which measure at the speed of memory.
_LONG = 1 << 21


@dataclass
class InputStatistics:
    """What one batch norm received.

    Attributes:
        site: The batch norm.
        batches: For each batch, the moments of its input over all its calls in that batch, finite or not; None where it did
            not run.
        calls: How often it ran in each batch.
        examples: How many examples there were in all calls together.
        means: For each batch the mean of each channel over the positions of each example, (N, C), of the first call; of the
            batch norm that runs first only.
    """

    site: BatchNormSite
    batches: list[Moments | None] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    examples: int = 0
    means: list[Tensor] = field(default_factory=list)

    def add(self, call: BatchNormCall, moments: Moments) -> None:
        """Take in a call."""
        self.pad(call.batch_number)
        before = self.batches[-1]
        self.batches[-1] = moments if before is None else before.merge(moments)
        self.calls[-1] += 1
        self.examples += call.values.shape[0]

    def pad(self, count: int) -> None:
        """Say that there were ``count`` batches so far."""
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
    """Measures what each batch norm receives behind batch norms that normalise by the statistics of the batch.

    Args:
        sites: The batch norms, in evaluation mode. Their buffers are the caller's to restore.

    Attributes:
        statistics: What they received, by their first dotted names, in the order in which they first run.
    """

    def __init__(self, sites: Sequence[BatchNormSite]) -> None:
        self.statistics: dict[str, InputStatistics] = {}
        self._sites = {site.name: site for site in sites}
        self._values = 0

    def collect(self, batches: Iterable[Any], run: Callable[[Any, int], object]) -> int:
        """Measure all ``batches``, on each of which ``run`` runs the model, and return how many there were."""
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
        """Whether the batch norms have received many values in this batch, these among them, or in one before."""
        if self._values <= _LONG:
            self._values = call.values.numel() + (self._values if call.position else 0)
        return self._values > _LONG


def takes_statistics(site: BatchNormSite) -> bool:
    """Whether the statistics of data could stand in the buffers of a batch norm, and would be used."""
    norm, module = site.recognised_as, site.module
    return (
        isinstance(norm, BatchNormLike)
        and not norm.is_frozen
        and isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and module.running_var is not None
    )


def _means(values: Tensor, planes: PlaneMoments | None) -> Tensor:
    """Of each channel of each example, (N, C), in float64."""
    if planes is not None:
        return planes.means
    means = values.flatten(2).mean(2) if values.dim() > 2 else values
    return means.detach().double().cpu().clone()
