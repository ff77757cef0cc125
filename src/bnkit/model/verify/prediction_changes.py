"""The effect of a change of a model on its predictions, in paired comparisons on the same examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bnkit.model.verify.prediction_scores import Scores, Scoring, Spread

# The smallest difference of accuracy and relative difference of loss that matter; the significance level.
POINT, SHARE, CHANCE = 0.01, 0.1, 0.01
# Differences below this share of the loss of a guess never matter.
_LEAST = 0.001
# The outputs that a message describes.
_DESCRIBED = 3


@dataclass
class PredictionChanges:
    """The effect of a change on a model's predictions on data.

    The two models are compared in pairs on the same examples: accuracies by McNemar's exact test of the examples that
    only one of them got right, losses by Student's t-test of their differences.

    Attributes:
        examples: The number of examples with targets that fit the outputs.
        right_before, right_after: The number of right predictions; an example with several predictions counts as the
            share of
        right ones.
        gained, lost: The numbers of examples with more, and with fewer, right predictions after the change.
        spoiled, recovered: The numbers of outputs that became inf or NaN, and that became finite again.
        has_one_form: Whether the outputs before and after have the same shapes.
        misfits: The number of examples with targets that fit no output, which are not scored.
    """

    examples: int = 0
    right_before: float = 0.0
    right_after: float = 0.0
    gained: int = 0
    lost: int = 0
    spoiled: int = 0
    recovered: int = 0
    has_one_form: bool = True
    misfits: int = 0
    _misfit: str = ""
    _outputs: int = 0
    _scoring: Scoring | None = None
    _spread: Spread = field(default_factory=Spread)
    # For examples with a finite loss before and after: their number, and the sums of the loss before, the differences,
    # and the squared differences.
    _losses: tuple[int, float, float, float] = (0, 0.0, 0.0, 0.0)
    # Sums of squares of the differences of finite outputs, of the outputs before, and of the outputs after.
    _squares: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def add(self, before: list[Tensor], after: list[Tensor], targets: Any = None) -> None:
        """Add the predictions on one batch, as ``outputs_of`` returns them, and its targets."""
        self._compare_outputs(before, after)
        if self._scoring is None and not self.examples:
            self._scoring = Scoring.of(before, targets)
        if not isinstance(targets, Tensor) or not targets.dim() or not before:
            return
        scoring = self._scoring
        first, second = (None if scoring is None else scoring.scores(outputs, targets) for outputs in (before, after))
        if scoring is None or first is None:
            self.misfits += len(targets)
            self._misfit = self._misfit or _describe_misfit(before, targets)
        elif second is not None:
            if scoring.kind == "values":
                self._spread.add(targets)
            self._compare_scores(first, second)

    def _compare_outputs(self, before: list[Tensor], after: list[Tensor]) -> None:
        self._outputs += len(before)
        if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
            self.has_one_form = False
            return
        for one, other in ((a.double(), b.double()) for a, b in zip(before, after, strict=True)):
            was, is_ = one.isfinite(), other.isfinite()
            self.spoiled += int((was & ~is_).sum())
            self.recovered += int((is_ & ~was).sum())
            both = was & is_
            sums = ((one - other)[both], one[both], other[both])
            difference, magnitude, result = (float(values.square().sum()) for values in sums)
            self._squares = (
                self._squares[0] + difference,
                self._squares[1] + magnitude,
                self._squares[2] + result,
            )

    def _compare_scores(self, before: Scores, after: Scores) -> None:
        self.examples += len(before.loss)
        if before.right is not None and after.right is not None:
            self.right_before += float(before.right.sum())
            self.right_after += float(after.right.sum())
            self.gained += int((after.right > before.right).sum())
            self.lost += int((after.right < before.right).sum())
        finite = before.loss.isfinite() & after.loss.isfinite()
        one, difference = before.loss[finite], (after.loss - before.loss)[finite]
        sums = (len(one), float(one.sum()), float(difference.sum()), float(difference.square().sum()))
        count, loss, change, squares = (old + new for old, new in zip(self._losses, sums, strict=True))
        self._losses = int(count), loss, change, squares

    @property
    def misfit(self) -> str:
        """A sentence about the targets that fit no output; empty if all do, or there are none."""
        if not self.misfits:
            return ""
        what = (
            "accuracy and loss are not compared" if not self.examples else f"{self.misfits:,} examples are not scored"
        )
        return f"{what}: {self._misfit}"

    @property
    def loss(self) -> str:
        """The name of the loss; empty if there are no matching targets."""
        return "" if self._scoring is None else self._scoring.loss

    @property
    def has_accuracy(self) -> bool:
        """Whether the predictions have an accuracy."""
        return self.examples > 0 and self._scoring is not None and self._scoring.kind != "values"

    @property
    def accuracy_before(self) -> float:
        """The share of right predictions before; NaN if there are none."""
        return self.right_before / self.examples if self.has_accuracy else math.nan

    @property
    def accuracy_after(self) -> float:
        """The share of right predictions after."""
        return self.right_after / self.examples if self.has_accuracy else math.nan

    @property
    def loss_before(self) -> float:
        """The mean loss before, over the examples with a finite loss before and after; NaN if there are none."""
        count, loss, *_ = self._losses
        return loss / count if count else math.nan

    @property
    def loss_after(self) -> float:
        """The mean loss after, over the same examples."""
        count, loss, change, _ = self._losses
        return (loss + change) / count if count else math.nan

    @property
    def change(self) -> float | None:
        """The root mean square of the change of the outputs, divided by that of the outputs before.

        Infinite if outputs became finite, inf or NaN, or have another shape; None if there are no outputs.
        """
        return self._relative(self._squares[1])

    @property
    def change_by_result(self) -> float | None:
        """The same, relative to the outputs after."""
        return self._relative(self._squares[2])

    def _relative(self, magnitude: float) -> float | None:
        if not self._outputs:
            return None
        if self.spoiled or self.recovered or not self.has_one_form:
            return math.inf
        difference = self._squares[0]
        return math.sqrt(difference / magnitude) if magnitude > 0 else float(difference > 0)

    @property
    def is_more_accurate(self) -> bool:
        """Whether accuracy rose relevantly and significantly."""
        return self.accuracy_after - self.accuracy_before >= POINT and _chance(self.gained, self.lost) <= CHANCE

    @property
    def is_less_accurate(self) -> bool:
        """Whether accuracy fell relevantly and significantly."""
        return self.accuracy_before - self.accuracy_after >= POINT and _chance(self.lost, self.gained) <= CHANCE

    @property
    def has_less_loss(self) -> bool:
        """Whether the loss fell relevantly and significantly."""
        return self._matters(self.loss_before - self.loss_after, self.loss_after) and self._chance_of_loss(-1) <= CHANCE

    @property
    def has_more_loss(self) -> bool:
        """Whether the loss rose relevantly and significantly."""
        return self._matters(self.loss_after - self.loss_before, self.loss_before) and self._chance_of_loss(1) <= CHANCE

    def _matters(self, difference: float, smaller: float) -> bool:
        if self._scoring is None or not difference > 0:
            return False
        return difference >= max(SHARE * smaller, _LEAST * self._loss_of_a_guess)

    @property
    def _loss_of_a_guess(self) -> float:
        """The loss of predicting equal probabilities for all classes, or the mean of the values."""
        if self._scoring is None:
            return math.nan
        return math.log(self._scoring.classes) if self._scoring.classes else self._spread.variance

    def _chance_of_loss(self, sign: int) -> float:
        """The one-sided p-value of the mean difference with that sign."""
        count, _, change, squares = self._losses
        if 2.0**-count > CHANCE:  # too few for significance even with equal signs
            return 1.0
        mean = change / count
        error = math.sqrt(max(squares / count - mean**2, 0.0) / (count - 1))
        if error == 0:
            return 0.0 if sign * mean > 0 else 1.0
        from scipy.special import stdtr  # slow to import, and rarely needed

        return float(stdtr(count - 1, -sign * mean / error))

    @property
    def only_guessed(self) -> bool:
        """Whether the model before only guessed: its accuracy and its loss were no better than chance."""
        if self._scoring is None or not self.has_accuracy or self.loss_before < self._loss_of_a_guess:
            return False
        from scipy.special import bdtrc

        chance, right = 1 / self._scoring.classes, math.floor(self.right_before)
        return self.right_before <= chance * self.examples or float(bdtrc(right - 1, self.examples, chance)) > CHANCE

    @property
    def is_worse(self) -> bool:
        """Whether the change made the model worse.

        That is the case if outputs became inf or NaN; or if a model that did not only guess became less accurate, or
        has more loss and did not become more accurate.
        """
        if self.spoiled:
            return True
        loses = self.is_less_accurate or (self.has_more_loss and not self.is_more_accurate)
        return loses and not self.only_guessed

    @property
    def summary(self) -> str:
        """The figures before and after, in one line."""
        parts = []
        if self.has_accuracy:
            parts.append(f"accuracy {self.accuracy_before:.3f} -> {self.accuracy_after:.3f}")
        if self._losses[0]:
            parts.append(f"{self.loss} {self.loss_before:.4g} -> {self.loss_after:.4g}")
        if self.spoiled:
            parts.append(f"{self.spoiled} outputs became inf or NaN")
        elif self.recovered:
            parts.append(f"{self.recovered} outputs that were inf or NaN became finite")
        elif not self.has_one_form:
            parts.append("the output has another shape")
        elif self.change is not None:
            parts.append(f"the output changed by {_share(self.change)}")
        summary = ", ".join(parts) or "no floating-point output to compare"
        return f"{summary}; {self.misfit}" if self.misfits else summary

    def to_json(self) -> dict[str, Any]:
        """The same as plain values; None for figures that are missing or not finite."""
        return {
            "examples": self.examples,
            "accuracy_before": _plain(self.accuracy_before),
            "accuracy_after": _plain(self.accuracy_after),
            "loss": self.loss or None,
            "loss_before": _plain(self.loss_before),
            "loss_after": _plain(self.loss_after),
            "output_change": _plain(self.change),
            "spoiled": self.spoiled,
            "is_worse": self.is_worse,
        }


def _chance(more: int, fewer: int) -> float:
    """The exact one-sided p-value of the sign test, for ``more`` and ``fewer`` pairs of either sign."""
    from scipy.special import bdtrc  # slow to import, and rarely needed

    return float(bdtrc(more - 1, more + fewer, 0.5)) if more + fewer else 1.0


def _share(change: float) -> str:
    return (
        f"{100 * change:.2g}% of its size (root mean square)"
        if change < 0.995
        else f"{change:.3g} times its size (root mean square)"
    )


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _describe_misfit(outputs: Sequence[Tensor], targets: Tensor) -> str:
    """Which targets did not fit which outputs."""
    ends = ""
    if targets.numel() and not targets.is_floating_point() and not targets.is_complex():
        ends = f", from {int(targets.min())} to {int(targets.max())},"
    shapes = " and ".join(str(tuple(output.shape)) for output in outputs[:_DESCRIBED])
    return f"targets of shape {tuple(targets.shape)}{ends} do not fit outputs of shape {shapes}"
