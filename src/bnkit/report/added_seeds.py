"""The progress of an experiment that adds seeds until its comparisons are decided. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from bnkit.experiments.plan import Run
from bnkit.experiments.until_settings import ContrastLooks, StoppingRule
from bnkit.message_parts import plural


@dataclass(frozen=True)
class SeedGrowth:
    """The progress of the rule that adds seeds: a function of the plan and the records alone.

    Attributes:
        rule: The rule.
        rounds: The runs that it asked for, round by round; while ``reason`` is empty, the last round is in progress.
        contrasts: Every pair of networks under every setting.
        reason: Why no more seeds are added: "decided", "max_seeds", "budget", or "hopeless" (more seeds would not decide the
            open comparisons). Empty while seeds are added.
        most: The upper limit of the number of runs.
    """

    rule: StoppingRule
    rounds: tuple[tuple[Run, ...], ...]
    contrasts: tuple[ContrastLooks, ...]
    reason: str
    most: int

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs that the rule asked for, numbered in that order."""
        every = (run for asked in self.rounds for run in asked)
        return tuple(replace(run, number=number) for number, run in enumerate(every, start=1))

    def stopped_by_budget(self) -> SeedGrowth:
        """A copy without the last round, which the budget did not allow to begin."""
        return replace(self, rounds=self.rounds[:-1], reason="budget")

    def of(self, baseline: str, network: str, setting: Mapping[str, object]) -> ContrastLooks | None:
        """The looks at one contrast; None if it has none."""
        return next(
            (
                known
                for known in self.contrasts
                if (known.baseline, known.network, known.setting) == (baseline, network, setting)
            ),
            None,
        )

    def chosen_rate(self, network: str, setting: Mapping[str, object]) -> float | None:
        """The learning rate that was chosen for ``network`` under ``setting``; None before the choice."""
        for known in self.contrasts:
            if known.setting == setting and network in (known.baseline, known.network):
                return known.baseline_lr if network == known.baseline else known.network_lr
        return None

    def sentences(self) -> Iterator[str]:
        """How many runs the rule asked for, which interval it looks at, and why it stopped."""
        asked = f"{plural(len(self.runs), 'run')} {'was' if len(self.runs) == 1 else 'were'} asked for"
        yield (
            f"Seeds were added until there was a verdict: {asked}, of the {self.most:,} that {self.rule.max_seeds} seeds take. "
            "The verdict is by the interval for new test examples; where that is not known, by the one for these."
        )
        if self.reason == "budget" and self.rule.budget is not None:
            yield f"The budget of {self.rule.budget:g} s ended before every comparison was decided; the same call resumes there."
        if self.reason == "max_seeds":
            yield f"All {self.rule.max_seeds} seeds are trained, and some comparisons are still open."
