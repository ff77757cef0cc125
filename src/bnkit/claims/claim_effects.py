"""The effects that claims are judged by: from runs to one number for each seed. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any

from bnkit.claims.accuracy_effect import AccuracyEffect, On, Term
from bnkit.claims.claim import PLAIN, WITH, EffectOf, Evidence
from bnkit.experiments.records.run_epochs_file import Status
from bnkit.report.run_outcomes import RunOutcome

Effects = dict[int, float]


def paired(
    first: Mapping[int, RunOutcome],
    second: Mapping[int, RunOutcome],
    difference: Callable[[RunOutcome, RunOutcome], float | None],
) -> Effects:
    """``difference`` of the two runs of each common seed; seeds for which it is None are left out."""
    differences = {seed: difference(first[seed], second[seed]) for seed in first if seed in second}
    return {seed: value for seed, value in differences.items() if value is not None and math.isfinite(value)}


def slower(network: str) -> EffectOf:
    """How much longer an epoch of training takes than without batch norm: the logarithm of the ratio of the medians."""

    def effects(evidence: Evidence) -> Effects:
        plain, other = ({s: o for s, o in evidence.runs(name).items() if o.final} for name in (PLAIN, network))
        return paired(plain, other, lambda a, b: math.log(_seconds(b) / _seconds(a)))

    return effects


def _seconds(outcome: RunOutcome) -> float:
    return median(epoch.epoch_duration for epoch in outcome.record.epochs)


def over_grid(statistic: Callable[[Evidence, Sequence[RunOutcome]], float | None]) -> EffectOf:
    """The difference, with minus without batch norm, of ``statistic`` over all learning rates of one seed."""

    def effects(evidence: Evidence) -> Effects:
        effects: Effects = {}
        for seed in evidence.seeds:
            first, second = (_of_seed(evidence, network, seed) for network in (PLAIN, WITH))
            if first and second:
                before, after = statistic(evidence, first), statistic(evidence, second)
                if before is not None and after is not None:
                    effects[seed] = after - before
        return effects

    return effects


def _of_seed(evidence: Evidence, network: str, seed: int) -> list[RunOutcome]:
    """The runs of a network under one seed; empty unless all of them ended."""
    runs = [o for o in evidence.all if o.run.network.key == network and o.run.seed == seed]
    return runs if all(o.record.is_complete for o in runs) else []


def highest_rate(evidence: Evidence, runs: Sequence[RunOutcome]) -> float | None:
    """The decimal logarithm of the highest learning rate at which the network trains."""
    rates = [o.run.settings.lr for o in runs if evidence.trains(o)]
    return math.log10(max(rates)) if rates else None


def width_of_range(evidence: Evidence, runs: Sequence[RunOutcome]) -> float | None:
    """Over how many decades of learning rates the network trains."""
    rates = sorted(o.run.settings.lr for o in runs)
    spacing = math.log10(rates[-1] / rates[0]) / max(len(rates) - 1, 1)
    return spacing * sum(evidence.trains(o) for o in runs)


def finite_share(evidence: Evidence, runs: Sequence[RunOutcome]) -> float | None:
    """The share of the learning rates at which the loss stays finite until the end."""
    return sum(o.record.status is Status.FINISHED for o in runs) / len(runs)


def evenness_of_gradients(evidence: Evidence, runs: Sequence[RunOutcome]) -> float | None:
    """Minus the deviation, over the learning rates, of the logarithm of the gradient's norm, if it is finite and not 0."""
    norms = [o.record.epochs[-1].gradient_norm for o in runs if o.record.epochs]
    logarithms = [math.log(norm) for norm in norms if norm]
    return -stdev(logarithms) if len(logarithms) > 1 else None


def evenness_of_ends(evidence: Evidence, runs: Sequence[RunOutcome]) -> float | None:
    """Minus the deviation of the test accuracy at the end over all points of the grid; a run that diverged counts as 0."""
    ends = [o.test if o.final else 0.0 for o in runs]
    return -stdev(ends) if len(ends) > 1 else None


def how_many_train(evidence: Evidence, runs: Sequence[RunOutcome]) -> float | None:
    """The number of points of the grid at which the network trains."""
    return float(sum(evidence.trains(o) for o in runs))


def smaller_best_rate(evidence: Evidence) -> Effects:
    """By how many decades the learning rate that is best on the validation part is smaller with than without."""
    effects: Effects = {}
    for seed in evidence.seeds:
        best = [_best_rate(_of_seed(evidence, network, seed)) for network in (PLAIN, WITH)]
        if best[0] is not None and best[1] is not None:
            effects[seed] = math.log10(best[0] / best[1])
    return effects


def _best_rate(runs: Sequence[RunOutcome]) -> float | None:
    known = [(o.validation, o.run.settings.lr) for o in runs if o.validation is not None]
    return max(known)[1] if known else None


def refused(evidence: Evidence) -> Effects:
    """1 if the run was refused for having one value per channel, else 0."""
    return {
        seed: float(o.record.status is Status.FAILED and "TooFewValuesError" in o.record.traceback)
        for seed, o in evidence.runs(WITH).items()
        if o.record.status is not None
    }


def works(evidence: Evidence) -> Effects:
    """1 if the run finished, else 0."""
    runs = evidence.runs(WITH).items()
    return {seed: float(o.final is not None) for seed, o in runs if o.record.status not in (None, Status.RUNNING)}


@AccuracyEffect
def best_gain(evidence: Evidence) -> list[Term]:
    """The gain on the test set, with each network at its best learning rate."""
    return [Term(1.0, evidence.at_best(WITH)), Term(-1.0, evidence.at_best(PLAIN))]


@AccuracyEffect
def smaller_gap(evidence: Evidence) -> list[Term]:
    """By how much training accuracy is less ahead of test accuracy with than without, both without dropout.

    Both accuracies are measured in evaluation mode with the final weights; an epoch's running accuracy mixes earlier weights.
    """
    plain, with_ = (evidence.runs(network, dropout=0.0) for network in (PLAIN, WITH))
    return [
        *(Term(1.0, plain, On.TRAINING), Term(-1.0, plain)),
        *(Term(-1.0, with_, On.TRAINING), Term(1.0, with_)),
    ]


@AccuracyEffect
def less_from_dropout(evidence: Evidence) -> list[Term]:
    """By how much less dropout gains on the test set with than without."""
    return [
        Term(sign * side, evidence.runs(network, dropout=dropout))
        for network, side in ((PLAIN, 1.0), (WITH, -1.0))
        for dropout, sign in ((0.5, 1.0), (0.0, -1.0))
    ]


@AccuracyEffect
def weaker_in_small_batches(evidence: Evidence) -> list[Term]:
    """By how much the gain on the test set is smaller in batches of 2 than of 32, each at its best rate."""
    return [
        Term(sign * side, evidence.at_best(network, batch_size=size))
        for size, side in ((32, 1.0), (2, -1.0))
        for network, sign in ((WITH, 1.0), (PLAIN, -1.0))
    ]


@AccuracyEffect
def before_is_better(evidence: Evidence) -> list[Term]:
    """By how much batch norm before the activation is better on the test set than after it."""
    return [Term(sign, evidence.runs(WITH, order=order)) for order, sign in (("before", 1.0), ("after", -1.0))]


@AccuracyEffect
def population_is_better(evidence: Evidence) -> list[Term]:
    """By how much population statistics predict better than the moving average."""
    runs = evidence.runs(WITH)
    return [Term(1.0, runs, On.TEST_BY_POPULATION), Term(-1.0, runs)]


@AccuracyEffect
def narrow_against_wide(evidence: Evidence) -> list[Term]:
    """By how much the narrowest network with batch norm is better on the test set than the widest without."""
    narrow, wide = min(evidence.values("width"), key=_number), max(evidence.values("width"), key=_number)
    return [Term(1.0, evidence.runs(WITH, width=narrow)), Term(-1.0, evidence.runs(PLAIN, width=wide))]


def _number(value: object) -> float:
    assert isinstance(value, (int, float))
    return value


def less_change(figure: str, where: str = "landscape") -> EffectOf:
    """How much smaller the mean of a recorded figure is with batch norm than without: the logarithm of the ratio.

    Args:
        figure: The figure's name in the record.
        where: "landscape", or "layers" for the mean over all layers with weights except the first.
    """

    def effects(evidence: Evidence) -> Effects:
        def smaller(plain: RunOutcome, with_: RunOutcome) -> float | None:
            first, second = (_mean(_recorded_values(outcome, figure, where)) for outcome in (plain, with_))
            return math.log(first / second) if first and second else None

        return paired(evidence.runs(PLAIN), evidence.runs(WITH), smaller)

    return effects


def _recorded_values(outcome: RunOutcome, figure: str, where: str) -> Iterator[float]:
    for epoch in outcome.record.epochs:
        for entry in getattr(epoch, where) or ():
            if where == "landscape":
                values = [entry[figure]]
            else:
                values = [layer.get(figure) for layer in _layers_with_weights(entry)[1:]]
            yield from (value for value in values if value is not None)


def _layers_with_weights(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The layers with weights, in order."""
    return [layer for layer in entry["layers"].values() if "update_ratio" in layer]


def fewer_dead(evidence: Evidence) -> Effects:
    """By how much the share of dead ReLUs at the end is smaller with than without."""

    def share(outcome: RunOutcome) -> float | None:
        entries = [entry for epoch in outcome.record.epochs for entry in epoch.layers or ()]
        return _mean(layer["dead"] for layer in entries[-1]["layers"].values() if "dead" in layer) if entries else None

    def fewer(plain: RunOutcome, with_: RunOutcome) -> float | None:
        first, second = share(plain), share(with_)
        return None if first is None or second is None else first - second

    return paired(evidence.runs(PLAIN, activation="relu"), evidence.runs(WITH, activation="relu"), fewer)


def evener_gradients(evidence: Evidence) -> Effects:
    """By how much closer the gradients of the first and the last layer are with than without, sigmoids between them.

    The distance is the absolute logarithm of the ratio of their norms, averaged over the recorded steps.
    """

    def distance(outcome: RunOutcome) -> float | None:
        ratios = []
        for epoch in outcome.record.epochs:
            for entry in epoch.layers or ():
                norms = [layer["gradient_norm"] for layer in _layers_with_weights(entry)]
                if len(norms) > 1 and norms[0] and norms[-1]:
                    ratios.append(abs(math.log(norms[0] / norms[-1])))
        return _mean(ratios)

    def closer(plain: RunOutcome, with_: RunOutcome) -> float | None:
        first, second = distance(plain), distance(with_)
        return None if first is None or second is None else first - second

    return paired(evidence.runs(PLAIN, activation="sigmoid"), evidence.runs(WITH, activation="sigmoid"), closer)


def _mean(values: Any) -> float | None:
    known = list(values)
    return fmean(known) if known else None
