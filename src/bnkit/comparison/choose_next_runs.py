"""Decides which runs an experiment needs next when it adds seeds until it is decided. Needs no torch.

The decision is a function of the plan and the records, replayed from the first round, so that every call finds the same.

Round by round:

1. Every network is trained at every learning rate, with the first seed. Each round adds a seed and drops, of each network under
   each setting, the rates that are worse by validation: those whose gap to the best is more validation answers than chance explains.
   Where that is not known (another metric), it drops the worse half (successive halving, Jamieson & Talwalkar 2016). After the
   third seed, the rate with the best mean is chosen. The choice is final: later seeds do not change it, and the test set has no
   part in it.
2. Pairs of seeds are added at those rates. After each round there is a look at every open contrast; a decided contrast stays
   decided, and asks for no more runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Record, Status
from bnkit.experiments.until_settings import ContrastLooks, Look, StoppingRule
from bnkit.intervals.interval import CONFIDENCE, FEWEST, Conclusion
from bnkit.intervals.proportions import difference_half_width
from bnkit.intervals.sequential import interval_after_looks
from bnkit.report.added_seeds import SeedGrowth
from bnkit.report.contrasts.compare_networks import pairs_of_networks
from bnkit.report.contrasts.decision_outlook import decision_outlook, is_limited_by_examples
from bnkit.report.contrasts.diverged_runs import SEEDS_TO_CONTRADICT, Divergence, divergence
from bnkit.report.contrasts.paired_differences import PairedDifferences, difference_in_test
from bnkit.report.contrasts.repeated_looks import every_pair
from bnkit.report.objective_metric import Objective
from bnkit.report.run_outcomes import RunOutcome, fewest, matches, settings_of

# The factor by which the number of seeds grows each round, once the rates are chosen.
_GROWTH = 1.25
# The confidence of the interval of a validation difference, which has to exclude 0 to drop a rate. Between 80 % and 90 %, the costs
# of four recorded settings differ by less than a twentieth; 68 % drops rates that would be chosen, and costs verdicts.
_DOUBT = 0.85
# The number of seeds after which a contrast may be given up as hopeless.
_SEEDS_TO_GIVE_UP = 6


def seed_growth(plan: Plan, record_of: Callable[[Run], Record]) -> SeedGrowth:
    """The progress of the rule of ``plan``.

    Args:
        plan: All possible runs of an experiment with ``until``.
        record_of: Returns the record of a run; an empty record if it has to be trained (again).
    """
    rule = plan.experiment.until
    assert rule is not None  # by contract: the experiment has ``until``
    replay = _Replay(plan, rule, record_of)
    reason = ""
    while not reason and replay.next_round():
        reason = replay.look()
    return SeedGrowth(rule, tuple(replay.rounds), tuple(replay.contrasts.values()), reason, most_runs(plan))


def first_round(plan: Plan) -> Plan:
    """The runs that the rule of ``plan`` begins with; all of a plan without one."""
    if plan.experiment.until is None:
        return plan
    return Plan(plan.experiment, seed_growth(plan, lambda _: Record()).runs)


def rule_in_words(plan: Plan) -> str:
    """A description of the rounds after the first."""
    rule = plan.experiment.until
    assert rule is not None  # by contract: the plan's experiment has ``until``
    objective = Objective.of(plan.task)
    margin = rule.largest_trifle(is_accuracy=objective.is_accuracy)
    trifle = f", or less than {objective.size(margin)} apart" if margin else ""
    rates = "drops the learning rates that are worse by validation, and then " if _varies(plan) else ""
    ends = f"{rule.max_seeds} seeds" if rule.budget is None else f"{rule.max_seeds} seeds or {rule.budget:g} s"
    return (
        f"That is the first round. Each round after it {rates}adds seeds, until every network is better or worse than the other"
        f"{trifle}, or {ends} end. All {rule.max_seeds} seeds are {most_runs(plan):,} runs."
    )


def most_runs(plan: Plan) -> int:
    """The largest number of runs: every rate until the best is chosen, then that rate with the remaining seeds."""
    first, with_all_rates = plan.runs[0].seed, plan.seeds[: max(FEWEST, len(plan.experiment.seeds))]
    points = [run for run in plan if run.seed == first]
    lr = points[0].settings.lr
    sweeps = {(run.network.key, run.settings.model_copy(update={"lr": lr})) for run in points}
    return len(points) * len(with_all_rates) + len(sweeps) * (len(plan.seeds) - len(with_all_rates))


def _varies(plan: Plan) -> bool:
    return len({run.settings.lr for run in plan}) > 1


@dataclass
class _RateSearch:
    """The runs of one network under one setting, and the rates that are not dropped yet."""

    network: str
    setting: Mapping[str, object]
    runs: Mapping[tuple[float, int], Run]
    rates: list[float]

    @property
    def lr(self) -> float | None:
        """The chosen rate; None before the choice."""
        return self.rates[0] if len(self.rates) == 1 else None


@dataclass
class _Replay:
    """The rule, applied round by round to the records."""

    plan: Plan
    rule: StoppingRule
    record_of: Callable[[Run], Record]
    rounds: list[tuple[Run, ...]] = field(default_factory=list)
    contrasts: dict[tuple[object, ...], ContrastLooks] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._objective = Objective.of(self.plan.task)
        self._seeds, self._first = self.plan.seeds, len(self.plan.experiment.seeds)
        self._count, self._has_looked = 0, False
        self._asked: set[str] = set()
        self._sweeps: dict[tuple[object, ...], _RateSearch] = {}
        for setting in settings_of(self.plan):
            here = [run for run in self.plan if matches(run.settings, setting)]
            for network in dict.fromkeys(run.network.key for run in here):
                runs = {(run.settings.lr, run.seed): run for run in here if run.network.key == network}
                rates = list(dict.fromkeys(lr for lr, _ in runs))
                self._sweeps[network, *setting.items()] = _RateSearch(network, setting, runs, rates)
        for pairs in pairs_of_networks(self.plan.networks):
            for setting in settings_of(self.plan):
                confidence = 1 - (1 - CONFIDENCE) / len(pairs)  # Bonferroni over the pairs
                for baseline, network in pairs:
                    contrast = ContrastLooks(baseline, network, setting, confidence=confidence)
                    self.contrasts[contrast.key] = contrast

    def next_round(self) -> bool:
        """Ask for the runs of the next round; False if some of them have not ended."""
        if self._is_choosing and self._count:
            self._drop_rates()
        self._count = self._next_count()
        asked = {}
        for sweep in self._wanted():
            for seed in self._seeds[: self._count]:
                for lr in sweep.rates:
                    run = sweep.runs[lr, seed]
                    if run.run_id not in self._asked:
                        asked[run.run_id] = run
        self._asked |= asked.keys()
        self.rounds.append(tuple(sorted(asked.values(), key=lambda run: run.number)))
        return all(self._has_ended(run) for run in asked.values())

    def look(self) -> str:
        """Look at every open contrast, once the rates are chosen. Returns why no more seeds are added; empty if they are."""
        if self._is_choosing:
            return ""
        self._has_looked = True
        for key, contrast in self.contrasts.items():
            if contrast.is_open:
                self.contrasts[key] = self._looked_at(contrast)
        if not any(contrast.is_open for contrast in self.contrasts.values()):
            return "decided" if all(contrast.is_decided for contrast in self.contrasts.values()) else "hopeless"
        return "max_seeds" if self._count == len(self._seeds) else ""

    @property
    def _is_choosing(self) -> bool:
        """Whether some network still has several rates."""
        return any(sweep.lr is None for sweep in self._sweeps.values())

    def _next_count(self) -> int:
        """The total number of seeds in the next round."""
        if self._is_choosing:
            count = self._count + 1 if self._count else self._first
        elif not self._has_looked:
            count = max(FEWEST, self._first, self._count)
        else:
            count = max(self._count + 1, math.floor(self._count * _GROWTH))
        return min(count, len(self._seeds))

    def _drop_rates(self) -> None:
        """Drop the rates of each network that are not among the best; finally all but one."""
        is_last = self._count >= min(FEWEST, len(self._seeds))
        for sweep in self._sweeps.values():
            ranks = {lr: self._rank(sweep, lr) for lr in sweep.rates}
            best, *others = sorted(ranks, key=ranks.__getitem__)
            half = (len(others) + 2) // 2 - 1
            kept = (lr for index, lr in enumerate(others) if self._may_be_as_good(sweep, best, lr, index < half))
            sweep.rates = [best] if is_last else [best, *kept]

    def _rank(self, sweep: _RateSearch, lr: float) -> tuple[float, float, float]:
        """A sort key, lower is better: more finished runs, then the mean on the validation part, then the loss there."""
        ended = self._finished(sweep, lr).values()
        known = [value for outcome in ended if (value := outcome.validation) is not None]
        losses = [loss for outcome in ended if outcome.final and (loss := outcome.final.validation_loss) is not None]
        return (
            -len(ended),
            self._objective.order(fmean(known) if known else None),
            fmean(losses) if losses else math.inf,
        )

    def _may_be_as_good(self, sweep: _RateSearch, best: float, lr: float, if_not_known: bool) -> bool:
        """Whether two rates differ by so few validation answers that it may be chance; for other metrics, that is not known."""
        first, second = self._finished(sweep, best), self._finished(sweep, lr)
        if len(first) != len(second):
            return False
        ends = [(a.validation, b.validation) for a, b in zip(first.values(), second.values(), strict=True)]
        known = [a - b for a, b in ends if a is not None and b is not None]
        answers = fewest(outcome.validation_answers for outcome in first.values())
        if not self._objective.is_accuracy or not known or answers is None:
            return if_not_known
        gap = abs(fmean(known))
        return gap <= difference_half_width(gap, answers, _DOUBT)

    def _wanted(self) -> Sequence[_RateSearch]:
        """The sweeps that an open contrast needs."""
        wanted = {}
        for contrast in self.contrasts.values():
            if contrast.is_open:
                for sweep in self._both(contrast):
                    wanted[id(sweep)] = sweep
        return list(wanted.values())

    def _both(self, contrast: ContrastLooks) -> tuple[_RateSearch, _RateSearch]:
        where = contrast.setting.items()
        return self._sweeps[contrast.baseline, *where], self._sweeps[contrast.network, *where]

    def _has_ended(self, run: Run) -> bool:
        record = self.record_of(run)
        return record.is_complete or record.status is Status.FAILED

    def _outcomes(self, sweep: _RateSearch, lr: float) -> dict[int, RunOutcome]:
        """The runs of the seeds so far, by seed."""
        examples = self.plan.experiment.test_examples
        return {
            seed: RunOutcome(run, self.record_of(run), examples)
            for seed in self._seeds[: self._count]
            if (run := sweep.runs[lr, seed]).run_id in self._asked
        }

    def _finished(self, sweep: _RateSearch, lr: float) -> dict[int, RunOutcome]:
        """The finished runs of the seeds so far, by seed."""
        return {seed: outcome for seed, outcome in self._outcomes(sweep, lr).items() if outcome.final is not None}

    def _looked_at(self, contrast: ContrastLooks) -> ContrastLooks:
        without, with_ = self._both(contrast)
        first, second = self._outcomes(without, without.rates[0]), self._outcomes(with_, with_.rates[0])
        every = [(first[seed], second[seed]) for seed in first if seed in second]
        pairs = [(a, b) for a, b in every if a.final is not None and b.final is not None]
        known = replace(contrast, baseline_lr=without.lr, network_lr=with_.lr)
        if not pairs or (self._count >= _SEEDS_TO_GIVE_UP and 2 * len(pairs) < self._count):
            return replace(known, hopeless="runs")
        before = 0 if known.last is None else known.last.pairs
        differences = difference_in_test(pairs)
        if differences is None or len(pairs) < FEWEST or len(pairs) == before:
            return known
        return self._with_look(known, differences, divergence(every))

    def _with_look(
        self, contrast: ContrastLooks, differences: PairedDifferences, diverged: Divergence | None
    ) -> ContrastLooks:
        margin = self.rule.largest_trifle(is_accuracy=self._objective.is_accuracy)
        counts = every_pair(len(differences.values))
        interval = interval_after_looks(differences.decisive, counts, contrast.confidence)
        assert interval is not None  # there are pairs
        conclusion = verdict = self._objective.conclude(interval, margin)
        if diverged is not None and not diverged.agrees_with(conclusion, self._objective, margin):
            verdict = Conclusion.UNKNOWN
        is_for_new = differences.examples is not None
        look = Look(interval.n, interval.mean, interval.low, interval.high, verdict.value, is_for_new)
        is_contradicted, may_give_up = verdict is not conclusion, interval.n >= _SEEDS_TO_GIVE_UP
        known = replace(
            contrast,
            looks=(*contrast.looks, look),
            needed=None,
            examples_needed=None,
            is_contradicted=is_contradicted,
        )
        if conclusion is not Conclusion.UNKNOWN:
            lasts = is_contradicted and self._count >= SEEDS_TO_CONTRADICT
            return replace(known, hopeless="diverged" if lasts else "")
        outlook = decision_outlook(differences, counts, margin, contrast.confidence)
        if outlook is None:
            return known
        is_limited = may_give_up and is_limited_by_examples(differences, margin, contrast.confidence)
        return replace(
            known,
            needed=outlook.pairs,
            examples_needed=outlook.examples if outlook.pairs is None else None,
            hopeless="examples" if outlook.pairs is None and is_limited else "",
        )
