"""The verdict of a contrast, in words. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bnkit.intervals.crossed_effects import CrossedInterval
from bnkit.intervals.interval import FEWEST, Conclusion, Interval
from bnkit.message_parts import plural
from bnkit.report.contrasts.contrast import AtBest, Contrast
from bnkit.report.contrasts.decision_outlook import DecisionOutlook
from bnkit.report.contrasts.diverged_runs import Divergence
from bnkit.report.tables import format_setting


def at_once(contrast: Contrast) -> str:
    """The addition to "interval" if intervals of several pairs are simultaneous."""
    return f" for {contrast.pairs} pairs at once (Holm)" if contrast.pairs > 1 else ""


def conclusion(best: AtBest, contrast: Contrast) -> str:
    """The verdict from the deciding interval; if neither network learned, a sentence that says so."""
    return _neither_sentence(best, contrast) if best.neither_learned else _verdict_sentence(best, contrast)


def _verdict_sentence(best: AtBest, contrast: Contrast) -> str:
    if contrast.is_contradicted:
        return f"So there is no verdict: {_contradiction(best, contrast)}. {_lower_rate(best, contrast)}"
    diverged = best.divergence
    if diverged is None or contrast.verdict is Conclusion.UNKNOWN:
        return _sentence_of_finished(best, contrast)
    return (
        f"{_sentence_of_finished(best, contrast)} That is of the seeds for which both runs finished; "
        f"{_who_diverged(diverged, contrast)}."
    )


def _who_diverged(diverged: Divergence, contrast: Contrast) -> str:
    """``batch_norm diverged in 1 of 5 runs``."""
    counts = ((contrast.baseline, diverged.baseline), (contrast.network, diverged.network))
    return " and ".join(
        f"{name} diverged in {count} of {plural(diverged.seeds, 'run')}" for name, count in counts if count
    )


def _contradiction(best: AtBest, contrast: Contrast) -> str:
    """Why the runs that diverged leave no verdict."""
    diverged, objective = best.divergence, contrast.objective
    assert (
        diverged is not None and diverged.mean is not None and diverged.counts_as is not None
    )  # by ``is_contradicted``
    conclusion = {
        Conclusion.GAIN: f"{contrast.network} is better",
        Conclusion.LOSS: f"{contrast.network} is worse",
    }.get(contrast.of_finished, _any_left(contrast))
    unit = " points" if objective.is_accuracy else ""
    # Records of earlier versions lack the best constant answer.
    is_known = diverged.counts_as or not objective.is_accuracy
    answer = f"the best constant answer ({objective.text(diverged.counts_as)})" if is_known else "an accuracy of 0"
    return (
        f"over the seeds for which both runs finished, {conclusion}, but {_who_diverged(diverged, contrast)}; "
        f"if these count as {answer}, the mean difference is {objective.change(diverged.mean)}{unit}"
    )


def _sentence_of_finished(best: AtBest, contrast: Contrast) -> str:
    """The verdict over the seeds for which both runs finished."""
    difference, network, objective = best.decisive, contrast.network, contrast.objective
    if difference is None or difference.low is None or difference.high is None:
        n = 0 if difference is None else difference.n
        return f"With {plural(n, 'pair')} of runs nothing can be said: use more seeds."
    change, unit = objective.change, " points" if objective.is_accuracy else ""
    match contrast.of_finished:
        case Conclusion.GAIN if objective.is_accuracy:
            return f"So {network} bought {change(difference.mean)} points of {objective.title}."
        case Conclusion.LOSS if objective.is_accuracy:
            return f"So {network} cost {objective.title}: {change(difference.mean)} points."
        case Conclusion.GAIN | Conclusion.LOSS as conclusion:
            direction = "better" if conclusion is Conclusion.GAIN else "worse"
            return f"So {network} made the {objective.title} {direction}: {change(difference.mean)}."
        case Conclusion.NOTHING:
            return f"So {network} bought nothing in {objective.title}: {_any_left(contrast)}."
        case Conclusion.UNKNOWN:
            return _open_sentence(
                best, contrast, difference, f"{change(difference.low)} and {change(difference.high)}{unit}"
            )


def _any_left(contrast: Contrast) -> str:
    margin, is_accuracy = contrast.margin, contrast.objective.is_accuracy
    if not margin or (is_accuracy and 100 * margin == 1):
        return "any difference is under a point" if is_accuracy else "there is no difference"
    return f"any difference is under {contrast.objective.size(margin)}"


def _open_sentence(best: AtBest, contrast: Contrast, difference: Interval, ends: str) -> str:
    """Why there is no verdict, and what would help."""
    if difference.n < FEWEST and not (difference.low or 0.0) < 0 < (difference.high or 0.0):
        return f"n = {difference.n} is too small for a verdict: use at least {FEWEST} seeds."
    direction = {Conclusion.GAIN: "better", Conclusion.LOSS: "worse"}.get(contrast.objective.conclude(best.test), "")
    here = f"On these test examples {contrast.network} is {direction}. For new ones " if direction else ""
    return (
        f"{here}{_too_few(best, difference)} to say: the difference lies between {ends}, on either side of nothing. "
        f"{_remedy(best, difference)}"
    )


def _too_few(best: AtBest, difference: Interval) -> str:
    """What the comparison has too few of for a narrow interval."""
    if difference.counted is not None:
        return f"{difference.counted:,} test answers are too few"
    if _examples_matter(best, difference) and isinstance(difference, CrossedInterval):
        return f"{plural(difference.examples, 'test example')} are too few"
    return f"n = {difference.n} is too small"


def _examples_matter(best: AtBest, difference: Interval) -> bool:
    """Whether more test examples help most: they make most of the interval's width, or no number of seeds would decide."""
    if difference.counted is not None:
        return True
    if not isinstance(difference, CrossedInterval):
        return False
    seeds_decide = best.outlook is None or best.outlook.pairs is not None
    return difference.from_examples > 0.5 or not seeds_decide


def _neither_sentence(best: AtBest, contrast: Contrast) -> str:
    """Neither network beats the best constant answer, so their difference is neither a gain nor a loss."""
    objective, constant = contrast.objective, best.constant
    assert constant is not None
    means = (best.baseline_mean, best.network_mean)
    is_above = any(objective.order(mean) < objective.order(constant) for mean in means)
    return (
        f"Neither network {'is shown to have learned' if is_above else 'learned'}: {objective.title} "
        f"{objective.text(means[0])} ({contrast.baseline}) and {objective.text(means[1])} ({contrast.network}) are not "
        f"{'clearly ' if is_above else ''}better than {objective.text(constant)}, the score of the best constant answer. So their "
        "difference says nothing about batch norm."
    )


_REMEDIES = re.compile(r"\s*Use (more|a lower) .*\.$")


def _lower_rate(best: AtBest, contrast: Contrast) -> str:
    """What would help against the runs that diverged, with the network that has them."""
    diverged = best.divergence
    assert diverged is not None  # by ``is_contradicted``
    if diverged.baseline and diverged.network:
        return "Use a lower learning rate for both networks."
    return f"Use a lower learning rate for {contrast.baseline if diverged.baseline else contrast.network}."


def _remedy(best: AtBest, difference: Interval) -> str:
    if not _examples_matter(best, difference):
        return "Use more seeds."
    outlook = best.outlook
    if outlook is None or outlook.examples is not None or outlook.pairs is not None:
        return f"Use more test examples{'' if outlook is None else examples_in_words(outlook)}."
    return "Use more seeds and more test examples."


def examples_in_words(outlook: DecisionOutlook) -> str:
    """``: about 1,300, with 10 seeds``; empty if the number is not known."""
    if outlook.examples is None:
        return ""
    return f": about {outlook.examples:,}, with {plural(outlook.pairs_then, 'seed')}"


def without_remedy(headline: str) -> str:
    """``headline`` without the sentence that says what would help: for readers who do not train."""
    return _REMEDIES.sub("", headline).rstrip()


def headline(best: AtBest, contrast: Contrast, every: Sequence[Contrast]) -> str:
    """The verdict with its setting, its interval, and the differences under the other settings."""
    difference, objective = best.decisive, contrast.objective
    where = "".join(f"{key} {format_setting(value)}, " for key, value in contrast.setting.items())
    opening = f"With {where[:-2]}: " if where else ""
    if best.neither_learned or difference is None or difference.low is None or difference.high is None:
        return opening + conclusion(best, contrast)
    ends = f"{objective.change(difference.low)} to {objective.change(difference.high)}"
    examples = "these" if best.test_new_examples is None else "new"
    interval = f"95 % interval{at_once(contrast)} for {examples} test examples {ends}, {objective.count(difference)}"
    cannot = f"{opening}Whether {contrast.network} is better or worse in {objective.title} cannot be said"
    if contrast.is_contradicted:
        return f"{cannot}: {_contradiction(best, contrast)}. {_lower_rate(best, contrast)}"
    if contrast.verdict is Conclusion.UNKNOWN:
        unit = " points" if objective.is_accuracy else ""
        return f"{cannot}: {objective.change(difference.mean)}{unit} ({interval}). {_remedy(best, difference)}"
    if best.divergence is not None:
        interval += f"; {_who_diverged(best.divergence, contrast)}"
    sentence = _sentence_of_finished(best, contrast).removeprefix("So ").removesuffix(".")
    return f"{opening}{sentence} ({interval}){_under_other_settings(contrast, every)}."


def _under_other_settings(contrast: Contrast, every: Sequence[Contrast]) -> str:
    """The differences between the same two networks under the other settings."""
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
