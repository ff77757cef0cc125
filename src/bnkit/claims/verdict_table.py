"""The verdicts on many claims: as a table, as plain values, in a few sentences. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnkit.claims import Claim, Decision, Design, Verdict
from bnkit.claims.judge_hypotheses import ERROR_RATE
from bnkit.message_parts import plural
from bnkit.text_table import Column, Table


@dataclass(frozen=True)
class ClaimResult:
    """A claim, its data, and the verdict.

    Attributes:
        claim: The claim.
        design: The design that was trained for it, with its budget; None if the claim was not tested.
        verdict: The verdict.
        effects: The effects by seed.
        why: Why it was not tested, or what is missing for a verdict.
        looks: The number of seeds at each look; empty if the verdict is based on the seeds of the whole table.
    """

    claim: Claim
    design: Design | None
    verdict: Verdict
    effects: Mapping[int, float]
    why: str = ""
    looks: tuple[int, ...] = ()

    @property
    def effect(self) -> str:
        """The mean effect, with its interval."""
        return self.claim.scale.text(self.verdict.effect)

    def budget(self, seeds: int) -> str:
        """``80 runs, 12,960 steps, 6,400 images``."""
        seeds = self.looks[-1] if self.looks else seeds
        if self.design is None or seeds == 0:
            return "–"
        runs = self.design.points * len(self.design.arms) * seeds
        return ", ".join(
            (plural(runs, "run"), plural(self.design.steps() * seeds, "step"), plural(self.design.images, "image"))
        )


class Verdicts:
    """The verdicts on all claims that were asked for.

    Attributes:
        folder: The folder with the records.
        results: The results of the claims, in order.
        seeds: The number of seeds of each.
        command: The command that repeats it.
        environment: The versions and the machine that it was trained with.
        failed: The number of runs that failed unexpectedly.
        is_sequential: Whether seeds were added until there was a verdict.
        loads: For each design, the load average at the start of each run whose duration was measured.
    """

    def __init__(
        self,
        folder: Path,
        results: Sequence[ClaimResult],
        seeds: int,
        command: str,
        environment: Mapping[str, Any],
        failed: int = 0,
        *,
        is_sequential: bool = False,
        loads: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.folder, self.results, self.seeds, self.command = folder, tuple(results), seeds, command
        self.environment, self.failed, self.is_sequential = dict(environment), failed, is_sequential
        self.loads = {name: list(known) for name, known in (loads or {}).items() if known}

    def count(self, decision: Decision) -> int:
        """The number of claims with this verdict."""
        return sum(result.verdict.decision is decision for result in self.results)

    @property
    def answer(self) -> str:
        """The result in a few sentences."""
        holds, does_not, not_asked = map(self.count, (Decision.HOLDS, Decision.DOES_NOT_HOLD, Decision.NOT_ASKED))
        decided = holds + does_not
        left_out = f", {not_asked} {'was' if not_asked == 1 else 'were'} not asked" if not_asked else ""
        return (
            f"Of {len(self.results) - not_asked} hypotheses {decided} {'is' if decided == 1 else 'are'} decided: {holds} "
            f"{'holds' if holds == 1 else 'hold'}, {does_not} {'does' if does_not == 1 else 'do'} not; "
            f"for {self.count(Decision.NOT_ENOUGH_DATA)} there is not enough data{left_out}. "
            f"The chance that any of these verdicts is wrong is at most {100 * ERROR_RATE:g} % (Holm over both questions of every "
            f"hypothesis{self._looks}); the intervals are 95 %, each by itself."
        )

    @property
    def _looks(self) -> str:
        """The addition that the verdicts allow for several looks."""
        counts = [result.looks for result in self.results if result.looks]
        if self.is_sequential and counts:
            last = [looks[-1] for looks in counts]
            seeds = f"{min(last)} to {max(last)}" if min(last) < max(last) else f"{max(last)}"
            return f", at every look: seeds were added where a verdict was open, and {seeds} were taken"
        every = max(counts, key=len, default=())
        if len(every) < 2:
            return ""
        return f", at every look: after {', '.join(map(str, every[:-1]))} and {every[-1]} seeds"

    def table(self) -> Table:
        """A row for each claim."""
        return table_of([self._plain(result) for result in self.results])

    def _budget(self, result: ClaimResult) -> str:
        """The budget of a design; if seeds are added, it may not have been trained yet."""
        return result.budget(0 if self.is_sequential else self.seeds)

    def to_markdown(self) -> str:
        """The table and the answer, for a document."""
        return "\n".join([self.table().to_markdown(), "", self.answer, "", f"`{self.command}`", ""])

    def to_json(self) -> dict[str, Any]:
        """The verdicts as plain values."""
        return {
            "command": self.command,
            "folder": str(self.folder),
            "seeds": self.seeds,
            "answer": self.answer,
            "loads": self.loads,
            "environment": self.environment,
            "claims": [self._plain(result) for result in self.results],
        }

    def _plain(self, result: ClaimResult) -> dict[str, Any]:
        claim, verdict, design = result.claim, result.verdict, result.design
        effect = verdict.effect
        return {
            "number": claim.number,
            "name": claim.name,
            "statement": claim.statement,
            "said_by": claim.said_by,
            "hypothesis": claim.hypothesis,
            "verdict": verdict.decision.value,
            "why": result.why,
            "scale": claim.scale.value,
            "matters": claim.matters,
            "nothing": claim.nothing,
            "effects": {str(seed): value for seed, value in result.effects.items()},
            "mean": effect.mean if effect else None,
            "low": effect.low if effect else None,
            "high": effect.high if effect else None,
            "n": len(result.effects),
            "p_holds": verdict.p_holds,
            "p_does_not_hold": verdict.p_does_not,
            "text": result.effect,
            "design": claim.design,
            "network": design.network if design else None,
            "budget": self._budget(result),
            "looks": list(result.looks),
        }


def table_of(claims: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each of ``claims``, as ``Verdicts.to_json`` and ``claims.json`` hold them."""
    columns = (
        *("", Column.of_sentences("claim"), Column.of_sentences("hypothesis")),
        *(Column("verdict", wraps=True), "effect [95 %]", Column("n", 2), Column("budget", 3)),
    )
    rows = [
        (
            claim["number"],
            f"{claim['statement']} ({claim['said_by']})",
            claim["hypothesis"],
            f"{claim['verdict']}: {claim['why']}" if claim["why"] else claim["verdict"],
            claim["text"],
            str(claim["n"]),
            claim["budget"],
        )
        for claim in claims
    ]
    return Table(columns, rows)
