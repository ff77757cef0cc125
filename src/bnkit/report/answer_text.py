"""What batch normalization bought, in words and figures. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bnkit.experiments.records.run_epochs_file import Status
from bnkit.intervals.interval import Interval
from bnkit.message_parts import plural
from bnkit.notebook_html import bullets, output, paragraph
from bnkit.report.contrasts.compare_networks import contrasts
from bnkit.report.contrasts.contrast import AtBest, AtLearningRate, Contrast
from bnkit.report.contrasts.repeated_looks import describe_looks
from bnkit.report.contrasts.time_to_target import TimeToTarget
from bnkit.report.contrasts.verdict import at_once, conclusion, headline
from bnkit.report.learning_rate_sweep import ONLY_ONE
from bnkit.report.moving_average_gap import PopulationGap, population_gaps
from bnkit.report.objective_metric import Objective
from bnkit.report.results_of_plan import Results


@dataclass(frozen=True)
class Answer:
    """The answer to "what did batch normalization buy?".

    Attributes:
        contrasts: The comparisons of each network with its baseline.
        population_gaps: The networks whose result differs between the moving average and the population statistics.
        incomplete: How many runs of the plan have not ended.
        notes: Which runs the figures come from, if earlier calls left runs in the folder.
    """

    contrasts: tuple[Contrast, ...]
    population_gaps: tuple[PopulationGap, ...]
    incomplete: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, results: Results) -> Answer:
        """Compute the answer from ``results``."""
        own = [results.records.get(run.run_id) for run in results.plan if results.is_own(run)]
        incomplete = sum(record is None or record.status in (None, Status.RUNNING) for record in own)
        every_contrast = contrasts(results)
        notes = (
            *_runs_of_calls(len(own), len(results.plan) - len(own)),
            *(() if results.growth is None else results.growth.sentences()),
            *results.notes,
            *_examples_not_known(every_contrast, results),
        )
        return cls(every_contrast, population_gaps(results), incomplete, notes)

    @property
    def headline(self) -> str:
        """The answer in one sentence: the verdict on the first network that is compared with a baseline, and the setting."""
        for contrast in self.contrasts:
            if contrast.best is not None:
                return headline(contrast.best, contrast, self.contrasts)
        if self.incomplete:
            return "There is nothing to compare yet."
        why = self.contrasts[0].chosen_by if self.contrasts else "there is no second network"
        return f"Nothing can be compared: {why}."

    def paragraphs(self) -> Iterator[tuple[str, list[str]]]:
        """A heading and its sentences, for each contrast, and then for all of them together."""
        for contrast in self.contrasts:
            yield _heading(contrast), list(_sentences(contrast))
        rest = [] if self.contrasts or self.incomplete else [self.headline]
        rest += [_gap_sentence(gap) for gap in self.population_gaps]
        if self.incomplete:
            have, are = ("has", "is") if self.incomplete == 1 else ("have", "are")
            rest.append(f"{plural(self.incomplete, 'run')} of the plan {have} not ended, and {are} not in the figures.")
        rest += self.notes
        if rest:
            yield "Also", rest

    def __str__(self) -> str:
        return "\n\n".join(
            "\n".join([heading, *(f"  {sentence}" for sentence in sentences)])
            for heading, sentences in self.paragraphs()
        )

    def _repr_html_(self) -> str:
        return output(
            paragraph(self.headline, "headline"),
            *(bullets(heading, sentences) for heading, sentences in self.paragraphs()),
        )

    def to_json(self) -> dict[str, Any]:
        """The answer as plain values, with its sentences."""
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


def _examples_not_known(every_contrast: Sequence[Contrast], results: Results) -> Iterator[str]:
    """Which intervals are not based on the recorded score of each test example, and why."""
    lost = [
        run.number
        for run in results.plan
        if run.run_id in results.records and results.records[run.run_id].lost_example_scores
    ]
    if lost:
        yield (
            f"The file of test scores is missing or damaged in {plural(len(lost), 'run')} ({', '.join(map(str, lost))}); what their "
            "examples scored counts as not recorded."
        )
    intervals = [
        at.test_new_examples for contrast in every_contrast for at in contrast.by_learning_rate if at.test is not None
    ]
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(intervals):
        yield (
            "What each test example scored is not recorded, or the metric is not a mean over examples: the verdict is for these test "
            "examples, and does not say that it holds for new ones."
        )
    without = [interval.n - interval.recorded for interval in known]
    if any(interval.recorded == 0 for interval in known):
        yield (
            "Which test examples were answered right is not recorded: intervals for new ones assume that the networks differ on as "
            "many as their accuracies allow."
        )
    elif any(without):
        yield f"Which test examples were answered right is not recorded for up to {plural(max(without), 'pair')} of runs."


def _json(result: Contrast | PopulationGap) -> dict[str, Any]:
    return {
        "measure" if key == "objective" else key: value
        for key, value in asdict(result).items()
        if value is not None or key not in ("margin", "looks")
    }


def _heading(contrast: Contrast) -> str:
    where = "".join(f", {key} {value}" for key, value in contrast.setting.items())
    objective = contrast.objective
    return (
        f"{contrast.network} against {contrast.baseline}{where}: {objective.title} at the end, paired by seed, "
        f"95 % intervals{at_once(contrast)}{'; less is better' if objective.minimize else ''}"
    )


def _sentences(contrast: Contrast) -> Iterator[str]:
    best = contrast.best
    if best is not None and best.neither_learned:
        yield conclusion(best, contrast)
    for at in contrast.by_learning_rate:
        yield _rate_sentence(contrast, at)
    if best is None:
        yield f"No comparison at the best learning rates: {contrast.chosen_by}."
    else:
        yield from _sentences_at_best(best, contrast)
    if contrast.cost is not None:
        yield _cost_sentence(contrast, contrast.cost)


def _sentences_at_best(best: AtBest, contrast: Contrast) -> Iterator[str]:
    if contrast.chosen_by != ONLY_ONE:
        yield _best_sentence(best, contrast)
    if not best.neither_learned:
        yield conclusion(best, contrast)
    if contrast.looks is not None:
        yield from describe_looks(contrast.looks)
    if best.training is not None:
        difference = contrast.objective.difference(best.training)
        yield f"In training {contrast.objective.name} of the last epoch the difference there is {difference}."
    if not best.neither_learned:
        for time_to_target in best.reached:
            yield _time_to_target_sentence(time_to_target, contrast.objective)


def _rate_sentence(contrast: Contrast, at: AtLearningRate) -> str:
    difference = _difference(at, contrast)
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
        f"; {name}: {contrast.objective.title} undefined in {count} of {plural(at.seeds, 'run')}"
        for name, count in ((contrast.baseline, at.baseline_undefined), (contrast.network, at.network_undefined))
        if count
    )
    where = "" if at.lr is None else f"lr {at.lr:g}: "
    return f"{where}{difference}{f' ({means})' if means else ''}{lost}."


def _best_sentence(best: AtBest, contrast: Contrast) -> str:
    objective = contrast.objective
    return (
        f"Each at its best learning rate (chosen by validation {objective.name}): {contrast.baseline} at "
        f"{best.baseline_lr:g} reaches {objective.text(best.baseline_mean)}, {contrast.network} at {best.network_lr:g} "
        f"reaches {objective.text(best.network_mean)}: {_difference(best, contrast)}."
    )


def _difference(at: AtLearningRate | AtBest, contrast: Contrast) -> str:
    return (
        "no pair of runs to compare"
        if at.test is None
        else contrast.objective.difference(at.test, at.test_new_examples)
    )


def _time_to_target_sentence(time_to_target: TimeToTarget, objective: Objective) -> str:
    target = (
        f"the final {objective.title} of {time_to_target.of} ({objective.text(time_to_target.value)}, after "
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
