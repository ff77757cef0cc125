"""What batch normalization bought, in words and figures. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bnkit.experiments.records.record import Status
from bnkit.messages import plural
from bnkit.report.contrast import AtBest, AtLearningRate, Contrast, contrasts
from bnkit.report.intervals import Conclusion, Interval
from bnkit.report.looks import describe_looks
from bnkit.report.objective import Objective
from bnkit.report.population_gap import PopulationGap, population_gaps
from bnkit.report.results import Results
from bnkit.report.sweep import ONLY_ONE
from bnkit.report.tables import format_setting
from bnkit.report.time_to_target import TimeToTarget


@dataclass(frozen=True)
class Answer:
    """The answer to "what did batch normalization buy?".

    Attributes:
        contrasts: The figures, network against baseline.
        drifts: Where the moving average and the population statistics would report another result.
        incomplete: How many runs of the plan have not ended.
        notes: What runs the figures are of, where earlier calls left some in the folder.
    """

    contrasts: tuple[Contrast, ...]
    population_gaps: tuple[PopulationGap, ...]
    incomplete: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, results: Results) -> Answer:
        """The answer that ``results`` give."""
        own = [results.records.get(run.run_id) for run in results.plan if results.is_own(run)]
        incomplete = sum(record is None or record.status in (None, Status.RUNNING) for record in own)
        grown = () if results.growth is None else results.growth.sentences()
        notes = (*_runs_of_calls(len(own), len(results.plan) - len(own)), *grown, *results.notes)
        return cls(contrasts(results), population_gaps(results), incomplete, notes)

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
        rest = [_gap_sentence(gap) for gap in self.population_gaps]
        if self.incomplete:
            have = "has" if self.incomplete == 1 else "have"
            rest.append(
                f"{plural(self.incomplete, 'run')} of the plan {have} not ended; the figures are those of the others."
            )
        rest += self.notes
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
            "contrasts": [{**_json(contrast), "sentences": list(_sentences(contrast))} for contrast in self.contrasts],
            "drifts": [{**_json(gap), "sentence": _gap_sentence(gap)} for gap in self.population_gaps],
            "incomplete": self.incomplete,
            **({"notes": list(self.notes)} if self.notes else {}),
        }


def _runs_of_calls(own: int, earlier: int) -> Iterator[str]:
    if earlier:
        yield (
            f"The figures are of {own + earlier} runs: {own} of this call, and {earlier} of earlier calls into the same folder; "
            "in the table of runs, `call` says which."
        )


def _json(found: Contrast | PopulationGap) -> dict[str, Any]:
    return {
        "measure" if key == "objective" else key: value
        for key, value in asdict(found).items()
        if value is not None or key not in ("margin", "looks")
    }


def _heading(contrast: Contrast) -> str:
    where = "".join(f", {key} {value}" for key, value in contrast.setting.items())
    objective = contrast.objective
    return (
        f"{contrast.network} against {contrast.baseline}{where}: test {objective.name} at the end, paired by seed, "
        f"95 % intervals{_at_once(contrast)}{'; less is better' if objective.minimize else ''}"
    )


def _at_once(contrast: Contrast) -> str:
    """Of how many pairs intervals are, where they are of several."""
    return f" for {contrast.pairs} pairs at once (Holm)" if contrast.pairs > 1 else ""


def _sentences(contrast: Contrast) -> Iterator[str]:
    for at in contrast.by_learning_rate:
        yield _rate_sentence(contrast, at)
    if contrast.best is None:
        yield f"No comparison at the best learning rates: {contrast.chosen_by}."
    else:
        if contrast.chosen_by != ONLY_ONE:
            yield _best_sentence(contrast.best, contrast)
        yield _conclusion(contrast.best, contrast)
        if contrast.looks is not None:
            yield from describe_looks(contrast.looks)
        if contrast.best.training is not None:
            difference = contrast.objective.difference(contrast.best.training)
            yield f"In training {contrast.objective.name} of the last epoch the difference there is {difference}."
        if not contrast.best.neither_learned:
            for time_to_target in contrast.best.reached:
                yield _time_to_target_sentence(time_to_target, contrast.objective)
    if contrast.cost is not None:
        yield _cost_sentence(contrast, contrast.cost)


def _rate_sentence(contrast: Contrast, at: AtLearningRate) -> str:
    difference = _difference(at.test, contrast)
    means = ", ".join(
        f"{name} {contrast.objective.text(mean)}"
        for name, mean in ((contrast.baseline, at.baseline_mean), (contrast.network, at.network_mean))
        if mean is not None
    )
    lost = "".join(
        f"; {name}: {count} of {plural(at.seeds, 'run')} {status.value}"
        for name, ended in ((contrast.baseline, at.baseline_ended), (contrast.network, at.network_ended))
        for status, count in ended.items()
        if status is not Status.FINISHED
    )
    lost += "".join(
        f"; {name}: test {contrast.objective.name} undefined in {count} of {plural(at.seeds, 'run')}"
        for name, count in ((contrast.baseline, at.baseline_undefined), (contrast.network, at.network_undefined))
        if count
    )
    return f"lr {at.lr:g}: {difference}{f' ({means})' if means else ''}{lost}."


def _best_sentence(best: AtBest, contrast: Contrast) -> str:
    objective = contrast.objective
    return (
        f"Each at its best learning rate (chosen by validation {objective.name}): {contrast.baseline} at "
        f"{best.baseline_lr:g} reaches {objective.text(best.baseline_mean)}, {contrast.network} at {best.network_lr:g} "
        f"reaches {objective.text(best.network_mean)}: {_difference(best.test, contrast)}."
    )


def _difference(difference: Interval | None, contrast: Contrast) -> str:
    return "no pair of runs to compare" if difference is None else contrast.objective.difference(difference)


def _conclusion(best: AtBest, contrast: Contrast) -> str:
    return _neither_sentence(best, contrast) if best.neither_learned else _verdict_sentence(best.test, contrast)


def _verdict_sentence(difference: Interval | None, contrast: Contrast) -> str:
    network, objective = contrast.network, contrast.objective
    if difference is None or difference.low is None or difference.high is None:
        n = 0 if difference is None else difference.n
        return f"With {plural(n, 'pair')} of runs nothing can be said: use more seeds."
    change, unit = objective.change, " points" if objective.is_accuracy else ""
    match objective.conclude(difference, contrast.margin):
        case Conclusion.GAIN if objective.is_accuracy:
            return f"So {network} bought {change(difference.mean)} points of test accuracy."
        case Conclusion.LOSS if objective.is_accuracy:
            return f"So {network} cost test accuracy: {change(difference.mean)} points."
        case Conclusion.GAIN | Conclusion.LOSS as found:
            way = "better" if found is Conclusion.GAIN else "worse"
            return f"So {network} made the test {objective.name} {way}: {change(difference.mean)}."
        case Conclusion.NOTHING:
            return f"So {network} bought nothing in test {objective.name}: {_any_left(contrast)}."
        case Conclusion.UNKNOWN:
            too_few = (
                f"n = {difference.n} is too small"
                if difference.counted is None
                else f"{difference.counted:,} test answers are too few"
            )
            return (
                f"{too_few} to say: the difference lies between {change(difference.low)} and "
                f"{change(difference.high)}{unit}, on either side of nothing. {_remedy(difference)}"
            )


def _any_left(contrast: Contrast) -> str:
    margin, is_accuracy = contrast.margin, contrast.objective.is_accuracy
    if not margin or (is_accuracy and 100 * margin == 1):
        return "any difference is under a point" if is_accuracy else "there is no difference"
    return f"any difference is under {contrast.objective.size(margin)}"


def _neither_sentence(best: AtBest, contrast: Contrast) -> str:
    """Both are at or below what needs no network: what they differ by is no gain and no loss."""
    objective, constant = contrast.objective, best.constant
    assert constant is not None
    means = (best.baseline_mean, best.network_mean)
    is_above = any(objective.order(mean) < objective.order(constant) for mean in means)
    return (
        f"Neither network {'is shown to have learned' if is_above else 'learned'}: test {objective.name} "
        f"{objective.text(means[0])} ({contrast.baseline}) and {objective.text(means[1])} ({contrast.network}) are not "
        f"{'clearly ' if is_above else ''}better than {objective.text(constant)}, the score of the best constant answer. So their "
        "difference says nothing about batch norm."
    )


def _remedy(difference: Interval) -> str:
    return "Use more seeds." if difference.counted is None else "Use more test examples."


def _headline(best: AtBest, contrast: Contrast, every: Sequence[Contrast]) -> str:
    """The verdict, with where it was found, the interval that it rests on, and what the other settings say."""
    difference, objective = best.test, contrast.objective
    where = "".join(f"{key} {format_setting(value)}, " for key, value in contrast.setting.items())
    opening = f"With {where[:-2]}: " if where else ""
    if best.neither_learned or difference is None or difference.low is None or difference.high is None:
        return opening + _conclusion(best, contrast)
    ends = f"{objective.change(difference.low)} to {objective.change(difference.high)}"
    interval = f"95 % interval{_at_once(contrast)} {ends}, {objective.count(difference)}"
    if objective.conclude(difference, contrast.margin) is Conclusion.UNKNOWN:
        unit = " points" if objective.is_accuracy else ""
        return (
            f"{opening}Whether {contrast.network} is better or worse in test {objective.name} cannot be said: "
            f"{objective.change(difference.mean)}{unit} ({interval}). {_remedy(difference)}"
        )
    sentence = _verdict_sentence(difference, contrast).removeprefix("So ").removesuffix(".")
    return f"{opening}{sentence} ({interval}){_under_other_settings(contrast, every)}."


def _under_other_settings(contrast: Contrast, every: Sequence[Contrast]) -> str:
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
    change = contrast.objective.change
    if len(means) == 1:
        return f"; with the other setting {change(means[0])}"
    return f"; with the {len(means)} other settings {change(min(means))} to {change(max(means))}"


def _time_to_target_sentence(time_to_target: TimeToTarget, objective: Objective) -> str:
    target = (
        f"the final test {objective.name} of {time_to_target.of} ({objective.text(time_to_target.value)}, after "
        f"{_duration_text(time_to_target.own_epochs, time_to_target.own_seconds)})"
    )
    if time_to_target.epochs is None or time_to_target.seconds is None:
        return f"{time_to_target.by} never reached {target}."
    seeds = (
        ""
        if time_to_target.reached == time_to_target.seeds
        else f", in {time_to_target.reached} of {time_to_target.seeds} seeds"
    )
    duration = _duration_text(time_to_target.epochs, time_to_target.seconds)
    return f"{time_to_target.by} reached {target} after {duration}{seeds} (medians)."


def _duration_text(epochs: float, seconds: float) -> str:
    duration = f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"
    return f"{epochs:g} epoch{'' if epochs == 1 else 's'} and {duration} s"


def _cost_sentence(contrast: Contrast, cost: Interval) -> str:
    between = "" if cost.low is None or cost.high is None else f" [{cost.low:.2f}, {cost.high:.2f}]"
    return (
        f"An epoch of training with {contrast.network} takes {cost.mean:.2f} times{between} as long as with "
        f"{contrast.baseline}, n = {cost.n}."
    )


def _gap_sentence(gap: PopulationGap) -> str:
    where = "".join(f", {key} {value}" for key, value in gap.setting.items())
    (moving, population), text = gap.widest, gap.objective.text
    return (
        f"{gap.network} at lr {gap.lr:g}{where}: in {gap.apart} of {plural(gap.runs, 'run')} the same weights score "
        f"{gap.objective.disagreement} differently under the moving average and under population statistics; on average "
        f"{text(gap.moving_average)} and {text(gap.population)}, at the widest {text(moving)} and {text(population)}."
    )
