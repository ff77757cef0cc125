"""One network against another: pairs of runs that differ in nothing else. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from bnkit.experiments.measure import Measure
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
        test: The measure on the test set at the end, with − without, paired by seed; None if no pair finished.
        baseline_mean, network_mean: Of that measure, over the runs that finished.
        baseline_ended, network_ended: How many runs of each ended as what.
        seeds: How many seeds there are.
    """

    lr: float
    test: Interval | None
    baseline_mean: float | None
    network_mean: float | None
    baseline_ended: Mapping[Status, int]
    network_ended: Mapping[Status, int]
    seeds: int


@dataclass(frozen=True)
class AtBest:
    """Both networks, each at its own best learning rate.

    Attributes:
        baseline_lr, network_lr: Chosen by the mean measure on the validation part (or the only one there is).
        baseline_mean, network_mean: Of the measure on the test set there.
        test: The difference of those, paired by seed.
        training: The difference over the training batches of the last epoch, paired by seed.
        reached: How long each took to where the other ended.
    """

    baseline_lr: float
    network_lr: float
    baseline_mean: float
    network_mean: float
    test: Interval | None
    training: Interval | None
    reached: tuple[Reached, ...]


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
    measure: Measure
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
    def measure(self) -> Measure:
        """That of any run: all have the same."""
        return next(iter(self.runs.values())).measure

    @property
    def rates(self) -> tuple[float, ...]:
        return tuple(dict.fromkeys(lr for lr, _ in self.runs))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(seed for _, seed in self.runs))

    def finished(self, lr: float) -> dict[int, Outcome]:
        """By seed."""
        return {seed: self.runs[lr, seed] for seed in self.seeds if self.runs[lr, seed].final is not None}

    def mean(self, lr: float) -> float | None:
        ends = [outcome.test for outcome in self.finished(lr).values()]
        return fmean(ends) if ends else None

    def ended(self, lr: float) -> dict[Status, int]:
        ends = [self.runs[lr, seed].record.status for seed in self.seeds]
        return {status: ends.count(status) for status in Status if status in ends}

    def best_rate(self) -> tuple[float | None, str]:
        """The rate with the best mean on the validation part, among those at which the most runs finished; and how, or why not."""
        finished = {lr: self.finished(lr).values() for lr in self.rates}
        most = max(len(runs) for runs in finished.values())
        if most == 0:
            return None, f"no run of {self.name} finished"
        if len(self.rates) == 1:
            return self.rates[0], ONLY_ONE
        places = {}
        for lr, runs in finished.items():
            ends = [outcome.validation for outcome in runs]
            known = [end for end in ends if end is not None]
            if len(runs) == most and known:
                places[lr] = self.measure.order(fmean(known))
        if not places:
            return None, "there is no validation part to choose a learning rate on"
        return min(places, key=places.__getitem__), BY_VALIDATION


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
        without.measure,
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
    pairs: Sequence[tuple[Outcome, Outcome]], figure: Callable[[Outcome], float | None] = lambda outcome: outcome.test
) -> Interval | None:
    both = [(figure(a), figure(b)) for a, b in pairs]
    return mean_interval([second - first for first, second in both if first is not None and second is not None])


def _at(lr: float, without: _Arm, with_: _Arm) -> AtLearningRate:
    return AtLearningRate(
        lr,
        _difference(_pairs(without, lr, with_, lr)),
        without.mean(lr),
        with_.mean(lr),
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
    without_mean, with_mean = without.mean(without_lr), with_.mean(with_lr)
    assert without_mean is not None and with_mean is not None  # a best rate is one at which runs finished
    return AtBest(
        without_lr,
        with_lr,
        without_mean,
        with_mean,
        _difference(pairs),
        _difference(pairs, lambda outcome: outcome.training),
        tuple(entry for entry in both if entry is not None),
    )


def _epoch_seconds(outcome: Outcome) -> float:
    """The median: the first epoch also warms up."""
    return median(epoch.epoch_duration for epoch in outcome.record.epochs)
