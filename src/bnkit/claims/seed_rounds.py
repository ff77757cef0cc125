"""Adds seeds to designs with open claims, round by round, until all are decided or the time is up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bnkit.claims.accuracy_effect import AccuracyEffect
from bnkit.claims.claim import Claim, Evidence, Scale
from bnkit.claims.judge_hypotheses import ERROR_RATE, Decision, HypothesisTest, Sample, Verdict, judge
from bnkit.claims.seeds_needed import Outlook, outlook
from bnkit.claims.sooner_at_loss import SoonerAtLoss
from bnkit.claims.train_designs import TrainedDesigns
from bnkit.intervals.interval import FEWEST
from bnkit.message_parts import plural
from bnkit.report.contrasts.diverged_runs import SEEDS_TO_CONTRADICT, Divergence

MAX_SEEDS = 50
_GROWTH = 1.25


@dataclass(frozen=True)
class ClaimVerdict:
    """A tested claim with its verdict.

    Attributes:
        claim: The claim.
        effects: The effects by seed.
        verdict: The verdict.
        looks: The number of seeds of its design at each look.
        outlook: The cost of deciding it, if seeds are added and it is open.
        diverged: What diverged.
    """

    claim: Claim
    effects: Mapping[int, float]
    verdict: Verdict
    looks: tuple[int, ...]
    outlook: Outlook | None = None
    diverged: Divergence | None = None

    @property
    def is_open(self) -> bool:
        """Whether more seeds may decide it."""
        is_hopeless = self.outlook is not None and self.outlook.is_hopeless
        if self.verdict.contradicted is not None:
            is_hopeless = self.looks[-1] >= SEEDS_TO_CONTRADICT
        return self.verdict.decision is Decision.NOT_ENOUGH_DATA and not is_hopeless

    @property
    def why(self) -> str:
        """What is missing for a verdict; empty if nothing is, or if it is not known."""
        if self.verdict.contradicted is not None and self.diverged is not None:
            return self._contradiction(self.verdict.contradicted, self.diverged)
        return "" if self.outlook is None else str(self.outlook)

    def _contradiction(self, decision: Decision, diverged: Divergence) -> str:
        """Why the runs that diverged leave no verdict."""
        assert diverged.mean is not None  # by ``HypothesisTest.contradicts``
        lost, scale = diverged.seeds - len(self.effects), self.claim.scale
        return (
            f"it {decision} for the seeds whose runs finished, but in {lost} of {plural(diverged.seeds, 'seed')} runs diverged; "
            f"if these count, the mean effect is {scale.number(diverged.mean)}{scale.unit}"
        )


def next_count(seeds: int) -> int:
    """The number of seeds of a design in its next round: a quarter more, because rarer looks delay a verdict only little.

    Examples:
        >>> counts = [0]
        >>> while counts[-1] < 20: counts.append(next_count(counts[-1]))
        >>> counts[1:]
        [3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22]
    """
    return max(FEWEST, seeds + 1, math.floor(_GROWTH * seeds))


def rounds_until(seeds: int) -> tuple[int, ...]:
    """The number of seeds of a design in each round, up to the round that reached ``seeds``."""
    counts = [0]
    while counts[-1] < seeds:
        counts.append(min(next_count(counts[-1]), seeds))
    return tuple(counts[1:])


def _round_before(seeds: int, most: int) -> int:
    """The number of seeds in the last complete round, if ``seeds`` are recorded."""
    counts = [0]
    while (count := min(next_count(counts[-1]), most)) <= seeds and count > counts[-1]:
        counts.append(count)
    return counts[-1]


def judge_once(
    claims: Sequence[Claim], training: TrainedDesigns, earlier: Mapping[str, tuple[int, ...]]
) -> tuple[ClaimVerdict, ...]:
    """Judge claims whose seeds were fixed in advance.

    Args:
        claims: The claims whose designs were trained.
        training: The runs.
        earlier: For a claim's name, the number of seeds at each earlier look, for which its verdict then allows.
    """
    tests, looks = [], []
    for claim in claims:
        counts = tuple(earlier.get(claim.name, ()))
        tests.append(_test(claim, training.evidence[claim.design], counts or None))
        looks.append((*counts, training.seeds(claim.design)))
    return tuple(
        ClaimVerdict(claim, test.effects, verdict, counts, diverged=test.diverged)
        for claim, test, verdict, counts in zip(claims, tests, judge(tests), looks, strict=True)
    )


def judge_round(claims: Sequence[Claim], training: TrainedDesigns) -> tuple[ClaimVerdict, ...]:
    """Judge claims whose seeds are added round by round.

    A function of the records alone, so that a resumed call finds the same verdicts.
    """
    counts = [rounds_until(training.seeds(claim.design)) for claim in claims]
    tests = [
        _test(claim, training.evidence.get(claim.design), before[:-1])
        for claim, before in zip(claims, counts, strict=True)
    ]
    verdicts = judge(tests)
    questions = sum(p is None or p > ERROR_RATE for verdict in verdicts for p in (verdict.p_holds, verdict.p_does_not))
    judgements = []
    for claim, test, verdict, looks in zip(claims, tests, verdicts, counts, strict=True):
        ahead = None
        if verdict.decision is Decision.NOT_ENOUGH_DATA and verdict.contradicted is None:
            seeds = training.seeds(claim.design)
            ahead = outlook(test, questions, seeds, training.seconds_per_seed(claim.design))
        judgements.append(ClaimVerdict(claim, test.effects, verdict, looks, ahead, test.diverged))
    return tuple(judgements)


def decide(
    claims: Sequence[Claim],
    training: TrainedDesigns,
    *,
    seconds: float | None,
    max_seeds: int,
    judged: Callable[[tuple[ClaimVerdict, ...]], object],
) -> tuple[ClaimVerdict, ...]:
    """Train designs with open claims, nearest to a verdict first, until no claim is open.

    Args:
        claims: The claims that can be tested.
        training: Trains their designs.
        seconds: The time limit: a round that would end after it is not begun; None for no limit. Recorded runs are used even if
            no time is left.
        max_seeds: The largest number of seeds of a design.
        judged: Called after every round.
    """
    end = math.inf if seconds is None else time.monotonic() + seconds
    judgements = judge_round(claims, training)
    while True:
        name = _next_design(judgements, training, max_seeds, end - time.monotonic())
        if name is None:
            return judgements
        alone = training.designs[name].is_timed or any(
            known.is_open and known.claim.asks_duration for known in judgements if known.claim.design == name
        )
        seeds = training.seeds(name)
        recorded = 0 if seeds else _round_before(training.recorded(name), max_seeds)
        training.train(name, recorded or min(next_count(seeds), max_seeds), alone=alone)
        judgements = judge_round(claims, training)
        judged(judgements)


def _next_design(
    judgements: Sequence[ClaimVerdict], training: TrainedDesigns, max_seeds: int, left: float
) -> str | None:
    """The design nearest to a verdict, among those with an open claim whose next round ends in time.

    For a design without seeds, the time of its first round counts, at the pace of the designs trained so far.
    """
    nearest: dict[str, tuple[float, int]] = {}
    for known in judgements:
        name, seeds = known.claim.design, training.seeds(known.claim.design)
        steps = training.designs[name].steps()
        seconds = training.seconds_per_seed(name) if seeds else training.seconds_per_step * steps
        round_takes = (min(next_count(seeds), max_seeds) - seeds) * seconds
        in_time = round_takes < left or (not seeds and _round_before(training.recorded(name), max_seeds) > 0)
        if known.is_open and seeds < max_seeds and in_time:
            ahead = known.outlook.seconds if known.outlook is not None and seeds else round_takes
            nearest[name] = min(nearest.get(name, (math.inf, 0)), (ahead, steps))
    return min(nearest, key=nearest.__getitem__) if nearest else None


def _test(claim: Claim, evidence: Evidence | None, earlier: tuple[int, ...] | None) -> HypothesisTest:
    if evidence is None:
        return HypothesisTest({}, claim.matters, claim.resolution, claim.nothing, looks=())
    looks = None
    if earlier is not None:
        before = (count for count in earlier if count < len(evidence.seeds))
        looks = tuple(_sample(claim, Evidence(evidence.results, count)) for count in before)
    now = _sample(claim, evidence)
    counts = (AccuracyEffect, SoonerAtLoss)  # the effects that leave out seeds with a run that diverged
    diverged = claim.effect_of.diverged(evidence) if isinstance(claim.effect_of, counts) else None
    return HypothesisTest(
        now.effects, claim.matters, claim.resolution, claim.nothing, now.answers, looks, now.examples, diverged
    )


def _sample(claim: Claim, evidence: Evidence) -> Sample:
    # Only points of accuracy are limited by the number of test answers.
    answers = evidence.answers if claim.scale is Scale.POINTS else None
    examples = claim.effect_of.spread(evidence) if isinstance(claim.effect_of, AccuracyEffect) else None
    return Sample(claim.effect_of(evidence), answers, examples)
