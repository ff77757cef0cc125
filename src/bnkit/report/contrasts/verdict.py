"""The verdict of a contrast, in words. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from bnkit.intervals.crossed import CrossedInterval
from bnkit.intervals.interval import FEWEST, Conclusion, Interval
from bnkit.messages import plural
from bnkit.report.contrasts.contrast import AtBest, Contrast
from bnkit.report.tables import format_setting


def at_once(contrast: Contrast) -> str:
    """The addition to "interval" if intervals of several pairs are simultaneous."""
    return f" for {contrast.pairs} pairs at once (Holm)" if contrast.pairs > 1 else ""


def conclusion(best: AtBest, contrast: Contrast) -> str:
    """The verdict from the deciding interval; if neither network learned, a sentence that says so."""
    return _neither_sentence(best, contrast) if best.neither_learned else _verdict_sentence(best, contrast)


def _verdict_sentence(best: AtBest, contrast: Contrast) -> str:
    difference, network, objective = best.decisive, contrast.network, contrast.objective
    if difference is None or difference.low is None or difference.high is None:
        n = 0 if difference is None else difference.n
        return f"With {plural(n, 'pair')} of runs nothing can be said: use more seeds."
    change, unit = objective.change, " points" if objective.is_accuracy else ""
    match objective.conclude(difference, contrast.margin):
        case Conclusion.GAIN if objective.is_accuracy:
            return f"So {network} bought {change(difference.mean)} points of {objective.title}."
        case Conclusion.LOSS if objective.is_accuracy:
            return f"So {network} cost {objective.title}: {change(difference.mean)} points."
        case Conclusion.GAIN | Conclusion.LOSS as found:
            way = "better" if found is Conclusion.GAIN else "worse"
            return f"So {network} made the {objective.title} {way}: {change(difference.mean)}."
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
    found = {Conclusion.GAIN: "better", Conclusion.LOSS: "worse"}.get(contrast.objective.conclude(best.test), "")
    here = f"On these test examples {contrast.network} is {found}. For new ones " if found else ""
    return (
        f"{here}{_too_few(difference)} to say: the difference lies between {ends}, on either side of nothing. "
        f"{_remedy(difference)}"
    )


def _too_few(difference: Interval) -> str:
    """What the comparison has too few of for a narrow interval."""
    if difference.counted is not None:
        return f"{difference.counted:,} test answers are too few"
    if _examples_matter(difference) and isinstance(difference, CrossedInterval):
        return f"{plural(difference.examples, 'test example')} are too few"
    return f"n = {difference.n} is too small"


def _examples_matter(difference: Interval) -> bool:
    """Whether most of the interval's width comes from the test examples, so that more of them help most."""
    return isinstance(difference, CrossedInterval) and difference.from_examples > 0.5


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


_MORE_EXAMPLES, _MORE_SEEDS = "Use more test examples.", "Use more seeds."


def _remedy(difference: Interval) -> str:
    return _MORE_EXAMPLES if difference.counted is not None or _examples_matter(difference) else _MORE_SEEDS


def without_remedy(headline: str) -> str:
    """``headline`` without the sentence that says what would help: for readers who do not train."""
    return headline.removesuffix(_MORE_EXAMPLES).removesuffix(_MORE_SEEDS).rstrip()


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
    if objective.conclude(difference, contrast.margin) is Conclusion.UNKNOWN:
        unit = " points" if objective.is_accuracy else ""
        return (
            f"{opening}Whether {contrast.network} is better or worse in {objective.title} cannot be said: "
            f"{objective.change(difference.mean)}{unit} ({interval}). {_remedy(difference)}"
        )
    sentence = _verdict_sentence(best, contrast).removeprefix("So ").removesuffix(".")
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
