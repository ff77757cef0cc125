"""The summary of a comparison for a paper: a row for each network and setting. Needs no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bnkit.intervals.interval import Interval
from bnkit.report.contrasts.contrast import Contrast
from bnkit.report.objective_metric import Objective
from bnkit.report.results_of_plan import Results
from bnkit.report.run_outcomes import RunOutcome, interval_over_seeds
from bnkit.report.tables import count_lost, format_setting, runs_by_setting, setting_keys
from bnkit.text_table import Column, Table

# The columns of a data frame, without the settings.
NETWORK, AFTER_SETTINGS = (
    "network",
    (
        *("best", "n", "failed", "mean", "mean_low", "mean_high"),
        *(
            "baseline",
            "pairs",
            "difference",
            "difference_low",
            "difference_high",
            "new_examples_low",
            "new_examples_high",
        ),
    ),
)
CHOSEN = "*"
# Follows an interval whose width the number of test answers sets (``Interval.counted``).
COUNTED = "†"


@dataclass(frozen=True)
class Difference:
    """The difference of a network and its baseline under the same setting, over pairs of runs with the same seed.

    Attributes:
        baseline: The other network.
        interval: The interval for these test examples; None without a pair.
        new_examples: The interval for new test examples; None if it is not known.
    """

    baseline: str
    interval: Interval | None
    new_examples: Interval | None = None


@dataclass(frozen=True)
class SummaryRow:
    """A network under one setting.

    Attributes:
        network: Its key.
        setting: The value of each key of the summary; None for a setting without effect on the network.
        mean: The mean over the seeds with its 95 % interval; None if no run finished.
        failed: The number of runs without a figure: they diverged, failed, or have a figure that is not finite.
        difference: The difference from its baseline; None for the baseline itself.
        is_best: Whether this learning rate was chosen for the network; None where there is no choice.
    """

    network: str
    setting: Mapping[str, object]
    mean: Interval | None
    failed: int
    difference: Difference | None = None
    is_best: bool | None = None

    @property
    def pairs(self) -> int | None:
        """How many pairs of runs its difference rests on; None without one."""
        return None if self.difference is None or self.difference.interval is None else self.difference.interval.n

    @property
    def n(self) -> int:
        """The number of runs in the mean."""
        return 0 if self.mean is None else self.mean.n


@dataclass(frozen=True)
class Summary:
    """The results of a comparison, a row for each network and setting.

    Attributes:
        name: The name of the experiment, or of the column that the runs are judged by.
        headline: The answer in a sentence.
        objective: The measure that the runs are judged by.
        keys: The settings that distinguish the rows.
        rows: In the order of the plan.
        pairs: How many pairs of networks are compared; with several, intervals have Holm's confidences.
    """

    name: str
    headline: str
    objective: Objective
    keys: tuple[str, ...]
    rows: tuple[SummaryRow, ...]
    pairs: int = 1

    @property
    def has_failures(self) -> bool:
        """Whether some run lacks a figure."""
        return any(row.failed for row in self.rows)

    @property
    def has_choice(self) -> bool:
        """Whether any learning rate was chosen."""
        return any(row.is_best is not None for row in self.rows)

    @property
    def has_new_examples(self) -> bool:
        """Whether any difference has an interval for new test examples."""
        return any(row.difference is not None and row.difference.new_examples is not None for row in self.rows)

    @property
    def has_counted(self) -> bool:
        """Whether the number of test answers sets the width of any interval that is shown."""
        differences = [row.difference for row in self.rows if row.difference is not None]
        shown = [row.mean for row in self.rows] + [x for d in differences for x in (d.interval, d.new_examples)]
        return any(interval is not None and interval.counted is not None for interval in shown)

    @property
    def has_fewer_pairs(self) -> bool:
        """Whether a difference rests on fewer pairs than its network has runs."""
        return any(row.n != row.pairs for row in self.rows if row.pairs is not None)

    @property
    def notes(self) -> list[str]:
        """What the figures mean, a sentence each."""
        at_once = f" for {self.pairs} pairs of networks at once (Holm)" if self.pairs > 1 else ""
        baselines = dict.fromkeys(row.difference.baseline for row in self.rows if row.difference is not None)
        sentences = [
            f"mean {self.objective.title} over n seeds, with its 95 % interval in brackets",
            (
                f"difference: to {' or '.join(baselines) or 'the baseline'} under the same setting, paired by seed"
                f"{', in percentage points' if self.objective.is_accuracy else ''}, with its 95 % interval{at_once}"
                f"{'; less is better' if self.objective.minimize else ''}"
            ),
        ]
        if self.has_new_examples:
            sentences.append(
                "the second interval of a difference is the one for new examples like those of the test set"
            )
        if self.has_counted:
            sentences.append(
                f"{COUNTED}: the number of test answers sets the width of the interval, because the seeds agree more closely than that "
                "number can show"
            )
        if self.has_choice:
            sentences.append(f"{CHOSEN}: the learning rate chosen for the network on the validation part")
        if self.has_failures:
            sentences.append(
                "failed: runs without a figure at the end (they diverged, or raised an error); the means exclude them"
            )
        return sentences

    def table(self) -> Table:
        """The rows as text."""
        unit = " (points)" if self.objective.is_accuracy else ""
        columns = [
            Column("network", is_text=True),
            *(Column(key, 1, below=True) for key in self.keys),
            *(Column(self.objective.title), Column("95 % interval", 2, below=True)),
            *(Column("n", 3), *((Column("failed"),) if self.has_failures else ())),
            *(Column(f"difference{unit}"), Column("its 95 % interval", 1, below=True)),
            *((Column("pairs", 2),) if self.has_fewer_pairs else ()),
            *((Column("for new examples", 1, below=True),) if self.has_new_examples else ()),
        ]
        return Table(columns, [self._texts(row) for row in self.rows], note=f"{'; '.join(self.notes)}.")

    def header(self) -> list[str]:
        """The titles of ``values``."""
        return [NETWORK, *self.keys, *AFTER_SETTINGS]

    def values(self) -> list[list[object]]:
        """The rows as plain values: shares from 0 to 1, not points; None for a missing value."""
        return [self._plain(row) for row in self.rows]

    def to_csv(self) -> str:
        """``values`` under their ``header``."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(self.header())
        writer.writerows([["" if value is None else value for value in row] for row in self.values()])
        return file.getvalue()

    def to_markdown(self) -> str:
        """The answer, the table and what its columns mean."""
        table = self.table()
        return f"{self.headline}\n\n{table.to_markdown()}\n\n{table.note}\n"

    def _texts(self, row: SummaryRow) -> list[str]:
        text, difference = self.objective.text, row.difference
        own = None if difference is None else difference.interval
        return [
            row.network,
            *(setting_text(row, key) for key in self.keys),
            *("–" if row.mean is None else text(row.mean.mean), ends_text(row.mean, text)),
            *(str(row.n), *((str(row.failed),) if self.has_failures else ())),
            *("–" if own is None else self.objective.change(own.mean), ends_text(own, self.objective.change)),
            *(("–" if own is None else str(own.n),) if self.has_fewer_pairs else ()),
            *(
                (ends_text(None if difference is None else difference.new_examples, self.objective.change),)
                if self.has_new_examples
                else ()
            ),
        ]

    def _plain(self, row: SummaryRow) -> list[object]:
        difference = row.difference
        own = None if difference is None else difference.interval
        return [
            row.network,
            *(row.setting.get(key) for key in self.keys),
            *(row.is_best, row.n, row.failed),
            *_three(row.mean),
            None if difference is None else difference.baseline,
            None if own is None else own.n,
            *_three(own),
            *_three(None if difference is None else difference.new_examples)[1:],
        ]


def summary_of(results: Results, contrasts: Sequence[Contrast], headline: str) -> Summary:
    """The summary of the runs of an experiment.

    Args:
        results: The runs.
        contrasts: The differences between their networks.
        headline: The answer in a sentence.
    """
    keys = setting_keys(results.plan)
    rows = [
        _row(network, dict(zip(keys, values, strict=True)), runs, contrasts)
        for values, by_network in runs_by_setting(results, keys)
        for network, runs in by_network.items()
    ]
    objective = Objective.of(results.plan.task)
    return Summary(results.plan.experiment.name, headline, objective, keys, tuple(rows), most_pairs(contrasts))


def most_pairs(contrasts: Iterable[Contrast]) -> int:
    """The largest number of pairs of networks that are compared under one setting."""
    return max((contrast.pairs for contrast in contrasts), default=1)


def setting_text(row: SummaryRow, key: str) -> str:
    """A setting of a row; the chosen learning rate is marked with a star."""
    chosen = CHOSEN if key == "lr" and row.is_best else ""
    return f"{format_setting(row.setting.get(key))}{chosen}"


def ends_text(interval: Interval | None, text: Callable[[float], str]) -> str:
    """The ends of an interval in brackets, with the mark of one that is counted; a dash if it has none."""
    if interval is None or interval.low is None or interval.high is None:
        return "–"
    return f"[{text(interval.low)}, {text(interval.high)}]{'' if interval.counted is None else COUNTED}"


def _row(
    network: str, setting: Mapping[str, object], runs: Sequence[RunOutcome], contrasts: Sequence[Contrast]
) -> SummaryRow:
    failed = count_lost(runs) + sum(outcome.is_undefined for outcome in runs)
    here = [
        contrast
        for contrast in contrasts
        if network in (contrast.network, contrast.baseline)
        and all(setting.get(key) in (value, None) for key, value in contrast.setting.items())
    ]
    mean, difference, is_best = interval_over_seeds(runs), None, None
    if here:
        # The contrasts with the architecture's baseline come first.
        first, is_baseline = here[0], here[0].baseline == network
        difference = None if is_baseline else difference_at(first, setting.get("lr"))
        if first.best is not None and len(first.by_learning_rate) > 1:
            is_best = setting.get("lr") == (first.best.baseline_lr if is_baseline else first.best.network_lr)
    return SummaryRow(network, setting, mean, failed, difference, is_best)


def difference_at(contrast: Contrast, lr: object) -> Difference:
    """The difference of a contrast at a learning rate; ``lr`` is None if there is only one."""
    at = next((at for at in contrast.by_learning_rate if lr is None or at.lr in (lr, None)), None)
    if at is None:
        return Difference(contrast.baseline, None)
    return Difference(contrast.baseline, at.test, at.test_new_examples)


def _three(interval: Interval | None) -> tuple[float | None, float | None, float | None]:
    if interval is None:
        return None, None, None
    return interval.mean, interval.low, interval.high
