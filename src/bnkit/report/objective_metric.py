"""The measure that runs are judged by. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bnkit.experiments.experiment import TaskIdentity
from bnkit.experiments.records.run_epochs_file import Epoch
from bnkit.intervals.crossed_effects import CrossedInterval
from bnkit.intervals.interval import CONFIDENCE, Conclusion, Interval, conclude
from bnkit.intervals.proportions import accuracy_interval, difference_interval, p_value, share_half_width
from bnkit.intervals.student import mean_interval
from bnkit.message_parts import plural

# A difference of accuracies that is too small to matter: one point.
_POINT = 0.01
# Two values of a metric with unknown scale count as equal if they differ by at most this share.
_SHARE = 0.01


@dataclass(frozen=True)
class Objective:
    """The measure by which runs are judged: its fields of ``Epoch``, which direction is better, and its formatting.

    Attributes:
        name: "accuracy", or the name of the experiment's own metric.
        minimize: Whether less is better.
        is_accuracy: Whether it is the share of right answers, whose differences are given in percentage points.
    """

    name: str = "accuracy"
    minimize: bool = False
    is_accuracy: bool = True

    @classmethod
    def of(cls, task: TaskIdentity) -> Objective:
        """The measure that ``task`` is judged by."""
        name = task.metric.partition("#")[0].rpartition(":")[2].rpartition(".")[2]
        return cls(name, task.goal == "minimize", task.is_accuracy)

    @property
    def title(self) -> str:
        """The figure at the end of a run, in words."""
        return f"test {self.name}"

    @property
    def field(self) -> str:
        """Its field of ``Epoch`` for the training batches; with the prefix ``test_`` or ``validation_``, for those parts."""
        return "accuracy" if self.is_accuracy else "metric"

    def training(self, epoch: Epoch) -> float | None:
        """Its value over the training batches."""
        return self._of(epoch, self.field)

    def fit(self, epoch: Epoch) -> float | None:
        """Its value on the training part, with the weights at the end of the epoch; None if the experiment does not ask for it."""
        return self._of(epoch, f"training_{self.field}")

    def validation(self, epoch: Epoch) -> float | None:
        """Its value on the validation part."""
        return self._of(epoch, f"validation_{self.field}")

    def test(self, epoch: Epoch) -> float | None:
        """Its value on the test set, with batch norm using the moving average."""
        return self._of(epoch, f"test_{self.field}")

    def population(self, epoch: Epoch) -> float | None:
        """Its value on the test set, with batch norm using the statistics of the training part."""
        return self._of(epoch, f"test_{self.field}_population")

    def constant(self, epoch: Epoch) -> float | None:
        """The score of the best constant answer on the test set; None if it is not known."""
        # R² is 0 for the mean of the targets, by definition.
        return 0.0 if self.name == "r2_score" and epoch.test_constant is None else epoch.test_constant

    def interval(self, values: Sequence[float], answers: int | None) -> Interval | None:
        """The mean of ``values`` over seeds, with its 95 % interval; ``answers`` is the number of answers of an accuracy."""
        return accuracy_interval(values, answers) if self.is_accuracy else mean_interval(values)

    def interval_of_difference(
        self, differences: Sequence[float], answers: int | None, confidence: float = CONFIDENCE
    ) -> Interval | None:
        """The mean of ``differences`` paired by seed, with its interval."""
        if self.is_accuracy:
            return difference_interval(differences, answers, confidence)
        return mean_interval(differences, confidence=confidence)

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest possible value."""
        return (0.0, 1.0) if self.is_accuracy else (-math.inf, math.inf)

    @property
    def limits_of_difference(self) -> tuple[float, float]:
        """The smallest and the largest possible difference."""
        return (-1.0, 1.0) if self.is_accuracy else (-math.inf, math.inf)

    def p_value_of_difference(self, differences: Sequence[float], answers: int | None) -> float:
        """The p value of the mean of at least two ``differences``."""
        return p_value(differences, answers if self.is_accuracy else None)

    def is_clearly_better(self, value: float, constant: float, answers: int | None) -> bool:
        """Whether a network that scores ``value`` is better than the best constant answer by more than chance explains."""
        if self.is_accuracy:
            margin = 0.0 if answers is None else share_half_width(constant, answers)
        else:
            margin = _SHARE * (abs(constant) or 1.0)
        return self.order(value) < self.order(constant) - margin

    def better(self, first: float | None, second: float | None) -> bool:
        """Whether ``first`` is at least as good as ``second``; any value is at least as good as None."""
        if first is None or second is None:
            return second is None
        return first <= second if self.minimize else first >= second

    def order(self, value: float | None) -> float:
        """A sort key: smaller for a better ``value``."""
        if value is None:
            return float("inf")
        return value if self.minimize else -value

    def conclude(self, difference: Interval | None, margin: float | None = None) -> Conclusion:
        """The conclusion from a difference of two means: a gain is an improvement; ``margin`` is the largest trifle."""
        conclusion = conclude(difference, margin if margin is not None else _POINT if self.is_accuracy else 0.0)
        turned = {Conclusion.GAIN: Conclusion.LOSS, Conclusion.LOSS: Conclusion.GAIN}
        return turned.get(conclusion, conclusion) if self.minimize else conclusion

    def disagree(self, first: float, second: float) -> bool:
        """Whether two values differ enough to count as different results."""
        margin = _POINT if self.is_accuracy else _SHARE * max(abs(first), abs(second))
        return abs(first - second) > margin

    @property
    def disagreement(self) -> str:
        """The criterion of ``disagree`` in words."""
        return "more than a point" if self.is_accuracy else "more than one percent"

    def text(self, value: float) -> str:
        """A value as text."""
        return f"{value:.3f}" if self.is_accuracy else f"{value:.4g}".replace("-", "−")

    def change(self, value: float) -> str:
        """A difference with its sign; for accuracies in percentage points, without the unit.

        Examples:
            >>> Objective().change(0.0213), Objective("mean_absolute_error", True, False).change(-0.5)
            ('+2.1', '−0.5')
        """
        return (f"{100 * value:+.1f}" if self.is_accuracy else f"{value:+.3g}").replace("-", "−")

    def size(self, value: float) -> str:
        """The size of a difference with its unit.

        Examples:
            >>> Objective().size(0.01), Objective().size(0.005)
            ('1 point', '0.5 points')
        """
        if not self.is_accuracy:
            return f"{value:g}"
        return f"{100 * value:g} point{'' if 100 * value == 1 else 's'}"

    def difference(self, difference: Interval, new: CrossedInterval | None = None) -> str:
        """``+2.1 points [+1.0, +3.2], n = 5``, and ``; for new test examples [+0.4, +3.8]`` if that interval is known."""
        unit = " points" if self.is_accuracy else ""
        mean = self.change(difference.mean)
        if difference.low is None or difference.high is None:
            return f"{mean}{unit}, n = {difference.n}, too few for an interval"
        interval = f"[{self.change(difference.low)}, {self.change(difference.high)}]"
        of_new = ""
        if new is not None and new.low is not None and new.high is not None:
            of_new = f"; for new test examples [{self.change(new.low)}, {self.change(new.high)}]"
        return f"{mean}{unit} {interval}, {self.count(difference)}{of_new}"

    @staticmethod
    def count(difference: Interval) -> str:
        """What determines the width of an interval: ``n = 5``, or ``n = 5, counted on 10 answers``."""
        counted = "" if difference.counted is None else f", counted on {plural(difference.counted, 'answer')}"
        return f"n = {difference.n}{counted}"

    @staticmethod
    def _of(epoch: Epoch, name: str) -> float | None:
        value: float | None = getattr(epoch, name)
        return value


class ColumnObjective(Objective):
    """The column of a table by which runs are judged; its title is the column's name alone."""

    @property
    def title(self) -> str:
        return self.name
