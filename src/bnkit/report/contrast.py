"""One network against another: pairs of runs that differ in nothing else. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from bnkit.experiments.plan import Plan
from bnkit.experiments.records import Record, Status
from bnkit.experiments.uncertainty import Interval, mean_interval, ratio_interval
from bnkit.report.outcomes import Outcome, matches, outcomes, settings_of
from bnkit.report.reached import Reached, reached

BASELINE = "no_batch_norm"
# How a best learning rate was chosen.
ONLY_ONE = "only one"
BY_VALIDATION = "validation"


@dataclass(frozen=True)
class AtLearningRate:
    """Both networks at one learning rate.

    Attributes:
        lr: The learning rate.
        test_accuracy: With − without at the end, paired by seed; None if no pair finished.
        baseline_mean, network_mean: Of the final test accuracy, over the runs that finished.
        baseline_ended, network_ended: How many runs of each ended as what.
        seeds: How many seeds there are.
    """

    lr: float
    test_accuracy: Interval | None
    baseline_mean: float | None
    network_mean: float | None
    baseline_ended: Mapping[Status, int]
    network_ended: Mapping[Status, int]
    seeds: int


@dataclass(frozen=True)
class AtBest:
    """Both networks, each at its own best learning rate.

    Attributes:
        baseline_lr, network_lr: Chosen by mean validation accuracy at the end (or the only one there is).
        baseline_mean, network_mean: Of the final test accuracy there.
        test_accuracy: The difference of those, paired by seed.
        accuracy: The difference of the training accuracies of the last epoch, paired by seed.
        reached: How long each took to the other's final accuracy.
    """

    baseline_lr: float
    network_lr: float
    baseline_mean: float
    network_mean: float
    test_accuracy: Interval | None
    accuracy: Interval | None
    reached: tuple[Reached, ...]


@dataclass(frozen=True)
class Contrast:
    """A network against its baseline, under one setting of everything but the learning rate.

    Attributes:
        baseline, network: Their keys.
        setting: The other grid keys that vary, and their values here.
        by_learning_rate: At each learning rate.
        best: At the best one of each; None if it cannot be chosen.
        chosen_by: BY_VALIDATION, ONLY_ONE, or why it cannot be chosen.
        cost: Seconds per epoch, network / baseline, over the pairs.
    """

    baseline: str
    network: str
    setting: Mapping[str, object]
    by_learning_rate: tuple[AtLearningRate, ...]
    best: AtBest | None
    chosen_by: str
    cost: Interval | None


def contrasts(plan: Plan, records: Mapping[str, Record]) -> tuple[Contrast, ...]:
    """Every network against the baseline of its architecture, under every setting.

    The baseline is the network called ``no_batch_norm``; if there is none, the first.

    Args:
        plan: The runs.
        records: What came out, by run id.
    """
    every = outcomes(plan, records)
    found = []
    for baseline, network in _pairs_of_networks(plan.networks):
        for setting in settings_of(plan):
            here = [outcome for outcome in every if matches(outcome.run.settings, setting)]
            found.append(_contrast(_Arm.of(baseline, here), _Arm.of(network, here), setting))
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


@dataclass(frozen=True)
class _Arm:
    """The runs of one network under one setting, by learning rate and seed."""

    name: str
    runs: Mapping[tuple[float, int], Outcome]

    @classmethod
    def of(cls, name: str, of_all: Sequence[Outcome]) -> _Arm:
        return cls(name, {(o.run.settings.lr, o.run.seed): o for o in of_all if o.run.network.key == name})

    @property
    def rates(self) -> tuple[float, ...]:
        return tuple(dict.fromkeys(lr for lr, _ in self.runs))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(seed for _, seed in self.runs))

    def finished(self, lr: float) -> dict[int, Outcome]:
        """By seed."""
        return {seed: self.runs[lr, seed] for seed in self.seeds if self.runs[lr, seed].final is not None}

    def mean_test_accuracy(self, lr: float) -> float | None:
        accuracies = [outcome.test_accuracy for outcome in self.finished(lr).values()]
        return fmean(accuracies) if accuracies else None

    def ended(self, lr: float) -> dict[Status, int]:
        ends = [self.runs[lr, seed].record.status for seed in self.seeds]
        return {status: ends.count(status) for status in Status if status in ends}

    def best_rate(self) -> tuple[float | None, str]:
        """The rate with the highest mean validation accuracy, among those at which the most runs finished; and how, or why not."""
        finished = {lr: self.finished(lr).values() for lr in self.rates}
        most = max(len(runs) for runs in finished.values())
        if most == 0:
            return None, f"no run of {self.name} finished"
        if len(self.rates) == 1:
            return self.rates[0], ONLY_ONE
        scores = {}
        for lr, runs in finished.items():
            accuracies = [outcome.validation_accuracy for outcome in runs]
            known = [accuracy for accuracy in accuracies if accuracy is not None]
            if len(runs) == most and known:
                scores[lr] = fmean(known)
        if not scores:
            return None, "there is no validation part to choose a learning rate on"
        return max(scores, key=scores.__getitem__), BY_VALIDATION


def _contrast(without: _Arm, with_: _Arm, setting: Mapping[str, object]) -> Contrast:
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
        setting,
        tuple(_at(lr, without, with_) for lr in without.rates),
        best,
        chosen_by,
        ratio_interval(ratios),
    )


def _pairs(without: _Arm, without_lr: float, with_: _Arm, with_lr: float) -> list[tuple[Outcome, Outcome]]:
    """Of the seeds for which both finished."""
    first, second = without.finished(without_lr), with_.finished(with_lr)
    return [(first[seed], second[seed]) for seed in first if seed in second]


def _difference(
    pairs: Sequence[tuple[Outcome, Outcome]], figure: Callable[[Outcome], float] = lambda outcome: outcome.test_accuracy
) -> Interval | None:
    return mean_interval([figure(b) - figure(a) for a, b in pairs])


def _at(lr: float, without: _Arm, with_: _Arm) -> AtLearningRate:
    return AtLearningRate(
        lr,
        _difference(_pairs(without, lr, with_, lr)),
        without.mean_test_accuracy(lr),
        with_.mean_test_accuracy(lr),
        without.ended(lr),
        with_.ended(lr),
        len(without.seeds),
    )


def _at_best(without: _Arm, without_lr: float, with_: _Arm, with_lr: float) -> AtBest:
    pairs = _pairs(without, without_lr, with_, with_lr)
    both = (
        reached(without.name, with_.name, pairs),
        reached(with_.name, without.name, [(b, a) for a, b in pairs]),
    )
    without_mean, with_mean = without.mean_test_accuracy(without_lr), with_.mean_test_accuracy(with_lr)
    assert without_mean is not None and with_mean is not None  # a best rate is one at which runs finished
    return AtBest(
        without_lr,
        with_lr,
        without_mean,
        with_mean,
        _difference(pairs),
        _difference(pairs, lambda outcome: outcome.accuracy),
        tuple(entry for entry in both if entry is not None),
    )


def _epoch_seconds(outcome: Outcome) -> float:
    """The median: the first epoch also warms up."""
    return median(epoch.epoch_duration for epoch in outcome.record.epochs)
