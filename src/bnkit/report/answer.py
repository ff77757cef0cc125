"""What batch normalization bought, in words and figures. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bnkit.experiments.plan import Plan
from bnkit.experiments.records.record import Record, Status
from bnkit.report.contrast import AtBest, AtLearningRate, Contrast, contrasts
from bnkit.report.intervals import Interval, Verdict
from bnkit.report.objective import Measure
from bnkit.report.population_gap import Drift, drifts
from bnkit.report.sweep import ONLY_ONE
from bnkit.report.tables import setting
from bnkit.report.time_to_target import Reached


@dataclass(frozen=True)
class Answer:
    """The answer to "what did batch normalization buy?".

    Attributes:
        contrasts: The figures, network against baseline.
        drifts: Where the moving average and the population statistics would report another result.
        incomplete: How many runs of the plan have not ended.
    """

    contrasts: tuple[Contrast, ...]
    drifts: tuple[Drift, ...]
    incomplete: int

    @classmethod
    def of(cls, plan: Plan, records: Mapping[str, Record]) -> Answer:
        """The answer that ``records`` (by run id) give to ``plan``."""
        ended = sum(record.status not in (None, Status.RUNNING) for record in records.values())
        return cls(contrasts(plan, records), drifts(plan, records), len(plan) - ended)

    @property
    def headline(self) -> str:
        """The answer in one sentence: of the first network that is set against a baseline, and where that was."""
        for contrast in self.contrasts:
            if contrast.best is not None:
                return _headline(contrast.best, contrast, self.contrasts)
        return "There is nothing to compare yet." if self.incomplete else "Nothing can be compared: see below why."

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


def _heading(contrast: Contrast) -> str:
    where = "".join(f", {key} {value}" for key, value in contrast.setting.items())
    measure = contrast.measure
    return (
        f"{contrast.network} against {contrast.baseline}{where}: test {measure.name} at the end, paired by seed, "
        f"95 % intervals{'; less is better' if measure.minimize else ''}"
    )


def _sentences(contrast: Contrast) -> Iterator[str]:
    for at in contrast.by_learning_rate:
        yield _rate_sentence(contrast, at)
    if contrast.best is None:
        yield f"No comparison at the best learning rates: {contrast.chosen_by}."
    else:
        if contrast.chosen_by != ONLY_ONE:
            yield _best_sentence(contrast.best, contrast)
        yield _conclusion(contrast.best, contrast)
        if contrast.best.training is not None:
            difference = contrast.measure.difference(contrast.best.training)
            yield f"In training {contrast.measure.name} of the last epoch the difference there is {difference}."
        if not contrast.best.neither_learned:
            for reached in contrast.best.reached:
                yield _reached_sentence(reached, contrast.measure)
    if contrast.cost is not None:
        yield _cost_sentence(contrast, contrast.cost)


def _rate_sentence(contrast: Contrast, at: AtLearningRate) -> str:
    difference = _difference(at.test, contrast)
    means = ", ".join(
        f"{name} {contrast.measure.text(mean)}"
        for name, mean in ((contrast.baseline, at.baseline_mean), (contrast.network, at.network_mean))
        if mean is not None
    )
    lost = "".join(
        f"; {name}: {count} of {at.seeds} runs {status.value}"
        for name, ended in ((contrast.baseline, at.baseline_ended), (contrast.network, at.network_ended))
        for status, count in ended.items()
        if status is not Status.FINISHED
    )
    lost += "".join(
        f"; {name}: test {contrast.measure.name} undefined in {count} of {at.seeds} runs"
        for name, count in ((contrast.baseline, at.baseline_undefined), (contrast.network, at.network_undefined))
        if count
    )
    return f"lr {at.lr:g}: {difference}{f' ({means})' if means else ''}{lost}."


def _best_sentence(best: AtBest, contrast: Contrast) -> str:
    measure = contrast.measure
    return (
        f"Each at its best learning rate (chosen by validation {measure.name}): {contrast.baseline} at "
        f"{best.baseline_lr:g} reaches {measure.text(best.baseline_mean)}, {contrast.network} at {best.network_lr:g} "
        f"reaches {measure.text(best.network_mean)}: {_difference(best.test, contrast)}."
    )


def _difference(difference: Interval | None, contrast: Contrast) -> str:
    return "no pair of runs to compare" if difference is None else contrast.measure.difference(difference)


def _conclusion(best: AtBest, contrast: Contrast) -> str:
    return _neither_sentence(best, contrast) if best.neither_learned else _verdict_sentence(best.test, contrast)


def _verdict_sentence(difference: Interval | None, contrast: Contrast) -> str:
    network, measure = contrast.network, contrast.measure
    if difference is None or difference.low is None or difference.high is None:
        n = 0 if difference is None else difference.n
        return f"With {n} pair{'' if n == 1 else 's'} of runs nothing can be said: use more seeds."
    change, unit = measure.change, " points" if measure.is_accuracy else ""
    match measure.verdict(difference):
        case Verdict.GAIN if measure.is_accuracy:
            return f"So {network} bought {change(difference.mean)} points of test accuracy."
        case Verdict.LOSS if measure.is_accuracy:
            return f"So {network} cost test accuracy: {change(difference.mean)} points."
        case Verdict.GAIN | Verdict.LOSS as found:
            way = "better" if found is Verdict.GAIN else "worse"
            return f"So {network} made the test {measure.name} {way}: {change(difference.mean)}."
        case Verdict.NOTHING:
            any_left = "any difference is under a point" if measure.is_accuracy else "there is no difference"
            return f"So {network} bought nothing in test {measure.name}: {any_left}."
        case Verdict.UNKNOWN:
            too_few = (
                f"n = {difference.n} is too small"
                if difference.counted is None
                else f"{difference.counted:,} test answers are too few"
            )
            return (
                f"{too_few} to say: the difference lies between {change(difference.low)} and "
                f"{change(difference.high)}{unit}, on either side of nothing. {_remedy(difference)}"
            )


def _neither_sentence(best: AtBest, contrast: Contrast) -> str:
    """Both are at or below what needs no network: what they differ by is no gain and no loss."""
    measure, constant = contrast.measure, best.constant
    assert constant is not None
    means = (best.baseline_mean, best.network_mean)
    is_above = any(measure.order(mean) < measure.order(constant) for mean in means)
    return (
        f"Neither network {'is shown to have learned' if is_above else 'learned'}: test {measure.name} "
        f"{measure.text(means[0])} ({contrast.baseline}) and {measure.text(means[1])} ({contrast.network}) are not "
        f"{'clearly ' if is_above else ''}better than {measure.text(constant)}, the score of the best constant answer. So their "
        "difference says nothing about batch norm."
    )


def _remedy(difference: Interval) -> str:
    return "Use more seeds." if difference.counted is None else "Use more test examples."


def _headline(best: AtBest, contrast: Contrast, every: Sequence[Contrast]) -> str:
    """The verdict, with where it was found, the interval that it rests on, and what the other settings say."""
    difference, measure = best.test, contrast.measure
    where = "".join(f"{key} {setting(value)}, " for key, value in contrast.setting.items())
    opening = f"With {where[:-2]}: " if where else ""
    if best.neither_learned or difference is None or difference.low is None or difference.high is None:
        return opening + _conclusion(best, contrast)
    ends = f"{measure.change(difference.low)} to {measure.change(difference.high)}"
    interval = f"95 % interval {ends}, {measure.count(difference)}"
    if measure.verdict(difference) is Verdict.UNKNOWN:
        unit = " points" if measure.is_accuracy else ""
        return (
            f"{opening}Whether {contrast.network} is better or worse in test {measure.name} cannot be said: "
            f"{measure.change(difference.mean)}{unit} ({interval}). {_remedy(difference)}"
        )
    sentence = _verdict_sentence(difference, contrast).removeprefix("So ").removesuffix(".")
    return f"{opening}{sentence} ({interval}){_elsewhere(contrast, every)}."


def _elsewhere(contrast: Contrast, every: Sequence[Contrast]) -> str:
    """What the same two networks differ by under the other settings."""
    means = [
        other.best.test.mean
        for other in every
        if (other.network, other.baseline) == (contrast.network, contrast.baseline)
        and other.setting != contrast.setting
        and other.best is not None
        and other.best.test is not None
    ]
    if not means:
        return ""
    change = contrast.measure.change
    if len(means) == 1:
        return f"; with the other setting {change(means[0])}"
    return f"; with the {len(means)} other settings {change(min(means))} to {change(max(means))}"


def _reached_sentence(reached: Reached, measure: Measure) -> str:
    target = (
        f"the final test {measure.name} of {reached.of} ({measure.text(reached.value)}, after "
        f"{_took(reached.own_epochs, reached.own_seconds)})"
    )
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
    where = "".join(f", {key} {value}" for key, value in drift.setting.items())
    (moving, population), text = drift.widest, drift.measure.text
    return (
        f"{drift.network} at lr {drift.lr:g}{where}: in {drift.apart} of {drift.runs} runs the same weights score "
        f"{drift.measure.disagreement} differently under the moving average and under population statistics; on average "
        f"{text(drift.moving_average)} and {text(drift.population)}, at the widest {text(moving)} and {text(population)}."
    )
