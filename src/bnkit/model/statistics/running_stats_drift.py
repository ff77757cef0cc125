"""The distance of running statistics from those of the data, and the result of a recalibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.mergeable_moments import Moments
from bnkit.message_parts import plural
from bnkit.model.change_list import Change
from bnkit.model.preserve_state import copy_values
from bnkit.text_table import Column, Table


@dataclass(frozen=True)
class Drift:
    """The distance of one batch norm's moving averages from the statistics of the data.

    Attributes:
        layer: The dotted name.
        largest_shift, average_shift: The distance of the two means, over the channels, in units of the data's
            ``sqrt(variance + eps)``.
        smallest_ratio, largest_ratio: The ratio of the moving average's variance to the data's, each plus eps, over the
            channels.
        count: The number of values per channel.
    """

    layer: str
    largest_shift: float
    average_shift: float
    smallest_ratio: float
    largest_ratio: float
    count: int

    @classmethod
    def of(cls, name: str, layer: _BatchNorm, data: Moments) -> Drift:
        """The drift of the buffers of ``layer`` from ``data``, which is on the CPU."""
        mean, variance = (buffer.cpu().double() for buffer in _copies(layer))
        shift = (mean - data.mean).abs() / (data.variance(unbiased=False) + layer.eps).sqrt()
        ratio = (variance + layer.eps) / (data.variance() + layer.eps)
        values = (shift.max(), shift.mean(), ratio.min(), ratio.max(), data.count)
        largest_shift, average_shift, smallest, largest, count = (value.item() for value in values)
        return cls(name, largest_shift, average_shift, smallest, largest, int(count))

    @property
    def severity(self) -> float:
        """The sort key: the larger of the largest shift and the logarithm of the ratio of deviations."""
        ratios = (self.smallest_ratio, self.largest_ratio)
        # NaN, inf or a negative variance is infinitely severe.
        if not all(map(math.isfinite, (self.largest_shift, *ratios))) or min(ratios) <= 0:
            return math.inf
        return max(self.largest_shift, *(abs(math.log(ratio)) / 2 for ratio in ratios))


class Recalibration:
    """The result of ``recalibrate``: prints as a table, converts to JSON, and can be undone.

    Attributes:
        layers: The drift of every layer that was recalibrated, worst first.
        kept: The batch norms that were not changed, and why.
        output_change: The largest difference between the outputs in evaluation mode before and after, on the first
            batch that has examples, divided by the largest magnitude of the outputs before; None if the output holds no
            finite floating-point number, or this process had no such batch.
        batches: The number of batches on all processes.
        sequential: Whether the layers were measured one after another.
    """

    def __init__(
        self,
        layers: Mapping[str, _BatchNorm],
        statistics: Mapping[str, Moments],
        kept: Sequence[Change],
        *,
        output_change: float | None,
        batches: int,
        sequential: bool,
    ) -> None:
        self._before = [(layers[name], *_copies(layers[name])) for name in statistics]
        drifts = [Drift.of(name, layers[name], moments) for name, moments in statistics.items()]
        self.layers = tuple(sorted(drifts, key=lambda drift: -drift.severity))
        self.kept = tuple(kept)
        self.output_change = output_change
        self.batches = batches
        self.sequential = sequential

    def undo(self) -> None:
        """Restore the running means and variances from before. A second call changes nothing more."""
        for layer, mean, variance in self._before:
            if layer.running_mean is not None and layer.running_var is not None:
                copy_values(layer.running_mean, mean)
                copy_values(layer.running_var, variance)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values; None for figures that are not finite."""
        return {
            "layers": [{key: _plain(value) for key, value in asdict(drift).items()} for drift in self.layers],
            "kept": [asdict(change) for change in self.kept],
            "output_change": _plain(self.output_change),
            "batches": self.batches,
            "sequential": self.sequential,
        }

    def rows(self) -> Table:
        """A row for each layer that was recalibrated."""
        columns = (
            Column("layer", is_text=True),
            "mean off by (max)",
            Column("(average)", 2),
            "variance ratio",
            Column("values per channel", 3),
        )
        rows = [
            (
                drift.layer or "(the model)",
                f"{drift.largest_shift:.3g}",
                f"{drift.average_shift:.3g}",
                f"{drift.smallest_ratio:.3g} to {drift.largest_ratio:.3g}",
                f"{drift.count:,}",
            )
            for drift in self.layers
        ]
        return Table(columns, rows)

    @property
    def summary(self) -> str:
        """The numbers of recalibrated and kept layers, and the change of the output, in one line."""
        if self.output_change is None:
            changed = ""
        elif math.isfinite(self.output_change):
            changed = f"; on the first batch no output changed by more than {self.output_change:.1%} of the largest"
        else:
            changed = "; on the first batch, outputs were not finite before or after"
        return f"{len(self.layers)} recalibrated, {len(self.kept)} kept, {plural(self.batches, 'batch', 'batches')}{changed}"

    def __str__(self) -> str:
        kept = (f"{change.site or '(the model)'} kept: {change.detail}" for change in self.kept)
        return "\n".join([str(self.rows()), *kept, self.summary])

    def __repr__(self) -> str:
        return str(self)


def _copies(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean.clone(), layer.running_var.clone()


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
