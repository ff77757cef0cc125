"""One pass over the data: the input of every batch norm, and the effect of its statistics on the model's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bnkit.checks.layer_input_statistics import ActivationCollector, takes_statistics
from bnkit.errors import DataError
from bnkit.model.inspect.batches import Batches
from bnkit.model.inspect.recognise_batch_norm import BatchNormLike, BatchNormSite
from bnkit.model.preserve_state import RngState, preserve_buffers
from bnkit.model.statistics.measure_population_statistics import set_running_statistics
from bnkit.model.verify.compare_predictions import outputs_of, targets_of
from bnkit.model.verify.prediction_changes import PredictionChanges

# Without test batches, outputs are compared on half of one batch in this many. They are computed twice, which takes a sixteenth
# of the time, or half of that if the first quarter shows no gain.
_COMPARED = 16


class DataMeasurements:
    """The inputs of a model's batch norms on batches of data, and the effect of their statistics on evaluation.

    While measuring, batch norms normalise with the statistics of the batch, and all other modules are in evaluation mode.

    Args:
        model: Its modes and buffers change; the caller restores them.
        sites: Its batch norms.
        batches: Batches of data.
        test_batches: Batches to compare outputs on; None for some of ``batches``.

    Attributes:
        input_statistics: The input statistics of each batch norm, by its first dotted name, in the order of the first run.
        count: The number of batches.
        effect: How outputs in evaluation change if the statistics of the data replace the moving averages.

    Raises:
        ModelError: If the model raises.
        DataError: If there are no batches.
    """

    def __init__(
        self, model: nn.Module, sites: Sequence[BatchNormSite], batches: Batches, test_batches: Batches | None = None
    ) -> None:
        self._model, self._sites = model, [p for p in sites if isinstance(p.recognised_as, BatchNormLike)]
        for module in model.modules():
            module.training = False
        with torch.no_grad():
            compared: list[Any] = []
            with self._preserved_buffers():
                self._measure(batches, compared if test_batches is None else None)
            if not self.count:
                raise DataError(
                    "batches is empty; expected at least one batch: if it is an iterator, it may already be exhausted; pass a "
                    "list or a DataLoader"
                )
            self.effect = PredictionChanges()
            if test_batches is None:
                self._compare_quarters(batches, compared)
            else:
                self._compare(test_batches, test_batches)

    def _compare_quarters(self, batches: Batches, compared: list[Any]) -> None:
        """The effect on a quarter of each of the batches ``compared``; and on another one, if that shows a gain."""
        # A batch norm without running statistics cannot evaluate a single example.
        least = 1 if all(getattr(site.module, "running_mean", None) is not None for site in self._sites) else 2
        quarters = [split_quarters(batch, least) for batch in compared]
        self._compare(batches, [first for first, _ in quarters])
        if self.effect.gained > self.effect.lost or self.effect.loss_after < self.effect.loss_before:
            self._compare(batches, [second for _, second in quarters if second is not None])

    def _compare(self, batches: Batches, compared: Iterable[Any]) -> None:
        """Compare the outputs under the statistics of the data with those under the moving averages."""
        for number, batch in enumerate(compared, 1):
            state = RngState()
            by_average = outputs_of(batches.run(self._model, batch, number))
            state.restore()
            with self._population_statistics():
                by_data = outputs_of(batches.run(self._model, batch, number))
            self.effect.add(by_average, by_data, targets_of(batch, batches))

    @contextmanager
    def _population_statistics(self) -> Iterator[None]:
        """Inside, the batch norms evaluate with the statistics of the data."""
        with self._preserved_buffers():
            for site in self._sites:
                inputs = self.input_statistics.get(site.name)
                population = None if inputs is None else inputs.population
                if population is not None and takes_statistics(site) and population.squared_deviations.isfinite().all():
                    set_running_statistics(site.module, population)
            yield

    def _preserved_buffers(self) -> AbstractContextManager[None]:
        return preserve_buffers(site.module for site in self._sites)

    def _measure(self, batches: Batches, compared: list[Any] | None) -> None:
        collector = ActivationCollector(self._sites)

        def run(batch: Any, number: int) -> None:
            if compared is not None and number % _COMPARED == 1:
                compared.append(batch)
            batches.run(self._model, batch, number)

        self.count = collector.collect(batches, run)
        self.input_statistics = collector.statistics


def split_quarters(batch: Any, least: int = 1) -> tuple[Any, Any | None]:
    """Two quarters of the examples in ``batch``, of ``least`` or more; ``batch`` and None if it cannot be split.

    It can be split if all its leaves, in any containers, are tensors with the same number of examples. The second quarter is
    None if there are too few examples for it.
    """
    sizes = {len(leaf) if isinstance(leaf, Tensor) and leaf.dim() else 0 for leaf in tree_leaves(batch)}
    if len(sizes) != 1 or min(sizes) < 2:
        return batch, None
    (count,) = sizes
    size = max((count + 3) // 4, least)

    def part(first: int) -> Any:
        return tree_map(lambda tensor: tensor[first : first + size], batch)

    return part(0), part(size) if count - size >= least else None
