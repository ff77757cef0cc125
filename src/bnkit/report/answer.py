"""What batch normalization bought, in words and figures. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bnkit.experiments.plan import Plan
from bnkit.experiments.records import Record, Status
from bnkit.experiments.uncertainty import Interval, Verdict, verdict
from bnkit.report.contrast import ONLY_ONE, AtBest, AtLearningRate, Contrast, contrasts
from bnkit.report.drift import Drift, drifts
from bnkit.report.reached import Reached

# A difference of test accuracies that matters to nobody: one point.
MARGIN = 0.01


@dataclass(frozen=True)
class Answer:
    """The answer to "what did batch normalization buy?".

    Attributes:
        contrasts: The figures, network against baseline.
        drifts: Where the moving average and the population statistics disagree by more than a point.
        incomplete: How many runs of the plan have not ended.
    """

    contrasts: tuple[Contrast, ...]
    drifts: tuple[Drift, ...]
    incomplete: int

    @classmethod
    def of(cls, plan: Plan, records: Mapping[str, Record]) -> Answer:
        """The answer that ``records`` (by run id) give to ``plan``."""
        ended = sum(record.status not in (None, Status.RUNNING) for record in records.values())
        return cls(contrasts(plan, records), drifts(plan, records, MARGIN), len(plan) - ended)

    def paragraphs(self) -> Iterator[tuple[str, list[str]]]:
        """A heading and its sentences, for each contrast, and then for what concerns all of them."""
        for contrast in self.contrasts:
            yield _heading(contrast), list(_sentences(contrast))
        rest = [_drift_sentence(drift) for drift in self.drifts]
        if self.incomplete:
            rest.append(f"{self.incomplete} runs of the plan have not ended; the figures are those of the others.")
        if rest:
            yield "Beside that", rest

    def __str__(self) -> str:
        return "\n\n".join(
            "\n".join([heading, *(f"  {sentence}" for sentence in sentences)])
            for heading, sentences in self.paragraphs()
        )

    def to_json(self) -> dict[str, Any]:
        """The same as plain values, with the sentences."""
        return {
            "contrasts": [{**asdict(contrast), "sentences": list(_sentences(contrast))} for contrast in self.contrasts],
            "drifts": [{**asdict(drift), "sentence": _drift_sentence(drift)} for drift in self.drifts],
            "incomplete": self.incomplete,
        }


def points(value: float) -> str:
    """A difference of accuracies in percentage points, with its sign.

    Example:
        >>> points(0.0213)
        '+2.1'
    """
    return f"{100 * value:+.1f}".replace("-", "−")


def interval_in_points(difference: Interval) -> str:
    """``+2.1 points [+1.0, +3.2], n = 5``."""
    if difference.low is None or difference.high is None:
        return f"{points(difference.mean)} points, n = {difference.n}, too few for an interval"
    return f"{points(difference.mean)} points [{points(difference.low)}, {points(difference.high)}], n = {difference.n}"


def _heading(contrast: Contrast) -> str:
    setting = "".join(f", {key} {value}" for key, value in contrast.setting.items())
    return f"{contrast.network} against {contrast.baseline}{setting}: test accuracy at the end, paired by seed, 95 % intervals"


def _sentences(contrast: Contrast) -> Iterator[str]:
    for at in contrast.by_learning_rate:
        yield _rate_sentence(contrast, at)
    if contrast.best is None:
        yield f"No comparison at the best learning rates: {contrast.chosen_by}."
    else:
        if contrast.chosen_by != ONLY_ONE:
            yield _best_sentence(contrast.best, contrast)
        yield _verdict_sentence(contrast.best.test_accuracy, contrast)
        if contrast.best.accuracy is not None:
            yield f"In training accuracy of the last epoch the difference there is {interval_in_points(contrast.best.accuracy)}."
        for reached in contrast.best.reached:
            yield _reached_sentence(reached)
    if contrast.cost is not None:
        yield _cost_sentence(contrast, contrast.cost)


def _rate_sentence(contrast: Contrast, at: AtLearningRate) -> str:
    if at.test_accuracy is None:
        difference = "no pair of runs to compare"
    else:
        difference = interval_in_points(at.test_accuracy)
    means = ", ".join(
        f"{name} {mean:.3f}"
        for name, mean in ((contrast.baseline, at.baseline_mean), (contrast.network, at.network_mean))
        if mean is not None
    )
    lost = "".join(
        f"; {name}: {count} of {at.seeds} runs {status.value}"
        for name, ended in ((contrast.baseline, at.baseline_ended), (contrast.network, at.network_ended))
        for status, count in ended.items()
        if status is not Status.FINISHED
    )
    return f"lr {at.lr:g}: {difference}{f' ({means})' if means else ''}{lost}."


def _best_sentence(best: AtBest, contrast: Contrast) -> str:
    difference = "no pair of runs to compare" if best.test_accuracy is None else interval_in_points(best.test_accuracy)
    return (
        f"Each at its best learning rate (chosen by validation accuracy): {contrast.baseline} at {best.baseline_lr:g} "
        f"reaches {best.baseline_mean:.3f}, {contrast.network} at {best.network_lr:g} reaches {best.network_mean:.3f}: "
        f"{difference}."
    )


def _verdict_sentence(difference: Interval | None, contrast: Contrast) -> str:
    network = contrast.network
    match verdict(difference, MARGIN):
        case Verdict.GAIN:
            assert difference is not None
            return f"So {network} bought {points(difference.mean)} points of test accuracy."
        case Verdict.LOSS:
            assert difference is not None
            return f"So {network} cost test accuracy: {points(difference.mean)} points."
        case Verdict.NOTHING:
            return f"So {network} bought nothing in test accuracy: any difference is under a point."
        case Verdict.UNKNOWN:
            if difference is None or difference.low is None or difference.high is None:
                n = 0 if difference is None else difference.n
                return f"With {n} pair{'' if n == 1 else 's'} of runs nothing can be said: use more seeds."
            return (
                f"n = {difference.n} is too small to say: the difference lies between {points(difference.low)} and "
                f"{points(difference.high)} points, on either side of nothing. Use more seeds."
            )


def _reached_sentence(reached: Reached) -> str:
    target = f"the final test accuracy of {reached.of} ({reached.accuracy:.3f}, after {_took(reached.own_epochs, reached.own_seconds)})"
    if reached.epochs is None or reached.seconds is None:
        return f"{reached.by} never reached {target}."
    seeds = "" if reached.reached == reached.seeds else f", in {reached.reached} of {reached.seeds} seeds"
    return f"{reached.by} reached {target} after {_took(reached.epochs, reached.seconds)}{seeds} (medians)."


def _took(epochs: float, seconds: float) -> str:
    return (
        f"{epochs:g} epoch{'' if epochs == 1 else 's'} and {seconds:.2g} s"
        if seconds < 10
        else (f"{epochs:g} epochs and {seconds:.0f} s")
    )


def _cost_sentence(contrast: Contrast, cost: Interval) -> str:
    between = "" if cost.low is None or cost.high is None else f" [{cost.low:.2f}, {cost.high:.2f}]"
    return (
        f"An epoch of training with {contrast.network} takes {cost.mean:.2f} times{between} as long as with "
        f"{contrast.baseline}, n = {cost.n}."
    )


def _drift_sentence(drift: Drift) -> str:
    setting = "".join(f", {key} {value}" for key, value in drift.setting.items())
    moving, population = drift.widest
    return (
        f"{drift.network} at lr {drift.lr:g}{setting}: in {drift.apart} of {drift.runs} runs the same weights score more "
        f"than a point differently under the moving average and under population statistics; on average "
        f"{drift.moving_average:.3f} and {drift.population:.3f}, at the widest {moving:.3f} and {population:.3f}."
    )
