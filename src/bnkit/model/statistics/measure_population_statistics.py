"""Population statistics: the moments of the inputs of a model's batch norms over a data set, call by call, in float64.

``recalibrate``, the checks and the training share ``collect``, which measures.

Every layer normalises with the statistics of its batch (Ioffe & Szegedy 2015, Algorithm 2, lines 8 to 10), which are
written into its buffers. No layer runs in training mode, where it would count batches, refuse some, or wait for
processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.errors import TooFewValuesError
from bnkit.mergeable_moments import Moments
from bnkit.model.preserve_state import copy_values, temporary_buffers, temporary_hooks
from bnkit.model.statistics.layers_with_statistics import batch_norms, is_frozen
from bnkit.nn import batch_norm as ours
from bnkit.nn.masks import as_wide_as

Layers = Mapping[str, _BatchNorm]

Call = tuple[str, int]
"""A batch norm's dotted name, and the index of its call within one batch, from 0."""

# The number of values converted to float64 at a time: the copy fits into the cache, and is small.
_VALUES_AT_A_TIME = 1 << 18


@dataclass(frozen=True)
class BatchNormCall:
    """One call of a batch norm.

    Attributes:
        name: The dotted name of the layer.
        number: The index of the call among the layer's calls in the batch, from 0.
        position: The index of the call among the calls of all layers in the batch, from 0.
        batch, batch_number: The batch, and its number, from 1.
        values: The input, (N, C, *).
        mask: The positions that count, bool, (N, 1, *); None for all.
    """

    name: str
    number: int
    position: int
    batch: Any
    batch_number: int
    values: Tensor
    mask: Tensor | None

    @property
    def key(self) -> Call:
        """Identifies the call in every batch."""
        return self.name, self.number

    @cached_property
    def moments(self) -> Moments:
        """The moments of the positions that count, on the CPU."""
        return moments_of(self.values, self.mask)


@dataclass
class LayerStatistics:
    """The moments of each call over all batches.

    Attributes:
        moments: The moments by call, in the order in which the calls were first made.
        leading: The calls that came first in some batch.
        unsupported: The layers that were called with an input that is not (N, C, *).
        ran: The layers that ran, even with an empty input.
        batches: The number of batches.
    """

    moments: dict[Call, Moments] = field(default_factory=dict)
    leading: set[Call] = field(default_factory=set)
    unsupported: set[str] = field(default_factory=set)
    ran: set[str] = field(default_factory=set)
    batches: int = 0

    def add(self, call: BatchNormCall) -> None:
        """Merge the moments of ``call`` into those of the same call in other batches."""
        self.ran.add(call.name)
        if call.position == 0:
            self.leading.add(call.key)
        if call.moments.count > 0:
            self._merge(call.key, call.moments)

    def merge(self, other: LayerStatistics) -> LayerStatistics:
        """The merged statistics of both."""
        merged = LayerStatistics(
            dict(self.moments),
            self.leading | other.leading,
            self.unsupported | other.unsupported,
            self.ran | other.ran,
            self.batches + other.batches,
        )
        for call, moments in other.moments.items():
            merged._merge(call, moments)
        return merged

    def by_layer(self) -> dict[str, Moments]:
        """The merged moments of all calls of each layer, by its name."""
        layers = LayerStatistics()
        for (name, _), moments in self.moments.items():
            layers._merge((name, 0), moments)
        return {name: moments for (name, _), moments in layers.moments.items()}

    def _merge(self, call: Call, moments: Moments) -> None:
        self.moments[call] = self.moments[call].merge(moments) if call in self.moments else moments


class StopForward(BaseException):
    """Ends a forward pass early. Not a subclass of Exception, which a model might catch."""


OnCall = Callable[[BatchNormCall], Moments | None]


def collect(
    layers: Mapping[str, nn.Module],
    batches: Iterable[Any],
    run: Callable[[Any, int], object],
    on_call: OnCall,
    unsupported: set[str] | None = None,
) -> int:
    """Run a model on ``batches`` and report every call of ``layers``; returns the number of batches.

    Args:
        layers: Batch norms by dotted name, in evaluation mode. The caller must restore their buffers.
        run: Runs the model; called with each batch and its number, from 1.
        on_call: Returns the moments by which the layer then normalises, or None to use its buffers. It may raise
            ``StopForward``.
        unsupported: The set to which the names of layers are added whose input is not (N, C, *).
    """
    counts: Counter[str] = Counter()
    batch: Any = None
    number = 0

    def hook_of(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            values, mask = _inputs(layer, arguments, keywords)
            if values is None:
                if unsupported is not None:
                    unsupported.add(name)
                return  # most layers raise on such an input
            call = BatchNormCall(name, counts[name], counts.total(), batch, number, values, mask)
            counts[name] += 1
            moments = on_call(call)
            # The deviation of a single value is 0.
            if moments is not None and moments.count > 1:
                set_running_statistics(layer, moments, unbiased=False)

        return hook

    with temporary_hooks(
        layer.register_forward_pre_hook(hook_of(name), with_kwargs=True) for name, layer in layers.items()
    ):
        for number, batch in enumerate(batches, 1):
            counts.clear()
            try:
                run(batch, number)
            except StopForward:
                continue
    return number


def moments_of(values: Tensor, mask: Tensor | None = None) -> Moments:
    """The moments of ``values``, (N, C, *), at the positions where ``mask``, (N, 1, *), is True: in float64, on the CPU.

    Examples:
        >>> moments_of(torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([[True], [False], [True]])).mean
        tensor([3.5000], dtype=torch.float64)
    """
    values = values.detach()
    if values.device.type == "mps":  # does not support float64
        values = values.cpu()
    if mask is not None:
        values = values.movedim(1, -1)[mask[:, 0].to(values.device)]
    at_a_time = _VALUES_AT_A_TIME if values.device.type == "cpu" else 64 * _VALUES_AT_A_TIME
    parts = torch.split(values, max(1, at_a_time // max(1, values.shape[1:].numel())))
    moments = reduce(Moments.merge, map(_moments_of_part, parts))
    return Moments(moments.count.cpu(), moments.mean.cpu(), moments.squared_deviations.cpu())


def _moments_of_part(values: Tensor) -> Moments:
    if values.device.type != "cpu" or values.numel() == 0:
        return Moments.of(values)
    # PyTorch's loop over float64 takes about half the time of separate operations.
    mean, variance = torch.batch_norm_update_stats(values.double(), None, None, 0.0)
    count = torch.tensor(values.numel() / values.shape[1], dtype=torch.float64)
    return Moments(count, mean, variance * count)


def check_several(call: BatchNormCall, advice: str = "or use larger batches") -> None:
    """Refuse a call with one value per channel.

    Raises:
        TooFewValuesError: The call has one value per channel.
    """
    if call.moments.count == 1:
        raise TooFewValuesError(
            f"batch norm {call.name!r} got one value per channel in batch {call.batch_number}, shape {tuple(call.values.shape)}, "
            f"which has no deviation to normalise by; drop the last short batch (drop_last=True), {advice}"
        )


def set_running_statistics(layer: nn.Module, moments: Moments, *, unbiased: bool = True) -> None:
    """Write the mean and variance of ``moments`` into the buffers of ``layer``, in place."""
    copy_values(layer.running_mean, moments.mean)  # type: ignore[arg-type]
    copy_values(layer.running_var, moments.variance(unbiased=unbiased))  # type: ignore[arg-type]


def population_statistics(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Moments]:
    """The moments of each batch norm's input over all ``batches``, by the layer's dotted name.

    All layers are measured in one pass, while the layers before them normalise with the statistics of the batch (Ioffe
    & Szegedy 2015, Algorithm 2, lines 8 to 10) and all other layers are in evaluation mode. The moments of the batches
    are merged exactly, weighted by batch size.

    Args:
        model: Its modes, buffers and counters are restored.
        batches: Inputs of the model, each with more than one value per channel.

    Returns:
        The moments, on the CPU, without layers that never ran or are frozen.

    Raises:
        TooFewValuesError: A batch has one value per channel.
    """
    layers = {name: layer for name, layer in batch_norms(model).items() if not is_frozen(layer)}
    statistics = LayerStatistics()

    def on_call(call: BatchNormCall) -> Moments:
        check_several(call)
        statistics.add(call)
        return call.moments

    with temporary_buffers(model, layers), torch.no_grad():
        model.eval()
        collect(layers, batches, lambda inputs, _: model(inputs), on_call)
    return statistics.by_layer()


@contextmanager
def normalising_by(model: nn.Module, statistics: Mapping[str, Moments]) -> Iterator[None]:
    """Inside, the batch norms of ``model`` normalise with ``statistics``; afterwards with their own again."""
    layers = batch_norms(model)
    with temporary_buffers(model, layers):
        for name, moments in statistics.items():
            set_running_statistics(layers[name], moments)
        yield


def _inputs(
    layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Tensor, Tensor | None] | tuple[None, None]:
    """The input and mask of a call of a batch norm; None if the input is not (N, C, *) with its channels."""
    values = arguments[0] if arguments else keywords.get("input", next(iter(keywords.values()), None))
    if not isinstance(values, Tensor) or values.dim() < 2:
        return None, None
    # Compare with the tensors, not with ``num_features``, which pruning does not update.
    if (
        isinstance(layer, _BatchNorm)
        and layer.running_mean is not None
        and values.shape[1] != layer.running_mean.numel()
    ):
        return None, None
    if not isinstance(layer, ours._BatchNorm):
        return values, None
    mask = arguments[2] if len(arguments) > 2 else keywords.get("mask")
    return values, None if mask is None else as_wide_as(values, mask, type(layer).__name__)
