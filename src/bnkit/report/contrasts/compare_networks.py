"""Every network against every other: pairs of runs that differ in nothing else. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import median

from bnkit.intervals.interval import CONFIDENCE, Conclusion
from bnkit.intervals.student import ratio_interval
from bnkit.report.contrasts.contrast import AtBest, AtLearningRate, Contrast
from bnkit.report.contrasts.decision_outlook import decision_outlook
from bnkit.report.contrasts.diverged_runs import divergence
from bnkit.report.contrasts.paired_differences import (
    BEST,
    TRAINING,
    BothIntervals,
    PairedDifferences,
    RateKey,
    difference_in_test,
    difference_in_training,
    simultaneous_intervals,
)
from bnkit.report.contrasts.repeated_looks import every_pair, intervals_after_looks, intervals_at_look
from bnkit.report.contrasts.time_to_target import time_to_target
from bnkit.report.learning_rate_sweep import LearningRateSweep
from bnkit.report.results_of_plan import Results
from bnkit.report.run_outcomes import RunOutcome, matches, outcomes, settings_of

BASELINE = "no_batch_norm"


def contrasts(results: Results) -> tuple[Contrast, ...]:
    """Every network against the baseline of its architecture, then the others against each other, under every setting.

    The baseline is the network called ``no_batch_norm``, or else the first. If an architecture has several pairs, the intervals
    of one figure over all pairs have Holm's confidences: the probability that any of them excludes 0 by chance is 5 %. If there
    were several looks, they have Bonferroni's confidences, and allow for all looks.

    Args:
        results: The runs and their records.
    """
    every = outcomes(results)
    under = []
    for setting in settings_of(results.plan):
        here = [outcome for outcome in every if matches(outcome.run.settings, setting)]
        trained = dict.fromkeys(outcome.run.network.key for outcome in here)
        sweeps = {name: LearningRateSweep.of(name, here) for name in trained}
        if results.growth is not None:
            sweeps = {
                name: replace(sweep, chosen=results.growth.chosen_rate(name, setting)) for name, sweep in sweeps.items()
            }
        under.append((setting, sweeps))
    every_contrast: list[Contrast] = []
    for pairs in pairs_of_networks(results.plan.networks):
        of_group = []
        for setting, sweeps in under:
            # If the runs come from several calls or folders, one may lack a network under this setting.
            there = [(first, second) for first, second in pairs if {first, second} <= sweeps.keys()]
            drafts = [_contrast(sweeps[first], sweeps[second], setting, len(there)) for first, second in there]
            intervals = simultaneous_intervals([differences for _, differences in drafts])
            of_group += [
                _with_outlook(_with_looks(_with_intervals(draft, known), results, setting, differences), differences)
                for (draft, differences), known in zip(drafts, intervals, strict=True)
            ]
        of_group = _each_once(of_group)
        every_contrast += sorted(of_group, key=lambda contrast: pairs.index((contrast.baseline, contrast.network)))
    return tuple(every_contrast)


def _each_once(every_contrast: Sequence[Contrast]) -> list[Contrast]:
    """Merge contrasts whose settings only differ in keys without effect on either network; keep the one with the widest interval."""
    kept: dict[tuple[object, ...], Contrast] = {}
    for contrast in every_contrast:
        key = (contrast.baseline, contrast.network, *contrast.setting.items())
        if key not in kept or _width(contrast) > _width(kept[key]):
            kept[key] = contrast
    return list(kept.values())


def _width(contrast: Contrast) -> float:
    test = None if contrast.best is None else contrast.best.decisive
    return 0.0 if test is None or test.low is None or test.high is None else test.high - test.low


def pairs_of_networks(networks: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    """The pairs (baseline, network) of each architecture. The architecture is the part of a network's key before the last dot."""
    groups: dict[str, list[str]] = {}
    for key in networks:
        groups.setdefault(key.rpartition(".")[0], []).append(key)
    for prefix, members in groups.items():
        preferred = f"{prefix}.{BASELINE}" if prefix else BASELINE
        baseline = preferred if preferred in members else members[0]
        others = [member for member in members if member != baseline]
        # Between two other networks, the later one is the baseline: batch_norm is compared with group_norm.
        yield [(baseline, other) for other in others] + [(second, first) for first, second in combinations(others, 2)]


def _with_intervals(contrast: Contrast, intervals: Mapping[RateKey, BothIntervals]) -> Contrast:
    best, none = contrast.best, BothIntervals()
    if best is not None:
        test = intervals.get(BEST, none)
        training = intervals.get(TRAINING, none).these
        best = replace(best, test=test.these, training=training, test_new_examples=test.new)
    rates = tuple(
        replace(at, test=both.these, test_new_examples=both.new)
        for at in contrast.by_learning_rate
        for both in [none if at.lr is None else intervals.get(at.lr, none)]
    )
    return replace(contrast, by_learning_rate=rates, best=best)


def _with_looks(
    contrast: Contrast,
    results: Results,
    setting: Mapping[str, object],
    differences: Mapping[RateKey, PairedDifferences],
) -> Contrast:
    """``contrast``, with intervals that allow for all looks if there were several."""
    growth = results.growth
    known = None if growth is None else growth.of(contrast.baseline, contrast.network, setting)
    counts = results.looks if known is None or known.last is None else every_pair(known.last.pairs)
    if known is not None and growth is not None:
        margin = growth.rule.largest_trifle(is_accuracy=contrast.objective.is_accuracy)
        contrast = replace(contrast, margin=margin, looks=known)
    if not counts:
        return contrast
    intervals = intervals_after_looks(differences, counts, 1 - (1 - CONFIDENCE) / contrast.pairs)
    best, last = intervals.get(BEST), None if known is None else known.last
    if best is not None and best.these is not None and last is not None and best.these.n != last.pairs:
        # After this verdict, other contrasts asked for more seeds.
        intervals[BEST] = intervals_at_look(differences[BEST], last, counts, 1 - (1 - CONFIDENCE) / contrast.pairs)
    return _with_intervals(contrast, intervals)


def _with_outlook(contrast: Contrast, differences: Mapping[RateKey, PairedDifferences]) -> Contrast:
    """``contrast``, with an estimate of what would lead to a verdict if there is none."""
    best, known = contrast.best, differences.get(BEST)
    if best is None or known is None or contrast.of_finished is not Conclusion.UNKNOWN:
        return contrast
    confidence = 1 - (1 - CONFIDENCE) / contrast.pairs
    outlook = decision_outlook(known, (len(known.values),), contrast.largest_trifle, confidence)
    return replace(contrast, best=replace(best, outlook=outlook))


def _contrast(
    without: LearningRateSweep, with_: LearningRateSweep, setting: Mapping[str, object], pairs: int
) -> tuple[Contrast, dict[RateKey, PairedDifferences]]:
    """The contrast without its intervals, and the differences from which they are computed."""
    (without_lr, chosen_by), (with_lr, or_why_not) = without.best_rate(), with_.best_rate()
    rates = tuple(dict.fromkeys((*without.rates, *with_.rates)))
    differences: dict[RateKey, PairedDifferences | None] = {
        lr: difference_in_test(_pairs(without, lr, with_, lr)) for lr in rates
    }
    best = None
    if without_lr is not None and with_lr is not None:
        paired = _pairs(without, without_lr, with_, with_lr)
        differences |= {BEST: difference_in_test(paired), TRAINING: difference_in_training(paired)}
        best = _at_best(without, without_lr, with_, with_lr, paired)
    elif without_lr is not None:
        chosen_by = or_why_not
    ratios = [
        _epoch_seconds(other) / _epoch_seconds(run)
        for key, run in without.runs.items()
        if (other := with_.runs.get(key)) is not None and run.final is not None and other.final is not None
    ]
    settings = [outcome.run.settings for sweep in (without, with_) for outcome in sweep.runs.values()]
    contrast = Contrast(
        without.name,
        with_.name,
        without.objective,
        {key: value for key, value in setting.items() if any(getattr(each, key) is not None for each in settings)},
        tuple(_at(lr, without, with_) for lr in rates),
        best,
        chosen_by,
        ratio_interval(ratios),
        pairs,
    )
    return contrast, {rate: interval for rate, interval in differences.items() if interval is not None}


def _pairs(
    without: LearningRateSweep, without_lr: float, with_: LearningRateSweep, with_lr: float
) -> list[tuple[RunOutcome, RunOutcome]]:
    """A pair of runs for each seed for which both finished."""
    first, second = without.finished(without_lr), with_.finished(with_lr)
    return [(first[seed], second[seed]) for seed in first if seed in second]


def _at(lr: float, without: LearningRateSweep, with_: LearningRateSweep) -> AtLearningRate:
    return AtLearningRate(
        lr,
        None,
        without.mean(lr),
        with_.mean(lr),
        without.ended(lr),
        with_.ended(lr),
        len(dict.fromkeys((*without.seeds_at(lr), *with_.seeds_at(lr)))),
        without.undefined(lr),
        with_.undefined(lr),
    )


def _at_best(
    without: LearningRateSweep,
    without_lr: float,
    with_: LearningRateSweep,
    with_lr: float,
    pairs: list[tuple[RunOutcome, RunOutcome]],
) -> AtBest:
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
        None,
        None,
        tuple(entry for entry in both if entry is not None),
        without.constant(without_lr),
        without.learned(without_lr) is False and with_.learned(with_lr) is False,
        divergence=divergence(
            (without.runs[without_lr, seed], with_.runs[with_lr, seed])
            for seed in without.seeds_at(without_lr)
            if (with_lr, seed) in with_.runs
        ),
    )


def _epoch_seconds(outcome: RunOutcome) -> float:
    """The median duration of an epoch, because the first epoch includes the warm-up."""
    return median(epoch.epoch_duration for epoch in outcome.record.epochs)
