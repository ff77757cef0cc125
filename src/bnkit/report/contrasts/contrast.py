"""One network against another: pairs of runs that differ only in the network. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bnkit.experiments.records.run_epochs_file import Status
from bnkit.experiments.until_settings import ContrastLooks, StoppingRule
from bnkit.intervals.crossed_effects import CrossedInterval
from bnkit.intervals.interval import Conclusion, Interval
from bnkit.report.contrasts.decision_outlook import DecisionOutlook
from bnkit.report.contrasts.diverged_runs import Divergence
from bnkit.report.contrasts.time_to_target import TimeToTarget
from bnkit.report.objective_metric import Objective


@dataclass(frozen=True)
class AtLearningRate:
    """Both networks at one learning rate.

    Attributes:
        lr: The learning rate; None if it is one of the settings, or not known.
        test: The difference (with − without) in the measure on the test set at the end, paired by seed, with the interval for
            these test examples; None if no pair finished.
        test_new_examples: The same with the interval for new test examples; None if the scores per example are not known.
        baseline_mean, network_mean: The mean of that measure over the runs that finished.
        baseline_ended, network_ended: How many runs of each ended with which status.
        seeds: The number of seeds.
        baseline_undefined, network_undefined: How many runs of each finished without a finite measure on the test set.
    """

    lr: float | None
    test: Interval | None
    baseline_mean: float | None
    network_mean: float | None
    baseline_ended: Mapping[Status, int]
    network_ended: Mapping[Status, int]
    seeds: int
    baseline_undefined: int = 0
    network_undefined: int = 0
    test_new_examples: CrossedInterval | None = None


@dataclass(frozen=True)
class AtBest:
    """Both networks, each at its own best learning rate.

    Attributes:
        baseline_lr, network_lr: The rates, chosen by the mean measure on the validation part (or the only rate).
        baseline_mean, network_mean: The mean measure on the test set at that rate.
        test: The difference of the two, paired by seed, with the interval for these test examples.
        test_new_examples: The same with the interval for new test examples; None if the scores per example are not known.
        training: The difference over the training batches of the last epoch, paired by seed.
        reached: How long each network took to reach the other's final value.
        constant: The score of the best constant answer on the test set; None if it is not known.
        neither_learned: Whether neither network is clearly better than the best constant answer.
    """

    baseline_lr: float | None
    network_lr: float | None
    baseline_mean: float
    network_mean: float
    test: Interval | None
    training: Interval | None
    reached: tuple[TimeToTarget, ...]
    constant: float | None = None
    neither_learned: bool = False
    test_new_examples: CrossedInterval | None = None
    divergence: Divergence | None = None
    outlook: DecisionOutlook | None = None

    @property
    def decisive(self) -> Interval | None:
        """The interval that decides the verdict: the one for new test examples if it is known."""
        return self.test if self.test_new_examples is None else self.test_new_examples


@dataclass(frozen=True)
class Contrast:
    """A network against its baseline, under one setting of everything but the learning rate.

    Attributes:
        baseline, network: Their keys.
        objective: The measure that they are judged by.
        setting: The other grid keys that vary and affect at least one of the networks, with their values.
        by_learning_rate: The comparison at each learning rate.
        best: The comparison with each network at its best learning rate; None if no rate can be chosen.
        chosen_by: BY_VALIDATION, ONLY_ONE, or why no rate can be chosen.
        cost: The ratio of the seconds per epoch, network / baseline, over the pairs.
        pairs: How many pairs of networks are compared; with several, intervals have Holm's confidences.
        margin: The largest difference that does not matter, if it was given.
        looks: The looks of the rule that adds seeds, if there is one.
    """

    baseline: str
    network: str
    objective: Objective
    setting: Mapping[str, object]
    by_learning_rate: tuple[AtLearningRate, ...]
    best: AtBest | None
    chosen_by: str
    cost: Interval | None
    pairs: int = 1
    margin: float | None = None
    looks: ContrastLooks | None = None

    @property
    def largest_trifle(self) -> float:
        """The largest difference that does not matter: ``margin``, or by default that of a rule without one."""
        default = StoppingRule().largest_trifle(is_accuracy=self.objective.is_accuracy)
        return default if self.margin is None else self.margin

    @property
    def of_finished(self) -> Conclusion:
        """The conclusion from the seeds for which both runs finished, at the best learning rates."""
        return self.objective.conclude(None if self.best is None else self.best.decisive, self.margin)

    @property
    def verdict(self) -> Conclusion:
        """``of_finished``, or UNKNOWN if it would not agree with the runs that diverged."""
        return Conclusion.UNKNOWN if self.is_contradicted else self.of_finished

    @property
    def is_contradicted(self) -> bool:
        """Whether there would be another verdict if the runs that diverged counted as the best constant answer."""
        if self.looks is not None and self.looks.last is not None:
            return self.looks.is_contradicted
        diverged = None if self.best is None else self.best.divergence
        return diverged is not None and not diverged.agrees_with(self.of_finished, self.objective, self.largest_trifle)
