"""What every batch norm got, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, reduce

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.model.inspect.recognise import BatchNormLike, Place
from bnkit.moments import Moments


@dataclass
class InputStatistics:
    """What one batch norm got.

    Attributes:
        site: The batch norm.
        batches: For each batch, the moments of its input over all its calls in that batch, finite or not; None where it did
            not run.
        calls: How often it ran in each batch.
        examples: How many examples there were in all calls together.
        means: For each batch the mean of each channel over the positions of each example, (N, C), of the first call; of the
            batch norm that runs first only.
    """

    site: Place
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


def takes_statistics(site: Place) -> bool:
    """Whether the statistics of data could stand in the buffers of a batch norm, and would be used."""
    found, module = site.found, site.module
    return (
        isinstance(found, BatchNormLike)
        and not found.is_frozen
        and isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and module.running_var is not None
    )
