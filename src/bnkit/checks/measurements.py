"""One pass over batches of data: what every batch norm got, and what that does to the model's outputs."""

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

from bnkit.checks.outputs import Answers, Effect
from bnkit.errors import DataError
from bnkit.model.batches import Batches
from bnkit.model.counterparts import OURS, PLAIN
from bnkit.model.example import tensors_in
from bnkit.model.frozen import bare_class
from bnkit.model.norms import BatchNormLike, Place
from bnkit.model.population import store
from bnkit.moments import Moments

# Classes whose own training pass gives the moments of its input, at no further pass over the values.
_GIVE_MOMENTS = frozenset((*OURS.values(), *PLAIN.values()))
# Half of one batch in so many is judged by outputs as well, where there are no others to judge by: twice, which takes a
# sixteenth of the time.
_JUDGED = 16


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
            for buffer, content in before.items():
                buffer.copy_(content)
            if not self.count:
                raise DataError(
                    "batches is empty; expected at least one batch: an iterator that was gone through before gives none, a list "
                    "or a DataLoader does"
                )
            self.effect = (
                self._effect(batches, judged) if test_batches is None else self._effect(test_batches, test_batches)
            )

    def _effect(self, batches: Batches, judged: Any) -> Effect:
        by_average = self._answers(batches, judged)
        for place in self._places:
            module, received = place.module, self.received.get(place.name)
            population = None if received is None else received.population
            if population is not None and is_measured(place) and population.squared_deviations.isfinite().all():
                store(module, population)  # type: ignore[arg-type]
        return by_average.against(self._answers(batches, judged))

    def _answers(self, batches: Batches, judged: Any) -> Answers:
        """What the model answers to the batches in ``judged``."""
        answers = Answers()
        for number, batch in enumerate(judged, 1):
            answers.add(batches.run(self._model, batch, number), batch)
        return answers

    def _measure(self, batches: Batches, judged: list[Any] | None) -> None:
        watch = _Watch(self._places, self.received)
        with watch.hooked():
            for batch in batches:
                self.count += 1
                if judged is not None and self.count % _JUDGED == 1:
                    judged.append(half(batch))
                watch.begin()
                batches.run(self._model, batch, self.count)
                watch.end(self.count)


def half(batch: Any) -> Any:
    """The first half of the examples in ``batch``, where all its tensors count the same examples; else the batch."""
    sizes = {len(tensor) if tensor.dim() else 0 for _, tensor in tensors_in(batch)}
    if len(sizes) != 1 or min(sizes) < 2:
        return batch
    count = (min(sizes) + 1) // 2
    if isinstance(batch, Tensor):
        return batch[:count]
    if type(batch) in (tuple, list) and all(isinstance(entry, Tensor) for entry in batch):
        return type(batch)(entry[:count] for entry in batch)
    if type(batch) is dict and all(isinstance(entry, Tensor) for entry in batch.values()):
        return {key: entry[:count] for key, entry in batch.items()}
    return batch


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


def _buffers(places: Sequence[Place]) -> Iterator[Tensor]:
    for place in places:
        yield from place.module.buffers(recurse=False)


class _Watch:
    """Hooks that note the moments of what each batch norm gets."""

    def __init__(self, places: Sequence[Place], received: dict[str, Received]) -> None:
        self._places, self._received = places, received
        self._calls: Counter[str] = Counter()
        self._moments: dict[str, Moments] = {}

    def begin(self) -> None:
        self._calls.clear()
        self._moments.clear()

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
        handles = []
        momenta = {place.module: place.module.momentum for place in self._places if _gives_moments(place)}
        try:
            for place in self._places:
                before, after = self._hooks(place)
                handles.append(place.module.register_forward_pre_hook(before, with_kwargs=True))
                handles.append(place.module.register_forward_hook(after, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module, momentum in momenta.items():
                module.momentum = momentum
                module.training = False

    def _hooks(self, place: Place) -> tuple[Any, Any]:
        gives, name = _gives_moments(place), place.name

        def before(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            values = _input(arguments, keywords)
            if values is None:
                return  # the layer says what is wrong with it
            self._received.setdefault(name, Received(place))
            self._received[name].examples += len(values)
            self._note_means(name, values)
            count = values.numel() // max(1, values.shape[1])
            layer.training = gives and count > 1
            if layer.training:
                layer.momentum = 1.0  # type: ignore[assignment]
                for buffer in (layer.running_mean, layer.running_var):
                    buffer.zero_()  # type: ignore[operator]  # no times NaN is NaN
                return
            moments = Moments.of(values)
            self._add(name, moments)
            if moments.count > 1 and is_measured(place):
                store(layer, moments, unbiased=False)  # type: ignore[arg-type]

        def after(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            values = _input(arguments, keywords)
            if not layer.training or values is None:
                return
            layer.training = False
            assert isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None
            count = values.numel() // values.shape[1]
            self._add(name, Moments.of_batch(count, layer.running_mean, layer.running_var))

        return before, after

    def _add(self, name: str, moments: Moments) -> None:
        moments = Moments(moments.count.cpu(), moments.mean.cpu(), moments.squared_deviations.cpu())
        self._calls[name] += 1
        self._moments[name] = self._moments[name].merge(moments) if name in self._moments else moments

    def _note_means(self, name: str, values: Tensor) -> None:
        if self._calls[name] == 0 and next(iter(self._received)) == name:
            means = values.flatten(2).mean(2) if values.dim() > 2 else values
            self._received[name].means.append(means.detach().double().cpu().clone())


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
