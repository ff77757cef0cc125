"""One pass over batches of data: what every batch norm got, and what the model returned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.errors import DataError
from bnkit.model.batches import Batches
from bnkit.model.norms import BatchNormLike, Place
from bnkit.model.population import store
from bnkit.moments import Moments


@dataclass
class Received:
    """What one batch norm got.

    Attributes:
        place: The batch norm.
        batches: For each batch, the moments of its input over all its calls in that batch, finite or not; None where it did
            not run.
        calls: How often it ran in each batch.
    """

    place: Place
    batches: list[Moments | None] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    @cached_property
    def population(self) -> Moments | None:
        """The moments over all batches; None if it never ran."""
        found = [moments for moments in self.batches if moments is not None]
        return reduce(Moments.merge, found) if found else None


class Measurements:
    """What a model did with batches of data.

    Every batch norm was measured behind batch norms that normalise with the statistics of the batch (Ioffe & Szegedy 2015,
    Algorithm 2), all else in evaluation mode.

    Args:
        model: It is changed; giving it back is somebody else's business.
        places: Its batch norms.
        batches: Batches of data.
        test_batches: Batches to judge outputs on; None for ``batches``.

    Attributes:
        received: What each batch norm got, by its first dotted name, in the order in which they first ran.
        count: How many batches there were.

    Raises:
        ModelError: The model raises.
        DataError: There are no batches.
    """

    def __init__(
        self, model: nn.Module, places: list[Place], batches: Batches, test_batches: Batches | None = None
    ) -> None:
        self.received: dict[str, Received] = {}
        self.count = 0
        for module in model.modules():
            module.training = False
        with torch.no_grad():
            self._measure(model, places, batches)
        if not self.count:
            raise DataError(
                "batches is empty; expected at least one batch: an iterator that was gone through before gives none, a list or a "
                "DataLoader does"
            )

    def _measure(self, model: nn.Module, places: list[Place], batches: Batches) -> None:
        seen: Counter[str] = Counter()
        current: dict[str, Moments] = {}

        def hook_of(place: Place) -> Callable[..., None]:
            def hook(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
                values = arguments[0] if arguments else keywords.get("input", next(iter(keywords.values()), None))
                if not isinstance(values, Tensor) or values.dim() < 2:
                    return  # the layer says what is wrong with it
                self.received.setdefault(place.name, Received(place))
                moments = Moments.of(values)
                seen[place.name] += 1
                current[place.name] = current[place.name].merge(moments) if place.name in current else moments
                if moments.count > 1 and isinstance(layer, _BatchNorm) and layer.running_mean is not None:
                    store(layer, moments, unbiased=False)

            return hook

        with _hooked({place: hook_of(place) for place in places if isinstance(place.found, BatchNormLike)}):
            for batch in batches:
                self.count += 1
                seen.clear()
                current.clear()
                batches.run(model, batch, self.count)
                for name, received in self.received.items():
                    received.batches += [None] * (self.count - 1 - len(received.batches))
                    received.calls += [0] * (self.count - 1 - len(received.calls))
                    received.batches.append(current.get(name))
                    received.calls.append(seen[name])


@contextmanager
def _hooked(hooks: Mapping[Place, Callable[..., None]]) -> Iterator[None]:
    handles = [place.module.register_forward_pre_hook(hook, with_kwargs=True) for place, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
