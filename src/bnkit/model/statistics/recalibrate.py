"""Replace the moving averages of a model's batch norms by the statistics of data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from bnkit.argument_checks import check_bool, check_callable, check_device, check_process_group
from bnkit.errors import DataError, ModelError, TooFewValuesError
from bnkit.mergeable_moments import Moments
from bnkit.message_parts import plural
from bnkit.model.change_list import UNCHANGED, Change
from bnkit.model.inspect.batches import Forward, device_of
from bnkit.model.inspect.name_patterns import Patterns
from bnkit.model.inspect.recognise_batch_norm import matching_names, no_batch_norm
from bnkit.model.inspect.supported_models import check_supported
from bnkit.model.preserve_state import RngState, force_eager, temporary_buffers
from bnkit.model.statistics.distributed_ranks import Ranks, without_broadcasts
from bnkit.model.statistics.layers_with_statistics import is_frozen
from bnkit.model.statistics.measure_population_statistics import Layers, LayerStatistics, set_running_statistics
from bnkit.model.statistics.recalibration_passes import MeasurementPasses
from bnkit.model.statistics.running_stats_drift import Recalibration

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def recalibrate(
    model: nn.Module,
    batches: Any,
    forward: Forward | None = None,
    *,
    sequential: bool = False,
    batch_size: int | None = None,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    device: torch.device | str | None = None,
    across_ranks: bool = True,
    process_group: ProcessGroup | None = None,
) -> Recalibration:
    """Set the running statistics of ``model`` to those of the data, in place, and return the previous drift.

    The moments of all batches are merged exactly in float64, weighted by batch size. The running variance becomes the
    unbiased variance, as in training. The modes, momentum, ``num_batches_tracked`` (which counts training batches),
    gradients and random state do not change. After an error, the statistics are restored.

    By default all layers are measured in one pass, while the layers before them normalise with the statistics of the
    batch (Ioffe & Szegedy 2015, Algorithm 2, lines 8 to 10). The result of deep layers depends slightly on the batches,
    so use shuffled batches as in training. ``sequential=True`` measures the calls of layers one after another, in the
    order in which they run, each after the layers before it have their final statistics. The result does not depend on
    the batches, and takes one pass for each call (plus one for each layer from the first layer on that runs several
    times).

    All other modules run in evaluation mode. A layer that runs several times gets the merged moments of all its calls.
    Positions excluded by the ``mask`` of a bnkit layer do not count. Layers that are in evaluation mode individually
    are recalibrated, too. Frozen layers (``bnkit.freeze``), layers left out by ``include`` and ``exclude``, and layers
    without running statistics are kept, and normalise as in evaluation.

    Args:
        model: A model with batch norms of bnkit or PyTorch, including ``SyncBatchNorm``, on any device.
        batches: A ``DataLoader``, a list, an iterator (not for ``sequential``), or a tensor, which is one batch. If a
            batch is a tuple or a list, its first entry is the input; a dictionary holds keyword arguments. The dtype
            must be the one that the model takes.
        forward: Called with the model and each batch, for models that need more than the input.
        sequential: Measure the layers one after another.
        batch_size: Split the tensor ``batches`` into batches of this size.
        include, exclude: Patterns for the dotted names of batch norms.
        device: The device to which the batches are moved; None for that of the model's first parameter.
        across_ranks: Merge over all processes of ``torch.distributed``, if it is initialised: all of them must call
            this, with any number of batches each, including none, and get the same statistics. False for this process
            alone.
        process_group: The processes to merge over; None for all.

    Returns:
        The drift of every layer, worst first, the change of the output, and ``undo()``.

    Raises:
        SettingsError: If arguments cannot be combined, such as an iterator with ``sequential``.
        ModelError: If there is no batch norm to recalibrate, none runs, or the model raises or makes NaN or inf.
        DataError: If there are no batches, or they are empty or hold NaN or inf.
        TooFewValuesError: If a layer gets one value per channel.

    Examples:
        >>> model = nn.Sequential(nn.BatchNorm1d(1))
        >>> recalibration = recalibrate(model, torch.tensor([[1.0], [2.0], [6.0]]), batch_size=2)
        >>> model[0].running_mean, model[0].running_var
        (tensor([3.]), tensor([7.]))
        >>> recalibration.undo()
        >>> model[0].running_mean
        tensor([0.])
    """
    check_supported(model, runs=True)
    check_callable("forward", forward)
    check_bool("sequential", sequential)
    check_bool("across_ranks", across_ranks)
    check_process_group(process_group)
    if device is not None:
        check_device(device)
    layers, kept = _layers(model, include, exclude)
    ranks = Ranks(together=across_ranks, group=process_group)
    with _evaluating(model, layers) as state:
        passes = MeasurementPasses(model, layers, state)
        target = device_of(model) if device is None else device
        parts = ranks.gather(lambda: passes.first_pass(batches, forward, batch_size, target, sequential=sequential))
        measured = reduce(LayerStatistics.merge, parts)
        _check_ran(measured, layers)
        statistics = passes.finalize_statistics(measured, ranks) if sequential else measured.by_layer()
        _check_counts(statistics)
        # On all ranks together, so that all or none keep the statistics.
        output_change = ranks.gather(lambda: passes.output_change(statistics))[ranks.own]
    kept = [*kept, *(Change(name, UNCHANGED, _why_kept(name, measured)) for name in layers if name not in statistics)]
    recalibration = Recalibration(
        layers, statistics, kept, output_change=output_change, batches=measured.batches, sequential=sequential
    )
    try:
        for name, moments in statistics.items():
            set_running_statistics(layers[name], moments)
    except BaseException:  # including KeyboardInterrupt between two layers
        recalibration.undo()
        raise
    return recalibration


def _why_kept(name: str, measured: LayerStatistics) -> str:
    if name in measured.unsupported:
        return "its inputs are not of the form (N, C, *) with as many channels as its statistics"
    return "got no values in any batch" if name in measured.ran else "did not run on any batch"


@contextmanager
def _evaluating(model: nn.Module, layers: Layers) -> Iterator[RngState]:
    """Inside, ``model`` evaluates eagerly without gradients; afterwards the model and the random state are restored."""
    state = RngState()
    with ExitStack() as stack:
        stack.callback(state.restore)
        stack.enter_context(temporary_buffers(model, layers))
        stack.enter_context(without_broadcasts(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(force_eager())
        for module in model.modules():  # not .eval(), which a class may override with side effects
            if hasattr(module, "training"):
                module.training = False
        yield state


def _layers(model: nn.Module, include: Patterns | None, exclude: Patterns | None) -> tuple[Layers, list[Change]]:
    """The batch norms to recalibrate, by dotted name, and those that are kept."""
    every: dict[_BatchNorm, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _BatchNorm):
            every.setdefault(module, []).append(name)
    if not every:
        raise no_batch_norm(model, "has", "one that keeps running statistics")
    wanted = matching_names([tuple(names) for names in every.values()], include, exclude)
    layers: dict[str, _BatchNorm] = {}
    kept: list[Change] = []
    for layer, (name, *_) in every.items():
        if name not in wanted:
            kept.append(Change(name, UNCHANGED, "left out by include or exclude"))
        elif layer.running_mean is None or layer.running_var is None:
            kept.append(Change(name, UNCHANGED, "keeps no running statistics"))
        elif is_lazy(layer.running_mean):
            raise ModelError(
                f"batch norm {name!r} is lazy and has no channels yet; expected a model that has run: call it once"
            )
        elif is_frozen(layer):
            kept.append(Change(name, UNCHANGED, "frozen"))
        else:
            layers[name] = layer
    if not layers:
        reasons = "; ".join(f"{change.site!r}: {change.detail}" for change in kept[:8])
        raise ModelError(
            f"{type(model).__name__} has no batch norm to recalibrate ({reasons}); expected one that is not kept"
        )
    return layers, kept


def _check_ran(measured: LayerStatistics, layers: Layers) -> None:
    if measured.moments:
        return
    if measured.batches == 0:
        raise DataError(
            "batches is empty; expected at least one batch: if it is an iterator, it may be exhausted; pass a list or a DataLoader"
        )
    count = plural(measured.batches, "batch", "batches")
    if measured.leading:
        raise DataError(f"there are no examples in the {count}; expected at least two values for each channel")
    names = ", ".join(map(repr, list(layers)[:8])) + (f" and {len(layers) - 8} more" if len(layers) > 8 else "")
    raise ModelError(
        f"none of the batch norms ran on the {count}: {names}; expected forward passes that reach them by "
        "calling the modules"
    )


def _check_counts(statistics: Mapping[str, Moments]) -> None:
    for name, moments in statistics.items():
        if moments.count < 2:
            raise TooFewValuesError(
                f"batch norm {name!r} got one value per channel in all batches together, which has no variance; expected two or "
                "more: give more data"
            )
