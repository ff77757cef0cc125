"""How far an experiment has got whose seeds are added until it is decided. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from bnkit.experiments.plan import Run
from bnkit.experiments.stopping import ContrastLooks, StoppingRule
from bnkit.messages import plural


@dataclass(frozen=True)
class SeedGrowth:
    """How far the rule of an experiment has got: a function of the plan and the records alone.

    Attributes:
        rule: The rule.
        rounds: The runs that it asked for, round by round; the last one has not ended where ``reason`` is empty.
        contrasts: Every network against another, under every setting.
        reason: Why no more seeds are added: "decided", "max_seeds", "budget", or "hopeless": more would not decide what is open.
            Empty if some are.
        most: How many runs there may be at most.
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
        """The same without the round that is not begun."""
        return replace(self, rounds=self.rounds[:-1], reason="budget")

    def of(self, baseline: str, network: str, setting: Mapping[str, object]) -> ContrastLooks | None:
        """What is known of one contrast."""
        return next(
            (
                known
                for known in self.contrasts
                if (known.baseline, known.network, known.setting) == (baseline, network, setting)
            ),
            None,
        )

    def chosen_rate(self, network: str, setting: Mapping[str, object]) -> float | None:
        """The learning rate that ``network`` was left with under ``setting``; None before it was chosen."""
        for known in self.contrasts:
            if known.setting == setting and network in (known.baseline, known.network):
                return known.baseline_lr if network == known.baseline else known.network_lr
        return None

    def sentences(self) -> Iterator[str]:
        """What was trained by the rule, and why no more was."""
        trained = f"{plural(len(self.runs), 'run')} of at most {self.most:,}"
        yield f"Seeds were added until there was a verdict: {trained} were asked for."
        if self.reason == "budget" and self.rule.budget is not None:
            yield f"The budget of {self.rule.budget:g} s ended before all was decided; the same call goes on from there."
        if self.reason == "max_seeds":
            yield f"All {self.rule.max_seeds} seeds are trained, and not all is decided."
