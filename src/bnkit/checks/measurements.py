"""One pass over batches of data: what every batch norm got, and what that does to the model's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.checks.outputs import Answers, Effect
from bnkit.checks.received import Received, is_measured
from bnkit.checks.watch import Watch
from bnkit.errors import DataError
from bnkit.model.batches import Batches
from bnkit.model.example import tensors_in
from bnkit.model.norms import BatchNormLike, Place
from bnkit.model.population import store

# Half of one batch in so many is judged by outputs as well, where there are no others to judge by: twice, which takes a
# sixteenth of the time; and half of that where the first quarter shows no gain.
_JUDGED = 16


class Measurements:
    """What a model did with batches of data.

    Every batch norm was measured behind batch norms that normalise with the statistics of the batch (Ioffe & Szegedy 2015,
    Algorithm 2, lines 8 to 10), all else in evaluation mode.

    Args:
        model: It is changed; giving it back is somebody else's business.
        places: Its batch norms.
        batches: Batches of data.
        test_batches: Batches to judge outputs on; None for some of ``batches``.

    Attributes:
        received: What each batch norm got, by its first dotted name, in the order in which they first ran.
        count: How many batches there were.
        effect: What the statistics of the data would do to the outputs in evaluation.

    Raises:
        ModelError: The model raises.
        DataError: There are no batches.
    """

    def __init__(
        self, model: nn.Module, places: Sequence[Place], batches: Batches, test_batches: Batches | None = None
    ) -> None:
        self.received: dict[str, Received] = {}
        self.count = 0
        self._model, self._places = model, [p for p in places if isinstance(p.found, BatchNormLike)]
        for module in model.modules():
            module.training = False
        with torch.no_grad():
            judged: list[Any] = []
            before = {buffer: buffer.clone() for buffer in _buffers(self._places)}
            self._measure(batches, judged if test_batches is None else None)
            _give_back(before)
            if not self.count:
                raise DataError(
                    "batches is empty; expected at least one batch: an iterator that was gone through before gives none, a list "
                    "or a DataLoader does"
                )
            self.effect = (
                self._effect_in_part(batches, judged)
                if test_batches is None
                else self._effect(test_batches, test_batches)
            )

    def _effect_in_part(self, batches: Batches, judged: list[Any]) -> Effect:
        """The effect on a quarter of each of the batches ``judged``; and on another one, if that shows a gain."""
        # Without statistics of its own, a batch norm cannot evaluate a single example.
        least = 1 if all(getattr(place.module, "running_mean", None) is not None for place in self._places) else 2
        quarters = [quarters_of(batch, least) for batch in judged]
        effect = self._effect(batches, [first for first, _ in quarters])
        if effect.gained > effect.lost:
            effect = effect.with_more(self._effect(batches, [second for _, second in quarters if second is not None]))
        return effect

    def _effect(self, batches: Batches, judged: Iterable[Any]) -> Effect:
        by_average = self._answers(batches, judged)
        with self._by_data():
            return by_average.against(self._answers(batches, judged))

    @contextmanager
    def _by_data(self) -> Iterator[None]:
        """Inside, the batch norms evaluate with the statistics of the data."""
        before = {buffer: buffer.clone() for buffer in _buffers(self._places)}
        for place in self._places:
            received = self.received.get(place.name)
            population = None if received is None else received.population
            if population is not None and is_measured(place) and population.squared_deviations.isfinite().all():
                store(place.module, population)  # type: ignore[arg-type]
        yield
        _give_back(before)

    def _answers(self, batches: Batches, judged: Iterable[Any]) -> Answers:
        """What the model answers to the batches in ``judged``."""
        answers = Answers()
        for number, batch in enumerate(judged, 1):
            answers.add(batches.run(self._model, batch, number), batch)
        return answers

    def _measure(self, batches: Batches, judged: list[Any] | None) -> None:
        watch = Watch(self._places, self.received)
        with watch.watching():
            for batch in batches:
                self.count += 1
                if judged is not None and self.count % _JUDGED == 1:
                    judged.append(batch)
                watch.begin()
                batches.run(self._model, batch, self.count)
                watch.end(self.count)


def quarters_of(batch: Any, least: int = 1) -> tuple[Any, Any | None]:
    """Two quarters of the examples in ``batch``, of ``least`` or more; itself and None where it cannot be cut.

    It can where all its tensors count the same examples. The second is None where there are no examples left for it.
    """
    sizes = {len(tensor) if tensor.dim() else 0 for _, tensor in tensors_in(batch)}
    if len(sizes) != 1 or min(sizes) < 2:
        return batch, None
    (count,) = sizes
    size = max((count + 3) // 4, least)
    first, second = _part(batch, 0, size), _part(batch, size, 2 * size)
    if first is None:
        return batch, None
    return first, second if count - size >= least else None


def _part(batch: Any, first: int, last: int) -> Any | None:
    """The examples from ``first`` to ``last``; None where ``batch`` is nothing that can be cut."""
    if isinstance(batch, Tensor):
        return batch[first:last]
    if type(batch) in (tuple, list) and all(isinstance(entry, Tensor) for entry in batch):
        return type(batch)(entry[first:last] for entry in batch)
    if type(batch) is dict and all(isinstance(entry, Tensor) for entry in batch.values()):
        return {key: entry[first:last] for key, entry in batch.items()}
    return None


def _buffers(places: Sequence[Place]) -> Iterator[Tensor]:
    for place in places:
        yield from place.module.buffers(recurse=False)


def _give_back(before: dict[Tensor, Tensor]) -> None:
    for buffer, content in before.items():
        buffer.copy_(content)
