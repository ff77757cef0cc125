"""One network against another: pairs of runs that differ in nothing else. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bnkit.experiments.records.record import Status
from bnkit.report.intervals import Interval, ratio_interval
from bnkit.report.objective import Objective
from bnkit.report.outcomes import RunOutcome, fewest, matches, outcomes, settings_of
from bnkit.report.results import Results
from bnkit.report.sweep import LearningRateSweep
from bnkit.report.time_to_target import TimeToTarget, time_to_target

BASELINE = "no_batch_norm"


@dataclass(frozen=True)
class AtLearningRate:
    """Both networks at one learning rate.

    Attributes:
        lr: The learning rate.
        test: The measure on the test set at the end, with − without, paired by seed; None if no pair finished.
        baseline_mean, network_mean: Of that measure, over the runs that finished.
        baseline_ended, network_ended: How many runs of each ended as what.
        seeds: How many seeds there are.
        baseline_undefined, network_undefined: How many runs of each finished without a finite measure on the test set.
    """

    lr: float
    test: Interval | None
    baseline_mean: float | None
    network_mean: float | None
    baseline_ended: Mapping[Status, int]
    network_ended: Mapping[Status, int]
    seeds: int
    baseline_undefined: int = 0
    network_undefined: int = 0


@dataclass(frozen=True)
class AtBest:
    """Both networks, each at its own best learning rate.

    Attributes:
        baseline_lr, network_lr: Chosen by the mean measure on the validation part (or the only one there is).
        baseline_mean, network_mean: Of the measure on the test set there.
        test: The difference of those, paired by seed.
        training: The difference over the training batches of the last epoch, paired by seed.
        reached: How long each took to where the other ended.
        constant: What the best constant answer scores on the test set; None where that is not known.
        neither_learned: Whether neither network is clearly better than that.
    """

    baseline_lr: float
    network_lr: float
    baseline_mean: float
    network_mean: float
    test: Interval | None
    training: Interval | None
    reached: tuple[TimeToTarget, ...]
    constant: float | None = None
    neither_learned: bool = False


@dataclass(frozen=True)
class Contrast:
    """A network against its baseline, under one setting of everything but the learning rate.

    Attributes:
        baseline, network: Their keys.
        measure: What they are judged by.
        setting: The other grid keys that vary, and their values here.
        by_learning_rate: At each learning rate.
        best: At the best one of each; None if it cannot be chosen.
        chosen_by: BY_VALIDATION, ONLY_ONE, or why it cannot be chosen.
        cost: Seconds per epoch, network / baseline, over the pairs.
    """

    baseline: str
    network: str
    objective: Objective
    setting: Mapping[str, object]
    by_learning_rate: tuple[AtLearningRate, ...]
    best: AtBest | None
    chosen_by: str
    cost: Interval | None


def contrasts(results: Results) -> tuple[Contrast, ...]:
    """Every network against the baseline of its architecture, under every setting.

    The baseline is the network called ``no_batch_norm``; if there is none, the first.

    Args:
        results: The runs, and what came out.
    """
    every = outcomes(results)
    found = []
    for baseline, network in _pairs_of_networks(results.plan.networks):
        for setting in settings_of(results.plan):
            here = [outcome for outcome in every if matches(outcome.run.settings, setting)]
            if not {baseline, network} <= {outcome.run.network.key for outcome in here}:
                continue  # of several folders, one that was not trained under this setting
            found.append(_contrast(LearningRateSweep.of(baseline, here), LearningRateSweep.of(network, here), setting))
    return tuple(found)


def _pairs_of_networks(networks: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each network with its baseline; what stands before the last dot of a key is its architecture."""
    groups: dict[str, list[str]] = {}
    for key in networks:
        groups.setdefault(key.rpartition(".")[0], []).append(key)
    for prefix, members in groups.items():
        preferred = f"{prefix}.{BASELINE}" if prefix else BASELINE
        baseline = preferred if preferred in members else members[0]
        for member in members:
            if member != baseline:
                yield baseline, member


def _contrast(without: LearningRateSweep, with_: LearningRateSweep, setting: Mapping[str, object]) -> Contrast:
    (without_lr, chosen_by), (with_lr, or_why_not) = without.best_rate(), with_.best_rate()
    best = None
    if without_lr is not None and with_lr is not None:
        best = _at_best(without, without_lr, with_, with_lr)
    elif without_lr is not None:
        chosen_by = or_why_not
    ratios = [
        _epoch_seconds(with_.runs[key]) / _epoch_seconds(without.runs[key])
        for key in without.runs
        if without.runs[key].final is not None and with_.runs[key].final is not None
    ]
    return Contrast(
        without.name,
        with_.name,
        without.objective,
        setting,
        tuple(_at(lr, without, with_) for lr in without.rates),
        best,
        chosen_by,
        ratio_interval(ratios),
    )


def _pairs(
    without: LearningRateSweep, without_lr: float, with_: LearningRateSweep, with_lr: float
) -> list[tuple[RunOutcome, RunOutcome]]:
    """Of the seeds for which both finished."""
    first, second = without.finished(without_lr), with_.finished(with_lr)
    return [(first[seed], second[seed]) for seed in first if seed in second]


def _difference(pairs: Sequence[tuple[RunOutcome, RunOutcome]]) -> Interval | None:
    """On the test set, paired by seed."""
    if not pairs:
        return None
    answers = fewest(outcome.answers for pair in pairs for outcome in pair)
    return pairs[0][0].objective.interval_of_difference([second.test - first.test for first, second in pairs], answers)


def _training_difference(pairs: Sequence[tuple[RunOutcome, RunOutcome]]) -> Interval | None:
    """Over the training batches of the last epoch, paired by seed."""
    both = [(first.training, second.training) for first, second in pairs]
    differences = [second - first for first, second in both if first is not None and second is not None]
    if not differences:
        return None
    answers = fewest(outcome.training_answers for pair in pairs for outcome in pair)
    return pairs[0][0].objective.interval_of_difference(differences, answers)


def _at(lr: float, without: LearningRateSweep, with_: LearningRateSweep) -> AtLearningRate:
    return AtLearningRate(
        lr,
        _difference(_pairs(without, lr, with_, lr)),
        without.mean(lr),
        with_.mean(lr),
        without.ended(lr),
        with_.ended(lr),
        len(without.seeds),
        without.undefined(lr),
        with_.undefined(lr),
    )


def _at_best(without: LearningRateSweep, without_lr: float, with_: LearningRateSweep, with_lr: float) -> AtBest:
    pairs = _pairs(without, without_lr, with_, with_lr)
    both = (
        time_to_target(without.name, with_.name, pairs),
        time_to_target(with_.name, without.name, [(b, a) for a, b in pairs]),
    )
    without_mean, with_mean = without.mean(without_lr), with_.mean(with_lr)
    assert without_mean is not None and with_mean is not None  # a best rate is one at which runs finished
    return AtBest(
        without_lr,
        with_lr,
        without_mean,
        with_mean,
        _difference(pairs),
        _training_difference(pairs),
        tuple(entry for entry in both if entry is not None),
        without.constant(without_lr),
        without.learned(without_lr) is False and with_.learned(with_lr) is False,
    )


def _epoch_seconds(outcome: RunOutcome) -> float:
    """The median: the first epoch also warms up."""
    return median(epoch.epoch_duration for epoch in outcome.record.epochs)
