"""``bnkit.summary``: the batch norms of a model, their costs, and possible savings."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from bnkit.argument_checks import check_int
from bnkit.errors import ModelError
from bnkit.kernels.compilation.compile_policy import compiling_at_once
from bnkit.memory.recompute import recompute
from bnkit.message_parts import plural
from bnkit.model.edit.convert import convert
from bnkit.model.edit.deepcopy_model import deepcopy_model
from bnkit.model.edit.fold import fold
from bnkit.model.inspect.batches import device_of
from bnkit.model.inspect.example import Example
from bnkit.model.inspect.layer_sites import Sites, sites
from bnkit.model.inspect.lazy_parameters import first_lazy, materialise
from bnkit.model.inspect.recognise_batch_norm import (
    BatchNormLike,
    BatchNormSite,
    batch_norm_sites,
    required_batch_norm_sites,
)
from bnkit.model.inspect.supported_models import check_supported
from bnkit.model.instrument.interleaved_timing import Interval, PairedRounds, median_interval
from bnkit.model.instrument.kept_bytes import KeptBytes, bytes_saved_by_recompute, kept_bytes
from bnkit.model.instrument.step_timing import Clock, StepTimes, TrainingStep, interleaved
from bnkit.model.instrument.summary_table import BatchNormCost, BatchNormCosts, Saving
from bnkit.model.preserve_state import force_eager, isolate_from_ambient_modes, preserve_everything

_WARM_UP = 2
_OURS = "bnkit."


@isolate_from_ambient_modes
def summary(model: nn.Module, example_inputs: Any, *, repetitions: int = 9) -> BatchNormCosts:
    """Measure the cost of each batch norm of ``model``, and the savings by ``convert``, ``recompute`` and ``fold``.

    The timed work is a training step on the example, without an optimizer: the forward pass in training mode, and the
    backward pass to all parameters from a random gradient of the output. It runs ``repetitions`` times, after 2 warm-up
    rounds, with PyTorch's current number of threads. Layers are timed within that step, by hooks on the module and on
    its nodes in the autograd graph. The variants are interleaved in the same rounds: the model with bnkit's layers
    (their loops are compiled first, which may take a minute), the model under ``recompute``, and the evaluation of the
    model and of the folded model. Shares and ratios are taken within a round, and their medians over the rounds are
    returned, with 95 % intervals from 6 rounds on. Milliseconds are these shares and ratios at the speed of the fastest
    round. On a GPU, times are device times; on a CPU with one thread, processor time, which other load on the machine does
    not lengthen.

    Bytes are those of the tensors that autograd saves, without parameters and buffers. Each tensor counts once, for the
    first layer that saves it.

    Parameters, gradients, buffers, modes and the random state are not changed. A model with lazy layers is copied, and
    the copy is measured after a run on the example.

    Args:
        model: Any model with batch norms that runs.
        example_inputs: A tensor, a tuple (positional arguments) or a dictionary (keywords): a batch as in training.
        repetitions: The number of rounds, at least 1.

    Returns:
        The batch norms in the order in which they first run: a sequence that prints as a table.

    Raises:
        ModelError: The model has no batch norm, or raises on the example.
        SettingsError: An argument is invalid.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> costs = summary(model, torch.ones(4, 3, 4, 4), repetitions=1)
        >>> [(cost.site, cost.channels, cost.before, cost.after, cost.parameters, cost.bytes_kept) for cost in costs]
        [('1', 8, '0', 'relu, 4', 16, 576)]
    """
    check_supported(model, runs=True)
    check_int("repetitions", repetitions)
    example = Example(example_inputs)
    required_batch_norm_sites(model)
    with preserve_everything(model):
        if first_lazy(model) is not None:
            model = deepcopy_model(model)
            materialise(model, example)
        with force_eager():
            return _Measurement(model, example, repetitions).result()


@dataclass(frozen=True)
class _ChangedCopy:
    """A changed copy of the model, or why there is none.

    Attributes:
        model: The copy, or None.
        details: The result for each batch norm, by name.
        changed: The names of the changed batch norms.
        why_not: Why there is no copy; empty if there is one.
    """

    model: nn.Module | None
    details: dict[str, str]
    changed: frozenset[str] = frozenset()
    why_not: str = ""

    @classmethod
    def of(cls, verb: str, make: Callable[[], Any]) -> _ChangedCopy:
        """The copy that ``make``, a function of bnkit, returns."""
        try:
            model, changes = make()
        except ModelError as error:
            return cls(None, {}, why_not=str(error))
        details = {change.site: change.detail for change in changes}
        changed = frozenset(change.site for change in changes if change.is_made)
        if not changed:
            reason = "; ".join(dict.fromkeys(details.values()))
            return cls(None, details, why_not=f"there is nothing to {verb}: {reason}")
        return cls(model, details, changed)


class _Measurement:
    """The model, its variants, and their measurements."""

    def __init__(self, model: nn.Module, example: Example, repetitions: int) -> None:
        self._model, self._example, self._repetitions = model, example, repetitions
        self._batch_norms = {site.name: site for site in batch_norm_sites(model)}
        self._layers = {name: site.module for name, site in self._batch_norms.items()}
        inputs = example.arguments or example.keywords
        self._sites: Sites = sites(model, inputs)
        with compiling_at_once():
            self._converted = _ChangedCopy.of("convert", lambda: convert(model, to="bnkit", example_inputs=inputs))
        self._folded = _ChangedCopy.of("fold", lambda: fold(model, inputs))
        device = device_of(model)
        self._clock = Clock(device)
        self._step = TrainingStep(example, self._clock)
        self._device = "cpu" if device is None else str(device)

    def result(self) -> BatchNormCosts:
        times = self._times()
        self._model.train()
        kept = kept_bytes(self._model, self._example, self._layers)
        saved, why_not = self._saved_by_recompute()
        order = {site.name: number for number, site in enumerate(self._sites)}
        names = sorted(self._batch_norms, key=lambda name: order.get(name, len(order)))
        costs = [self._cost(name, times, kept, saved) for name in names]
        savings = [
            self._saving("convert", times, self._converted.why_not),
            self._saving("recompute", times, why_not, kept.whole, kept.whole - saved.whole),
            self._saving("fold", times, self._folded.why_not),
        ]
        return BatchNormCosts(
            costs,
            step_ms=times.ms("step"),
            bytes_kept=kept.whole,
            savings=savings,
            measured=self._how_measured(),
            share_range=_relative_to(sum(cost.share for cost in costs), times.shares("layers", _all_layers)),
            rounds=self._repetitions,
        )

    def _how_measured(self) -> str:
        rounds, threads = plural(self._repetitions, "round"), plural(torch.get_num_threads(), "thread")
        return (
            f"medians of {rounds} after {_WARM_UP} to warm up, all variants in each, at the speed of the fastest round; "
            f"{self._device}, {threads}{' (processor time)' if self._clock.is_processor_time else ''}"
        )

    def _times(self) -> PairedRounds:
        """The times of each variant in each round."""
        step, model, converted, folded = self._step, self._model, self._converted.model, self._folded.model

        def train(variant: nn.Module, layers: Any = None, context: Any = nullcontext) -> StepTimes:
            variant.train()
            with context():
                return step.run(variant, layers)

        def evaluate(variant: nn.Module) -> StepTimes:
            layers = {name: module for name, module in variant.named_modules() if name in self._layers}
            return step.evaluate(variant.eval(), layers)

        functions: dict[str, Callable[[], StepTimes]] = {
            "layers": lambda: train(model, self._layers),
            "step": lambda: train(model),
            "recompute": lambda: train(model, context=lambda: recompute(model)),
            "evaluation": lambda: evaluate(model),
        }
        if converted is not None:
            functions["convert"] = lambda: train(converted)
        if folded is not None:
            functions["fold"] = lambda: evaluate(folded)
        with compiling_at_once():
            return PairedRounds(interleaved(functions, repetitions=self._repetitions, warm_up=_WARM_UP))

    def _saved_by_recompute(self) -> tuple[KeptBytes, str]:
        saved = bytes_saved_by_recompute(self._model, self._example, self._layers)
        return saved, "" if saved.whole else "nothing that is kept can be computed again from the input of a batch norm"

    def _saving(
        self,
        verb: str,
        times: PairedRounds,
        why_not: str,
        bytes_before: int | None = None,
        bytes_after: int | None = None,
    ) -> Saving:
        what, before = ("an evaluation", "evaluation") if verb == "fold" else ("a training step", "step")
        if why_not:
            return Saving(verb, what, why_not=why_not)
        ms_before, ratio = times.ms(before), times.ratio(verb, before)
        return Saving(
            verb, what, ms_before, ms_before * ratio[1], ratio, bytes_before, bytes_after, rounds=self._repetitions
        )

    def _cost(self, name: str, times: PairedRounds, kept: KeptBytes, saved: KeptBytes) -> BatchNormCost:
        site = self._batch_norms[name]
        like = site.recognised_as
        before, after, calls = self._surroundings(name)
        forward = median(times.shares("layers", lambda time: time.layers[name][0]))
        backward = median(times.shares("layers", lambda time: time.layers[name][1]))
        both = times.shares("layers", lambda time: sum(time.layers[name]))
        step = times.ms("step")
        affine = [getattr(site.module, key, None) for key in ("weight", "bias")]
        is_folded = name in self._folded.changed and self._folded.model is not None
        return BatchNormCost(
            site=name,
            kind=_kind(site),
            channels=like.channels if isinstance(like, BatchNormLike) else None,
            before=before,
            after=after,
            calls=calls,
            parameters=sum(tensor.numel() for tensor in affine if isinstance(tensor, nn.Parameter)),
            forward_ms=forward * step,
            backward_ms=backward * step,
            share=forward + backward,
            share_range=_relative_to(forward + backward, both),
            bytes_kept=kept.by_layer[name],
            fold=self._folded.details.get(name, self._folded.why_not),
            fold_saves_ms=self._saved_by_fold(name, times) if is_folded else None,
            convert=self._converted.details.get(name, self._converted.why_not),
            recompute_saves_bytes=saved.by_layer[name],
        )

    def _saved_by_fold(self, name: str, times: PairedRounds) -> float:
        """The milliseconds saved in an evaluation at the module ``name``, including the cost of its replacement."""

        def spent(time: StepTimes) -> float:
            return time.layers.get(name, (0.0, 0.0))[0]

        return times.saved_share("fold", "evaluation", spent) * times.ms("evaluation")

    def _surroundings(self, name: str) -> tuple[str, str, int]:
        try:
            site = self._sites.called(name)
        except KeyError:
            return "", "it did not run on the example", 0
        after = [*([site.activation] if site.activation else []), _some(site.feeds)]
        return _some(site.fed_by) or "input", ", ".join(filter(None, after)) or "output", site.calls


def _all_layers(time: StepTimes) -> float:
    return sum(map(sum, time.layers.values()))


def _relative_to(value: float, rounds: list[float]) -> Interval:
    """The interval of the median of ``rounds``, for ``value``, which is a sum of medians and differs from it slightly."""
    low, high = median_interval(rounds)
    middle = median(rounds)
    return (value * low / middle, value * high / middle) if middle else (low, high)


def _some(names: tuple[str, ...]) -> str:
    """The first two names and the number of others: a sum in a residual network feeds all later blocks."""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def _kind(site: BatchNormSite) -> str:
    kind = type(site.module)
    home = _OURS if kind.__module__.startswith(_OURS) else ""
    activation = site.recognised_as.activation if isinstance(site.recognised_as, BatchNormLike) else None
    fused = activation if isinstance(activation, str) else type(activation).__name__ if activation is not None else ""
    return f"{home}{kind.__name__}{f' + {fused}' if fused else ''}"
