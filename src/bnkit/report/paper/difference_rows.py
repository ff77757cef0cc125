"""The paired differences of a comparison as rows, for a picture of them. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bnkit.intervals.interval import Interval
from bnkit.report.contrasts.contrast import Contrast
from bnkit.report.tables import format_setting


@dataclass(frozen=True)
class DifferenceRow:
    """The difference of two networks at one place.

    Attributes:
        label: The place, and the networks if there are several pairs.
        network, baseline: The difference is the first minus the second.
        interval: The interval for these test examples.
        new_examples: The interval for new test examples; None if it is not known.
    """

    label: str
    network: str
    baseline: str
    interval: Interval
    new_examples: Interval | None = None


def difference_rows(contrasts: Sequence[Contrast], settings: Mapping[str, object] | None = None) -> list[DifferenceRow]:
    """Each contrast at the best learning rates, and then at each learning rate; places without a pair of runs are left out.

    Args:
        contrasts: Network against baseline.
        settings: The settings to include; all by default.
    """
    wanted = dict(settings or {})
    lr = wanted.pop("lr", None)
    several = len({(contrast.network, contrast.baseline) for contrast in contrasts}) > 1
    return [
        row
        for contrast in contrasts
        if all(contrast.setting.get(key, value) == value for key, value in wanted.items())
        for row in _rows(contrast, lr if lr is None else contrast.setting.get("lr", lr), several=several)
        if lr in (None, contrast.setting.get("lr", lr))
    ]


def _rows(contrast: Contrast, lr: object, *, several: bool) -> Iterator[DifferenceRow]:
    names = [f"{contrast.network} − {contrast.baseline}"] if several else []
    names += [f"{key} {format_setting(value)}" for key, value in contrast.setting.items()]
    best, rates = contrast.best, contrast.by_learning_rate
    if best is not None and best.test is not None and len(rates) > 1 and lr is None:
        label = ", ".join([*names, "each at its best lr"])
        yield DifferenceRow(label, contrast.network, contrast.baseline, best.test, best.test_new_examples)
    for at in rates:
        if at.test is not None and (lr is None or at.lr in (None, lr)):
            where = [] if at.lr is None else [f"lr {format_setting(at.lr)}"]
            label = ", ".join([*names, *where]) or f"{contrast.network} − {contrast.baseline}"
            yield DifferenceRow(label, contrast.network, contrast.baseline, at.test, at.test_new_examples)
