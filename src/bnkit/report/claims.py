"""A verdict on every claim: its designs are trained, one after the other, and their records judged together."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnkit.errors import DataError, RecordError, SettingsError
from bnkit.experiments.claims import CLAIMS, Claim, Design, Evidence, Finding, Judged, designs, judge
from bnkit.experiments.claims.claim import PLAIN, WITH
from bnkit.experiments.claims.verdicts import ERROR_RATE, Question
from bnkit.experiments.experiment import experiment_from
from bnkit.experiments.folder import Folder
from bnkit.experiments.observer import Observer
from bnkit.experiments.records import Status
from bnkit.report.claims_page import claims_page
from bnkit.report.compare import run_experiment

if TYPE_CHECKING:
    from bnkit.data import DataSet

FOLDER = Path("results") / "claims"


@dataclass(frozen=True)
class Asked:
    """A claim, what it was judged by, and the verdict.

    Attributes:
        claim: The claim.
        design: What was trained for it, with its budget; None where it was not asked.
        judged: The verdict.
        effects: By seed.
        why: Why it was not asked, or what is missing.
    """

    claim: Claim
    design: Design | None
    judged: Judged
    effects: Mapping[int, float]
    why: str = ""

    @property
    def effect(self) -> str:
        """The mean effect, with its interval."""
        return self.claim.scale.text(self.judged.effect)

    def budget(self, seeds: int) -> str:
        """``80 runs, 12,960 steps, 6,400 images``."""
        if self.design is None:
            return "–"
        runs = self.design.points * len(self.design.arms) * seeds
        return f"{runs} runs, {self.design.steps() * seeds:,} steps, {self.design.images:,} images"


class Verdicts:
    """The verdicts on all claims that were asked.

    Attributes:
        folder: Where the records are.
        asked: The claims, in their order.
        seeds: How many seeds each was asked with.
        command: What repeats it.
        facts: What it was trained with: versions, machine.
        failed: How many runs failed that should not have.
    """

    def __init__(
        self, folder: Path, asked: Sequence[Asked], seeds: int, command: str, facts: Mapping[str, Any], failed: int = 0
    ) -> None:
        self.folder, self.asked, self.seeds, self.command = folder, tuple(asked), seeds, command
        self.facts, self.failed = dict(facts), failed

    def count(self, finding: Finding) -> int:
        """How many claims came out so."""
        return sum(asked.judged.finding is finding for asked in self.asked)

    @property
    def answer(self) -> str:
        """What came of it, in a few sentences."""
        decided = self.count(Finding.HOLDS) + self.count(Finding.DOES_NOT_HOLD)
        not_asked = self.count(Finding.NOT_ASKED)
        return (
            f"Of {len(self.asked) - not_asked} hypotheses {decided} are decided: {self.count(Finding.HOLDS)} hold, "
            f"{self.count(Finding.DOES_NOT_HOLD)} do not; for {self.count(Finding.NOT_ENOUGH_DATA)} there is not enough data"
            f"{f', {not_asked} were not asked' if not_asked else ''}. The chance that any of these verdicts is wrong is "
            f"{100 * ERROR_RATE:g} % (Holm over both questions of every hypothesis); the intervals are 95 %, each by itself."
        )

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The header and a row for each claim, as text."""
        header = ("", "what is said", "hypothesis", "verdict", "effect [95 %]", "n", "budget")
        return header, [
            (
                asked.claim.number,
                f"{asked.claim.statement} ({asked.claim.said_by})",
                asked.claim.hypothesis,
                asked.judged.finding.value + (f": {asked.why}" if asked.why else ""),
                asked.effect,
                str(len(asked.effects)),
                asked.budget(self.seeds),
            )
            for asked in self.asked
        ]

    def to_markdown(self) -> str:
        """The table and the answer, for a document."""

        def line(cells: Sequence[str]) -> str:
            return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"

        header, rows = self.table()
        lines = [line(header), line(["---"] * len(header)), *map(line, rows)]
        return "\n".join([*lines, "", self.answer, "", f"`{self.command}`", ""])

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "command": self.command,
            "folder": str(self.folder),
            "seeds": self.seeds,
            "answer": self.answer,
            "environment": self.facts,
            "claims": [self._plain(asked) for asked in self.asked],
        }

    def _plain(self, asked: Asked) -> dict[str, Any]:
        claim, judged, design = asked.claim, asked.judged, asked.design
        effect = judged.effect
        return {
            "number": claim.number,
            "name": claim.name,
            "statement": claim.statement,
            "said_by": claim.said_by,
            "hypothesis": claim.hypothesis,
            "verdict": judged.finding.value,
            "why": asked.why,
            "scale": claim.scale.value,
            "matters": claim.matters,
            "effects": {str(seed): value for seed, value in asked.effects.items()},
            "mean": effect.mean if effect else None,
            "low": effect.low if effect else None,
            "high": effect.high if effect else None,
            "n": len(asked.effects),
            "p_holds": judged.p_holds,
            "p_does_not_hold": judged.p_does_not,
            "text": asked.effect,
            "design": claim.design,
            "network": design.network if design else None,
            "budget": asked.budget(self.seeds),
        }


def ask(
    data: str = "digits",
    network: str | None = None,
    out: Path = FOLDER,
    *,
    quick: bool = False,
    budget: float = 1.0,
    seeds: int = 5,
    only: Sequence[str] = (),
    fresh: bool = False,
    observer: Observer | None = None,
) -> Verdicts:
    """Train what the claims need, and judge them. What is recorded in ``out`` already is not trained again.

    Args:
        data: As for a comparison; its targets have to be classes.
        network: Puts the same questions to this network in place of the course's.
        out: The folder; each design has a folder of a comparison in it.
        quick: The small designs.
        budget: How many times as many images.
        seeds: How many; below 3 nothing is decided.
        only: Names or numbers of claims; all if empty.
        fresh: Delete what is there.
        observer: Told what happens while it runs.

    Raises:
        BnkitError: Something that was given means nothing here.
    """
    from bnkit.experiments.settle import data_called

    if budget <= 0 or seeds < 1:
        raise SettingsError(f"budget={budget:g}, seeds={seeds}; expected a budget above 0 and at least 1 seed")
    chosen = _chosen(only)
    loaded = data_called(data)
    if loaded.classes is None:
        raise DataError(f"{data} has floating targets; expected classes: the claims are about accuracy")
    options = _options(network)
    planned = {
        name: _for(design, network, options, loaded, budget)
        for name, design in designs(quick=quick).items()
        if any(claim.design == name for claim in chosen)
    }
    evidence: dict[str, Evidence] = {}
    failed = 0
    for name, design in planned.items():
        if isinstance(design, str):
            continue
        experiment = experiment_from(design.content(data, range(seeds)), f"design {name}")
        comparison = run_experiment(
            experiment, out / name, fresh=fresh, observer=observer, data=loaded, write_report=False
        )
        evidence[name] = Evidence(comparison.plan, comparison.records)
        failed += sum(
            record.status is Status.FAILED and "TooFewValuesError" not in record.traceback
            for record in comparison.records.values()
        )
    command = _command(data, network, out, quick=quick, budget=budget, seeds=seeds, only=only)
    verdicts = Verdicts(out, list(_judged(chosen, planned, evidence)), seeds, command, _facts(evidence), failed)
    folder = Folder(out)
    folder.replace(out / "claims.json", json.dumps(verdicts.to_json(), indent=1))
    folder.replace(out / "claims.md", verdicts.to_markdown())
    folder.replace(out / "claims.html", claims_page(verdicts))
    return verdicts


def _chosen(only: Sequence[str]) -> list[Claim]:
    known = {key for claim in CLAIMS for key in (claim.number, claim.name)}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise SettingsError(
            f"no claim is called {unknown[0]!r}; expected one of {', '.join(claim.name for claim in CLAIMS)}"
        )
    return [claim for claim in CLAIMS if not only or claim.name in only or claim.number in only]


def _options(network: str | None) -> frozenset[str]:
    """What the network follows of what a grid can set.

    Raises:
        BnkitError: There is no such network, or it does not come with and without batch norm.
    """
    if network is None:
        return frozenset()
    from bnkit.experiments.networks import sources

    found = sources([network], [PLAIN, WITH])
    missing = {PLAIN, WITH} - found.keys()
    if missing:
        raise SettingsError(
            f"{network} has networks called {', '.join(found)}; expected {PLAIN} and {WITH}, or a factory of one network"
        )
    return frozenset.intersection(*(source.options for source in found.values()))


def _for(design: Design, network: str | None, options: frozenset[str], data: DataSet, budget: float) -> Design | str:
    """The design for this network and these data; or why there is none."""
    found: Design | str = design
    if network is not None and network != design.network:
        found = design.for_network(network, options)
    return found if isinstance(found, str) else found.for_data(len(data.train), len(data.test), budget)


def _judged(
    chosen: Sequence[Claim], planned: Mapping[str, Design | str], evidence: Mapping[str, Evidence]
) -> Iterator[Asked]:
    effects = {
        claim.name: claim.measure(evidence[claim.design]) if claim.design in evidence else {} for claim in chosen
    }
    asked = [claim for claim in chosen if claim.design in evidence]
    questions = [Question(effects[c.name], c.matters, c.resolution, c.nothing) for c in asked]
    verdicts = dict(zip((claim.name for claim in asked), judge(questions), strict=True))
    for claim in chosen:
        design = planned[claim.design]
        if isinstance(design, str):
            yield Asked(claim, None, Judged(Finding.NOT_ASKED, None), {}, design)
        else:
            yield Asked(claim, design, verdicts[claim.name], effects[claim.name])


def _facts(evidence: Mapping[str, Evidence]) -> dict[str, Any]:
    """The machine and the versions of the last run."""
    records = [record for found in evidence.values() for record in found.records.values() if record.environment]
    return records[-1].environment if records else {}


def _command(data: str, network: str | None, out: Path, **settings: Any) -> str:
    words = ["bnkit", "claims"]
    if settings["quick"]:
        words.append("--quick")
    if data != "digits":
        words += ["--data", data]
    if network is not None:
        words += ["--network", network]
    if settings["budget"] != 1.0:
        words += ["--budget", f"{settings['budget']:g}"]
    if settings["seeds"] != 5:
        words += ["--seeds", str(settings["seeds"])]
    for name in settings["only"]:
        words += ["--only", name]
    if out != FOLDER:
        words += ["--out", str(out)]
    return shlex.join(words)


def read(out: Path) -> dict[str, Any]:
    """What ``ask`` wrote into ``out``.

    Raises:
        RecordError: There is nothing, or it cannot be read.
    """
    path = out / "claims.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read; expected a folder that bnkit claims wrote") from error
    return content
