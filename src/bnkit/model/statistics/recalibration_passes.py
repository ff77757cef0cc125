"""The passes over the batches that measure a model's batch norms for ``recalibrate``."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from functools import reduce
from itertools import chain, dropwhile
from typing import Any

from torch import nn

from bnkit.errors import DataError, ModelError, SettingsError
from bnkit.mergeable_moments import Moments
from bnkit.message_parts import plural
from bnkit.model.inspect.batches import Batches, Forward
from bnkit.model.inspect.example import holds_numbers, largest_difference, tensors_in
from bnkit.model.preserve_state import RngState
from bnkit.model.statistics.distributed_ranks import Ranks
from bnkit.model.statistics.measure_population_statistics import (
    BatchNormCall,
    Call,
    Layers,
    LayerStatistics,
    StopForward,
    check_several,
    collect,
    set_running_statistics,
)


class MeasurementPasses:
    """Runs a model in evaluation mode on its batches, to measure the batch norms.

    Args:
        model: The model. The caller must restore its buffers.
        layers: The batch norms to measure.
        state: The random state at the start of every pass, so that a loader shuffles and augments identically in all
            passes.
    """

    def __init__(self, model: nn.Module, layers: Layers, state: RngState) -> None:
        self._model, self._layers, self._state = model, layers, state

    def first_pass(
        self, source: Any, forward: Forward | None, batch_size: int | None, device: Any, *, sequential: bool
    ) -> LayerStatistics:
        """Measure all layers together, and record the order of their calls.

        The output for the first batch that has examples is stored.
        """
        self._batches = Batches(source, forward, batch_size, device)
        if sequential and not self._batches.is_repeatable:
            raise SettingsError(
                f"batches is a {type(source).__name__}, which can be read only once; expected a list, a tensor or a DataLoader "
                "for `sequential`, which takes a pass for each layer"
            )
        batches = iter(self._batches)
        self._leading: list[Any] = []
        self._before: Any = None
        for batch in batches:
            self._leading.append(batch)
            self._state_of_first = RngState()
            self._before = self._output()
            sizes = [tensor.numel() for _, tensor in tensors_in(self._before)]
            if any(sizes) or not sizes:
                break
        statistics = LayerStatistics()

        def on_call(call: BatchNormCall) -> Moments:
            _check_finite(call)
            if not sequential:
                check_several(call, "use larger batches, or `sequential`, which takes batches of any size")
            statistics.add(call)
            return call.moments

        statistics.batches = collect(
            self._layers, chain(self._leading, batches), self._run, on_call, statistics.unsupported
        )
        self._count = statistics.batches
        return statistics

    def _run(self, batch: Any, number: int) -> Any:
        return self._batches.run(self._model, batch, number)

    def _later_pass(self, calls: AbstractSet[Call]) -> LayerStatistics:
        """Measure only ``calls``; layers normalise by their buffers. Each forward pass ends with the last call."""
        statistics = LayerStatistics()
        missing: set[Call] = set()

        def on_call(call: BatchNormCall) -> None:
            if call.position == 0:
                missing.update(calls)
            if call.key in calls:
                _check_finite(call)
                statistics.add(call)
                missing.discard(call.key)
                if not missing:
                    raise StopForward

        self._state.restore()
        count = collect(self._layers, self._batches, self._run, on_call)
        if count != self._count:
            raise DataError(
                f"batches gave {plural(self._count, 'batch', 'batches')} in the first pass and {count} in a later one; "
                "expected the same: give a list, a tensor or a DataLoader"
            )
        return statistics

    def output_change(self, statistics: Mapping[str, Moments]) -> float | None:
        """The change of the stored output with ``statistics``, which this writes into the layers."""
        for name, moments in statistics.items():
            layer = self._layers[name]
            set_running_statistics(layer, moments)
            if not all(
                buffer.isfinite().all() for buffer in (layer.running_mean, layer.running_var) if buffer is not None
            ):
                raise ModelError(
                    f"the statistics of batch norm {name!r} do not fit into its buffers: mean up to "
                    f"{moments.mean.abs().max().item():.3g}, variance up to {moments.variance().max().item():.3g}; expected a "
                    "wider dtype than theirs: take the layer to float32 or bfloat16"
                )
        if not self._leading:
            return None
        after = self._output()
        return largest_difference(self._before, after) if holds_numbers((self._before, after)) else None

    def _output(self) -> Any:
        self._state_of_first.restore()
        output = self._batches.run(self._model, self._leading[-1], len(self._leading))
        self._state_of_first.restore()
        return output

    def finalize_statistics(self, measured: LayerStatistics, ranks: Ranks) -> dict[str, Moments]:
        """Measure the moments of each layer call by call, after layers that already have their final statistics.

        Args:
            measured: The statistics of the first pass on all ranks.
        """
        final = LayerStatistics()
        order = list(measured.moments)

        def keep(name: str) -> None:
            moments = final.by_layer()[name]
            # The first of several calls may have one value per channel, without an unbiased variance.
            set_running_statistics(self._layers[name], moments, unbiased=bool(moments.count > 1))

        def measure(calls: list[Call]) -> None:
            again = reduce(LayerStatistics.merge, ranks.gather(lambda: self._later_pass(set(calls))))
            for call in calls:
                if call not in again.moments:
                    raise ModelError(
                        f"batch norm {call[0]!r} ran in the first pass and not in a later one; expected a model that does the same "
                        "in each, or no `sequential`"
                    )
                final.moments[call] = again.moments[call]
            keep(calls[0][0])

        for position, call in enumerate(order):
            if position == 0 and measured.leading == {call}:  # nothing before it changed since the first pass
                final.moments[call] = measured.moments[call]
                keep(call[0])
            else:
                measure([call])
        # Layers after one that runs several times were measured before that one had its final statistics: measure them
        # again, now with all calls of a layer in one pass.
        names = list(dict.fromkeys(name for name, _ in order))
        calls = {name: [call for call in order if call[0] == name] for name in names}
        for name in dropwhile(lambda name: len(calls[name]) == 1, names):
            measure(calls[name])
        return final.by_layer()


def _check_finite(call: BatchNormCall) -> None:
    if call.moments.squared_deviations.isfinite().all():
        return
    if all(tensor.isfinite().all() for _, tensor in tensors_in(call.batch) if tensor.is_floating_point()):
        raise ModelError(
            f"NaN or inf reached batch norm {call.name!r} in batch {call.batch_number}, which itself is finite; expected finite "
            "values: look at the weights before that layer"
        )
    raise DataError(
        f"batch {call.batch_number} holds NaN or inf, which reached batch norm {call.name!r}; expected finite values: fix or leave "
        "out the batch"
    )
