"""One network against another: pairs of runs that differ in nothing else. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records import Epoch, Record, Status
from bnkit.experiments.settings import Settings
from bnkit.experiments.uncertainty import Interval, mean_interval, ratio_interval

BASELINE = "no_batch_norm"


@dataclass(frozen=True)
class Outcome:
    """A run and what came out of it."""

    run: Run
    record: Record

    @property
    def final(self) -> Epoch | None:
        """The figures of its last epoch, if it finished."""
        return self.record.last if self.record.status is Status.FINISHED else None


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
class Reached:
    """How long one network took to the final test accuracy of the other, seed by seed.

    Attributes:
        of, by: Whose accuracy, and who reached it.
        accuracy: The mean of the accuracies to be reached.
        epochs, seconds: The median over the seeds that got there; None if none did.
        own_epochs, own_seconds: What the other one took to its last epoch (median).
        reached, seeds: In how many seeds it got there, of how many.
    """

    of: str
    by: str
    accuracy: float
    epochs: float | None
    seconds: float | None
    own_epochs: float
    own_seconds: float
    reached: int
    seeds: int


@dataclass(frozen=True)
class AtBest:
    """Both networks, each at its own best learning rate.

    Attributes:
        baseline_lr, network_lr: Chosen by mean validation accuracy at the end (or the only one there is).
        baseline_mean, network_mean: Of the final test accuracy there.
        test_accuracy: The difference of those, paired by seed.
        reached: How long each took to the other's final accuracy.
    """

    baseline_lr: float
    network_lr: float
    baseline_mean: float
    network_mean: float
    test_accuracy: Interval | None
    reached: tuple[Reached, ...]


@dataclass(frozen=True)
class Contrast:
    """A network against its baseline, under one setting of everything but the learning rate.

    Attributes:
        baseline, network: Their keys.
        setting: The other grid keys that vary, and their values here.
        by_learning_rate: At each learning rate.
        best: At the best one of each; None if it cannot be chosen.
        chosen_by: "validation", "only one", or why it cannot be chosen.
        cost: Seconds per epoch, network / baseline, over the pairs.
    """

    baseline: str
    network: str
    setting: Mapping[str, object]
    by_learning_rate: tuple[AtLearningRate, ...]
    best: AtBest | None
    chosen_by: str
    cost: Interval | None


@dataclass(frozen=True)
class Drift:
    """A network whose test accuracy depends on which statistics it is evaluated with.

    Attributes:
        network: Its key.
        lr, setting: Where.
        moving_average, population: The mean test accuracies of the runs that finished.
        apart: In how many runs they differ by more than the margin.
        runs: How many finished.
        widest: The pair (moving average, population) of the run in which they differ most.
    """

    network: str
    lr: float
    setting: Mapping[str, object]
    moving_average: float
    population: float
    apart: int
    runs: int
    widest: tuple[float, float]


def contrasts(plan: Plan, records: Mapping[str, Record]) -> tuple[Contrast, ...]:
    """Every network against the baseline of its architecture, under every setting.

    The baseline is the network called ``no_batch_norm``; if there is none, the first.

    Args:
        plan: The runs.
        records: What came out, by run id.
    """
    outcomes = [Outcome(run, records.get(run.run_id, Record())) for run in plan]
    found = []
    for baseline, network in _pairs_of_networks(plan.networks):
        for setting in _settings(plan):
            here = [outcome for outcome in outcomes if _matches(outcome.run.settings, setting)]
            found.append(_contrast(baseline, network, setting, here))
    return tuple(found)


def drifts(plan: Plan, records: Mapping[str, Record], margin: float) -> tuple[Drift, ...]:
    """Where test accuracies under the moving average and under population statistics differ by more than ``margin``."""
    found = []
    for network in plan.networks:
        for setting in _settings(plan):
            for lr in dict.fromkeys(plan.experiment.grid.lr):
                pairs = [
                    (final.test_accuracy, final.test_accuracy_population)
                    for final in _finals(plan, records, network, setting, lr)
                    if final.test_accuracy is not None and final.test_accuracy_population is not None
                ]
                apart = sum(abs(moving - population) > margin for moving, population in pairs)
                if apart:
                    found.append(
                        Drift(
                            network,
                            lr,
                            setting,
                            fmean(moving for moving, _ in pairs),
                            fmean(population for _, population in pairs),
                            apart,
                            len(pairs),
                            max(pairs, key=lambda pair: abs(pair[0] - pair[1])),
                        )
                    )
    return tuple(found)


def architecture(key: str) -> str:
    """What stands before the last dot of a network's key: empty where there is one architecture."""
    return key.rpartition(".")[0]


def _finals(
    plan: Plan, records: Mapping[str, Record], network: str, setting: Mapping[str, object], lr: float
) -> Iterator[Epoch]:
    for run in plan:
        if run.network.key == network and run.settings.lr == lr and _matches(run.settings, setting):
            final = Outcome(run, records.get(run.run_id, Record())).final
            if final is not None:
                yield final


def _pairs_of_networks(networks: Sequence[str]) -> Iterator[tuple[str, str]]:
    groups: dict[str, list[str]] = {}
    for key in networks:
        groups.setdefault(architecture(key), []).append(key)
    for prefix, members in groups.items():
        preferred = f"{prefix}.{BASELINE}" if prefix else BASELINE
        baseline = preferred if preferred in members else members[0]
        for member in members:
            if member != baseline:
                yield baseline, member


def _settings(plan: Plan) -> list[Mapping[str, object]]:
    """The combinations of all grid keys but lr, each with only the keys that vary."""
    varying = [
        key
        for key in plan.experiment.grid.keys_given
        if key != "lr" and len({getattr(run.settings, key) for run in plan}) > 1
    ]
    combinations = {tuple(getattr(run.settings, key) for key in varying): None for run in plan}
    return [dict(zip(varying, values, strict=True)) for values in combinations]


def _matches(settings: Settings, setting: Mapping[str, object]) -> bool:
    return all(getattr(settings, key) == value for key, value in setting.items())


def _contrast(baseline: str, network: str, setting: Mapping[str, object], outcomes: list[Outcome]) -> Contrast:
    by_arm = {
        key: {(o.run.settings.lr, o.run.seed): o for o in outcomes if o.run.network.key == key}
        for key in (baseline, network)
    }
    without, with_ = by_arm[baseline], by_arm[network]
    rates = tuple(dict.fromkeys(lr for lr, _ in without))
    seeds = tuple(dict.fromkeys(seed for _, seed in without))
    at = tuple(_at(lr, seeds, without, with_) for lr in rates)
    (without_lr, why), (with_lr, _) = _best_rate(rates, seeds, without), _best_rate(rates, seeds, with_)
    best = None
    if without_lr is not None and with_lr is not None:
        best = _at_best(baseline, network, seeds, (without_lr, without), (with_lr, with_))
    ratios = [
        _epoch_seconds(with_[key]) / _epoch_seconds(without[key])
        for key in without
        if without[key].final is not None and with_[key].final is not None
    ]
    return Contrast(baseline, network, setting, at, best, why, ratio_interval(ratios))


_ByRateAndSeed = Mapping[tuple[float, int], Outcome]


def _at(lr: float, seeds: Sequence[int], without: _ByRateAndSeed, with_: _ByRateAndSeed) -> AtLearningRate:
    pairs = [(without[lr, seed].final, with_[lr, seed].final) for seed in seeds]
    differences = [
        b.test_accuracy - a.test_accuracy
        for a, b in pairs
        if a is not None and b is not None and a.test_accuracy is not None and b.test_accuracy is not None
    ]
    return AtLearningRate(
        lr,
        mean_interval(differences),
        _mean_final(lr, seeds, without, lambda final: final.test_accuracy),
        _mean_final(lr, seeds, with_, lambda final: final.test_accuracy),
        _ended(lr, seeds, without),
        _ended(lr, seeds, with_),
        len(seeds),
    )


def _mean_final(
    lr: float, seeds: Sequence[int], outcomes: _ByRateAndSeed, figure: Callable[[Epoch], float | None]
) -> float | None:
    values = [figure(final) for seed in seeds if (final := outcomes[lr, seed].final) is not None]
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _ended(lr: float, seeds: Sequence[int], outcomes: _ByRateAndSeed) -> dict[Status, int]:
    ends = [outcomes[lr, seed].record.status for seed in seeds]
    return {status: ends.count(status) for status in Status if status in ends}


def _best_rate(rates: Sequence[float], seeds: Sequence[int], outcomes: _ByRateAndSeed) -> tuple[float | None, str]:
    """The learning rate with the highest mean validation accuracy, among those at which the most runs finished."""
    finished = {lr: sum(outcomes[lr, seed].final is not None for seed in seeds) for lr in rates}
    most = max(finished.values())
    if most == 0:
        return None, "no run finished"
    if len(rates) == 1:
        return rates[0], "only one"
    scores = {
        lr: score
        for lr in rates
        if finished[lr] == most
        and (score := _mean_final(lr, seeds, outcomes, lambda final: final.validation_accuracy)) is not None
    }
    if not scores:
        return None, "there is no validation part to choose a learning rate on"
    return max(scores, key=scores.__getitem__), "validation"


def _at_best(
    baseline: str,
    network: str,
    seeds: Sequence[int],
    without: tuple[float, _ByRateAndSeed],
    with_: tuple[float, _ByRateAndSeed],
) -> AtBest:
    finals = []
    for seed in seeds:
        a, b = without[1][without[0], seed], with_[1][with_[0], seed]
        if a.final is not None and b.final is not None:
            finals.append((a, b))
    accuracies = [(_test(a), _test(b)) for a, b in finals]
    reached = (
        _reached(baseline, network, finals),
        _reached(network, baseline, [(b, a) for a, b in finals]),
    )
    return AtBest(
        without[0],
        with_[0],
        _mean_final(without[0], seeds, without[1], lambda final: final.test_accuracy) or 0.0,
        _mean_final(with_[0], seeds, with_[1], lambda final: final.test_accuracy) or 0.0,
        mean_interval([b - a for a, b in accuracies]),
        tuple(entry for entry in reached if entry is not None),
    )


def _reached(of: str, by: str, pairs: list[tuple[Outcome, Outcome]]) -> Reached | None:
    """How long the second of each pair took to where the first ended."""
    if not pairs:
        return None
    hits = []
    for other, own in pairs:
        target = _test(other)
        hit = next((e for e in own.record.epochs if e.test_accuracy is not None and e.test_accuracy >= target), None)
        if hit is not None:
            hits.append(hit)
    ends = [other.record.epochs[-1] for other, _ in pairs]
    return Reached(
        of,
        by,
        fmean(_test(other) for other, _ in pairs),
        median(hit.epoch for hit in hits) if hits else None,
        median(hit.run_duration for hit in hits) if hits else None,
        median(end.epoch for end in ends),
        median(end.run_duration for end in ends),
        len(hits),
        len(pairs),
    )


def _test(outcome: Outcome) -> float:
    final = outcome.final
    assert final is not None
    return final.test_accuracy if final.test_accuracy is not None else 0.0


def _epoch_seconds(outcome: Outcome) -> float:
    """The median: the first epoch also warms up."""
    return median(epoch.epoch_duration for epoch in outcome.record.epochs)
