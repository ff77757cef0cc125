"""Runs from a table, with network, seed, settings and one figure each, and their comparison. Needs no torch."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean

from bnkit.errors import SettingsError
from bnkit.experiments.records.run_epochs_file import Status
from bnkit.intervals.crossed_effects import largest_spread, most_discordant
from bnkit.message_parts import plural
from bnkit.report.answer_text import Answer
from bnkit.report.contrasts.compare_networks import BASELINE
from bnkit.report.contrasts.contrast import AtBest, AtLearningRate, Contrast
from bnkit.report.contrasts.paired_differences import BEST, BothIntervals, PairedDifferences, simultaneous_intervals
from bnkit.report.learning_rate_sweep import ONLY_ONE
from bnkit.report.objective_metric import Objective
from bnkit.report.paper.paper_summary import Summary, SummaryRow, difference_at, most_pairs
from bnkit.report.tables import format_setting
from bnkit.text_table import Column, Table

Setting = tuple[Hashable, ...]
# The largest number of left-out runs that a note names.
_NAMED = 5
_EXAMPLES_BOUNDED = (
    "The table does not say which test examples were answered right: intervals for new ones assume that the networks differ on as "
    "many as their accuracies allow."
)
_EXAMPLES_UNKNOWN = (
    "The table lacks the score of each test example: the verdict is for these test examples, and need not hold for new "
    "ones."
)


@dataclass(frozen=True)
class TableRun:
    """A row of the table.

    Attributes:
        network: The name of its network.
        seed: The seed, which pairs it with runs of other networks.
        setting: Its value of each setting.
        value: The figure that it is judged by; None if it is not finite.
    """

    network: str
    seed: Hashable
    setting: Setting
    value: float | None


@dataclass(frozen=True)
class RunTable:
    """Runs without records, compared in pairs.

    Networks are compared where all settings agree. No learning rate is chosen, because no column is known to be measured on a
    validation part.

    Attributes:
        objective: The measure that they are judged by.
        keys: The names of the settings.
        runs: One for each network, seed and setting.
        baseline: The network that the others are compared with.
        examples: The number of test examples of an accuracy; None if it is not known.
        notes: Sentences about rows that were left out while the table was read.
    """

    objective: Objective
    keys: tuple[str, ...]
    runs: tuple[TableRun, ...]
    baseline: str
    examples: int | None = None
    notes: tuple[str, ...] = ()
    _by_setting: dict[Setting, dict[str, dict[Hashable, float | None]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_setting: dict[Setting, dict[str, dict[Hashable, float | None]]] = {}
        for run in self.runs:
            by_setting.setdefault(run.setting, {}).setdefault(run.network, {})[run.seed] = run.value
        object.__setattr__(self, "_by_setting", {setting: by_setting[setting] for setting in _in_order(by_setting)})

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks' names, the baseline first."""
        return tuple(dict.fromkeys((self.baseline, *(run.network for run in self.runs))))

    def answer(self) -> Answer:
        """The comparison of the networks, with notes about the runs left out.

        Raises:
            SettingsError: There is no pair of runs.
        """
        every_contrast = self.contrasts()
        left_out = tuple(self._left_out())
        if not every_contrast:
            raise SettingsError(
                f"no pair of runs has the same seed{' and settings' if self.keys else ''}, so that nothing can be compared: "
                f"{' '.join((*(note for note in self.notes if note.startswith('Left out')), *left_out))}"
            )
        about_examples = (
            _EXAMPLES_BOUNDED
            if any(at.test_new_examples is not None for contrast in every_contrast for at in contrast.by_learning_rate)
            else _EXAMPLES_UNKNOWN
        )
        return Answer(every_contrast, (), 0, (*self.notes, *left_out, about_examples))

    def contrasts(self) -> tuple[Contrast, ...]:
        """Every network against the baseline, then the others against each other, under every setting that has pairs."""
        order, every_contrast = self._pairs_of_networks(), []
        for setting, by_network in self._by_setting.items():
            drafts = [
                (first, second, differences)
                for first, second in order
                if (differences := self._differences(by_network.get(first, {}), by_network.get(second, {})))
            ]
            # Holm's confidences if there are several pairs.
            intervals = simultaneous_intervals([{BEST: differences} for _, _, differences in drafts])
            for (first, second, _), known in zip(drafts, intervals, strict=True):
                every_contrast.append(self._contrast(setting, (first, second), known[BEST], len(drafts)))
        return tuple(sorted(every_contrast, key=lambda contrast: order.index((contrast.baseline, contrast.network))))

    def summary(self, answer: Answer) -> Summary:
        """A row for each network and setting."""
        order = {network: index for index, network in enumerate(self.networks)}
        rows = [
            self._summary_row(network, setting, by_network[network], answer.contrasts)
            for setting, by_network in self._by_setting.items()
            for network in sorted(by_network, key=order.__getitem__)
        ]
        return Summary(
            self.objective.name, answer.headline, self.objective, self.keys, tuple(rows), most_pairs(answer.contrasts)
        )

    def table(self) -> Table:
        """A row for each run, the best first."""
        settings = [Column(key, 1) for key in self.keys]
        columns = (Column("network", is_text=True), *settings, Column("seed", 1), Column(self.objective.title))
        runs = sorted(self.runs, key=lambda run: self.objective.order(run.value))
        rows = [
            (
                run.network,
                *map(format_setting, run.setting),
                format_setting(run.seed),
                "–" if run.value is None else self.objective.text(run.value),
            )
            for run in runs
        ]
        return Table(columns, rows, "All runs, best first")

    def rows(self) -> list[dict[str, object]]:
        """The runs as dictionaries."""
        return [
            {
                "network": run.network,
                **dict(zip(self.keys, run.setting, strict=True)),
                "seed": run.seed,
                self.objective.name: run.value,
            }
            for run in self.runs
        ]

    def _pairs_of_networks(self) -> list[tuple[str, str]]:
        others = self.networks[1:]
        return [
            *((self.baseline, other) for other in others),
            *((second, first) for first, second in combinations(others, 2)),
        ]

    def _differences(
        self, first: Mapping[Hashable, float | None], second: Mapping[Hashable, float | None]
    ) -> PairedDifferences | None:
        pairs = [
            (before, after)
            for seed, before in first.items()
            if before is not None and (after := second.get(seed)) is not None
        ]
        if not pairs:
            return None
        values = tuple(after - before for before, after in pairs)
        spread = None
        if self.examples is not None and self.objective.is_accuracy:
            discordant = fmean(most_discordant(before, after) for before, after in pairs)
            spread = largest_spread(fmean(values), discordant, self.examples)
        return PairedDifferences(values, self.examples, self.objective, spread)

    def _contrast(self, setting: Setting, networks: tuple[str, str], test: BothIntervals, pairs: int) -> Contrast:
        baseline, network = (self._by_setting[setting][name] for name in networks)
        # Of the pairs alone, so that their difference is the one that is shown.
        both = [seed for seed, value in baseline.items() if value is not None and network.get(seed) is not None]
        first, second = (fmean(_finite({seed: runs[seed] for seed in both})) for runs in (baseline, network))
        at = AtLearningRate(
            None,
            test.these,
            first,
            second,
            {Status.FINISHED: len(baseline)},
            {Status.FINISHED: len(network)},
            len(baseline.keys() | network.keys()),
            len(baseline) - len(_finite(baseline)),
            len(network) - len(_finite(network)),
            test.new,
        )
        best = AtBest(None, None, first, second, test.these, None, (), test_new_examples=test.new)
        where = dict(zip(self.keys, setting, strict=True))
        return Contrast(*networks, self.objective, where, (at,), best, ONLY_ONE, None, pairs)

    def _summary_row(
        self,
        network: str,
        setting: Setting,
        values: Mapping[Hashable, float | None],
        contrasts: Sequence[Contrast],
    ) -> SummaryRow:
        finite, where = _finite(values), dict(zip(self.keys, setting, strict=True))
        against = [c for c in contrasts if (c.baseline, c.network, c.setting) == (self.baseline, network, where)]
        return SummaryRow(
            network,
            where,
            self.objective.interval(finite, self.examples) if finite else None,
            len(values) - len(finite),
            difference_at(against[0], None) if against else None,
        )

    def _left_out(self) -> Iterator[str]:
        """Notes about the runs without a partner, and about those without a finite figure."""
        undefined = [run for run in self.runs if run.value is None]
        if undefined:
            yield (
                f"{self._count(len(undefined))}, without a finite {self.objective.name}: {_named(map(self._name, undefined))}."
            )
        same = "seed and settings" if self.keys else "seed"
        alone: dict[str, list[TableRun]] = {}
        lacking: dict[str, list[TableRun]] = {}
        for run in self.runs:
            others = {name: seeds for name, seeds in self._by_setting[run.setting].items() if name != run.network}
            if run.value is not None and not any(run.seed in seeds for seeds in others.values()):
                alone.setdefault(run.network, []).append(run)
            elif run.network == self.baseline:
                for name in self.networks[1:]:
                    if run.seed not in others.get(name, {}):
                        lacking.setdefault(name, []).append(run)
        for network, runs in alone.items():
            yield (
                f"{self._count(len(runs))} of {network}, for no other network has one with the same {same}: "
                f"{_named(map(self._setting_and_seed, runs))}."
            )
        for network, runs in lacking.items():
            yield (
                f"{network} has no partner for {plural(len(runs), 'run')} of {self.baseline} with the same {same}: "
                f"{_named(map(self._setting_and_seed, runs))}."
            )

    def _count(self, count: int) -> str:
        return f"Left out: {count:,} of {plural(len(self.runs), 'run')}"

    def _name(self, run: TableRun) -> str:
        return f"{run.network} {self._setting_and_seed(run)}"

    def _setting_and_seed(self, run: TableRun) -> str:
        settings = (f"{key} {format_setting(value)}, " for key, value in zip(self.keys, run.setting, strict=True))
        return f"{''.join(settings)}seed {format_setting(run.seed)}"


def first_baseline(networks: Sequence[str]) -> str:
    """The default baseline: the network without batch norm, or else the first."""
    return BASELINE if BASELINE in networks else networks[0]


def _in_order(settings: Iterable[Setting]) -> list[Setting]:
    """Sorted if they can be compared, otherwise in the order given: a sweep may have visited them at random."""
    values = list(settings)
    try:
        return sorted(values)
    except TypeError:
        return values


def _finite(values: Mapping[Hashable, float | None]) -> list[float]:
    return [value for value in values.values() if value is not None]


def _named(names: Iterator[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _NAMED:,} more" if len(every) > _NAMED else ""
    return f"{'; '.join(every[:_NAMED])}{more}"
