"""A claim: the statement, the hypothesis that tests it, and how the effect is measured. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from bnkit.intervals.interval import Interval
from bnkit.report.learning_rate_sweep import LearningRateSweep
from bnkit.report.results_of_plan import Results
from bnkit.report.run_outcomes import RunOutcome, fewest, matches, outcomes

PLAIN, WITH = "no_batch_norm", "batch_norm"
# A run counts as trained if it ends at this share of its design's best test accuracy, or above.
_TRAINED = 0.75


class Scale(Enum):
    """The unit of an effect."""

    RATIO = "ratio"  # the effect is the natural logarithm of a ratio
    POINTS = "points"  # of accuracy
    DECADES = "decades"  # of the learning rate: powers of ten
    COUNT = "count"
    SHARE = "share"

    @property
    def unit(self) -> str:
        """The unit's name, which follows a number."""
        return {Scale.RATIO: " ×", Scale.POINTS: " points", Scale.DECADES: " decades", Scale.SHARE: " %"}.get(self, "")

    def number(self, value: float) -> str:
        """An effect without its unit.

        Examples:
            >>> Scale.RATIO.number(0.6931), Scale.POINTS.number(-0.0123), Scale.DECADES.number(0.5)
            ('2.00', '−1.2', '+0.50')
        """
        match self:
            case Scale.RATIO:
                text = f"{math.exp(min(value, 700)):.3g}" if abs(value) > 2.3 else f"{math.exp(value):.2f}"
            case Scale.POINTS:
                text = f"{100 * value:+.1f}"
            case Scale.SHARE:  # Student's t interval may extend beyond the possible values
                text = f"{100 * min(max(value, -1.0), 1.0):+.1f}"
            case Scale.DECADES:
                text = f"{value:+.2f}"
            case Scale.COUNT:
                text = f"{value:+.2g}"
        return text.replace("-", "−")

    def text(self, effect: Interval | None) -> str:
        """A mean effect with its interval.

        Examples:
            >>> Scale.POINTS.text(Interval(0.021, 0.010, 0.032, 5))
            '+2.1 points [+1.0, +3.2]'
        """
        if effect is None:
            return "–"
        mean = f"{self.number(effect.mean)}{self.unit}"
        if effect.low is None or effect.high is None:
            return mean
        return f"{mean} [{self.number(effect.low)}, {self.number(effect.high)}]"


@dataclass(frozen=True)
class Evidence:
    """The runs of a design and their records.

    Attributes:
        results: The runs.
        count: The number of seeds to use, the first of the plan; None for all.
    """

    results: Results
    count: int | None = None

    @cached_property
    def all(self) -> list[RunOutcome]:
        """All runs of the seeds in use."""
        return [outcome for outcome in outcomes(self.results) if outcome.run.seed in self.seeds]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds in use."""
        return self.results.plan.experiment.seeds[: self.count]

    @property
    def answers(self) -> int | None:
        """The number of answers of the test accuracies; None if it is not known."""
        return fewest(outcome.answers for outcome in self.all)

    def runs(self, network: str, **setting: object) -> dict[int, RunOutcome]:
        """The runs of a network at one point of the grid, by seed."""
        selected = [o for o in self.all if o.run.network.key == network and matches(o.run.settings, setting)]
        return {outcome.run.seed: outcome for outcome in selected}

    def at_best(self, network: str, **setting: object) -> dict[int, RunOutcome]:
        """The runs of a network by seed, at the learning rate that was best on the validation part; some may not have finished."""
        sweep = LearningRateSweep.of(network, [o for o in self.all if matches(o.run.settings, setting)])
        rate = sweep.best_rate()[0] if sweep.runs else None
        return {} if rate is None else {seed: sweep.runs[rate, seed] for seed in sweep.seeds_at(rate)}

    def values(self, key: str) -> tuple[object, ...]:
        """The values of a setting in the grid."""
        return tuple(dict.fromkeys(getattr(run.settings, key) for run in self.results.plan))

    @cached_property
    def _trained_from(self) -> float:
        return _TRAINED * max((o.test for o in self.all if o.final is not None), default=1.0)

    def trains(self, outcome: RunOutcome) -> bool:
        """Whether a run ended at three quarters of the best test accuracy of the design, or above."""
        return outcome.final is not None and outcome.test >= self._trained_from


# The effect for every seed; positive values support the claim. A seed without runs to compare is left out.
EffectOf = Callable[[Evidence], dict[int, float]]


@dataclass(frozen=True)
class Claim:
    """One claim about batch normalization.

    Attributes:
        number: The number in the table: "3a" is the first hypothesis of the third claim.
        name: The name by which a call selects it.
        statement: The claim.
        said_by: The pages that make the claim.
        hypothesis: The effect that the claim predicts, stated before anything is trained.
        design: The name of the design whose runs test it.
        effect_of: Computes the effect, seed by seed.
        scale: The unit of the effect.
        matters, resolution, nothing: As in a ``HypothesisTest``.
        asks_duration: Whether the effect is about durations. Then its runs train alone when seeds are added for it.
    """

    number: str
    name: str
    statement: str
    said_by: str
    hypothesis: str
    design: str
    effect_of: EffectOf
    scale: Scale
    matters: float
    resolution: float = 0.0
    nothing: float = 0.0
    asks_duration: bool = False
