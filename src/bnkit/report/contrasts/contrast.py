"""One network against another: pairs of runs that differ in nothing else. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bnkit.experiments.records.record import Status
from bnkit.experiments.stopping import ContrastLooks
from bnkit.intervals.crossed import CrossedInterval
from bnkit.intervals.interval import Interval
from bnkit.report.contrasts.time_to_target import TimeToTarget
from bnkit.report.objective import Objective


@dataclass(frozen=True)
class AtLearningRate:
    """Both networks at one learning rate.

    Attributes:
        lr: The learning rate; None where it is one of the settings, or not known.
        test: The measure on the test set at the end, with − without, paired by seed: for these test examples; None if no pair
            finished.
        test_new_examples: The same for new test examples like these; None where it is not known how examples vary.
        baseline_mean, network_mean: Of that measure, over the runs that finished.
        baseline_ended, network_ended: How many runs of each ended as what.
        seeds: How many seeds there are.
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
        baseline_lr, network_lr: Chosen by the mean measure on the validation part (or the only one there is).
        baseline_mean, network_mean: Of the measure on the test set there.
        test: The difference of those, paired by seed: for these test examples.
        test_new_examples: The same for new test examples like these; None where it is not known how examples vary.
        training: The difference over the training batches of the last epoch, paired by seed.
        reached: How long each took to where the other ended.
        constant: What the best constant answer scores on the test set; None where that is not known.
        neither_learned: Whether neither network is clearly better than that.
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

    @property
    def decisive(self) -> Interval | None:
        """The interval that the verdict is about: that for new examples, where it is known."""
        return self.test if self.test_new_examples is None else self.test_new_examples


@dataclass(frozen=True)
class Contrast:
    """A network against its baseline, under one setting of everything but the learning rate.

    Attributes:
        baseline, network: Their keys.
        measure: What they are judged by.
        setting: The other grid keys that vary and have an effect on one of them, and their values here.
        by_learning_rate: At each learning rate.
        best: At the best one of each; None if it cannot be chosen.
        chosen_by: BY_VALIDATION, ONLY_ONE, or why it cannot be chosen.
        cost: Seconds per epoch, network / baseline, over the pairs.
        pairs: How many pairs of networks are set against each other here; with several, intervals have Holm's confidences.
        margin: The largest difference that does not matter, where it was given.
        looks: How a rule that adds seeds looked at it.
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
