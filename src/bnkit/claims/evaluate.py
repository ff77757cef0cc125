"""A verdict on every claim: its designs are trained, one after the other, and their records judged together."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnkit.claims import CLAIMS, Claim, Decision, Design, Evidence, Verdict, designs, folder, judge
from bnkit.claims.claim import PLAIN, WITH, Scale
from bnkit.claims.judge import HypothesisTest
from bnkit.claims.verdicts import ClaimResult, Verdicts
from bnkit.comparison.compare import run_experiment
from bnkit.comparison.progress import shown_progress
from bnkit.errors import DataError, SettingsError
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.experiment import parse_experiment
from bnkit.experiments.records.record import Status
from bnkit.experiments.running.request import LaunchOptions
from bnkit.messages import unknown_name

if TYPE_CHECKING:
    from bnkit.data import DataSet

FOLDER = Path("results") / "claims"


def evaluate_claims(
    data: str = "digits",
    network: str | None = None,
    out: Path = FOLDER,
    *,
    quick: bool = False,
    budget: float = 1.0,
    seeds: int = 5,
    only: Sequence[str] = (),
    workers: int | str | None = None,
    fresh: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    observer: Callback | None = None,
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
        workers: As for a comparison: figures do not depend on how many there are, but for durations. Where a design asks for
            durations alone, its runs are trained one after the other.
        fresh: Delete what is there.
        callbacks: Each handles what happens while runs train.
        progress: Show progress on standard error; None shows it on a terminal and in a notebook.
        observer: One more callback.

    Raises:
        BnkitError: Something that was given means nothing here.
    """
    from bnkit.data.custom import load_data

    LaunchOptions(workers)
    out = out.expanduser()
    if budget <= 0 or seeds < 1:
        raise SettingsError(f"budget={budget:g}, seeds={seeds}; expected a budget above 0 and at least 1 seed")
    selected = _select_claims(only)
    loaded = load_data(data)
    if loaded.classes is None:
        raise DataError(f"{data} has floating targets; expected classes: the claims are about accuracy")
    options = _options(network)
    planned = {
        name: _fit_design(design, network, options, loaded, budget)
        for name, design in designs(quick=quick).items()
        if any(claim.design == name for claim in selected)
    }
    folder.refuse_foreign(out, [name for name, design in planned.items() if isinstance(design, Design)])
    evidence: dict[str, Evidence] = {}
    failed = 0
    with shown_progress(progress) as display:
        for name, design in planned.items():
            if isinstance(design, str):
                continue
            experiment = parse_experiment(design.content(data, range(seeds)), f"design {name}")
            comparison = run_experiment(
                experiment,
                out / name,
                fresh=fresh,
                workers=None if design.is_timed else workers,
                callbacks=[display, *callbacks],
                observer=observer,
                data=loaded,
                write_report=False,
                try_training=False,  # that some are refused is what a claim asks
            )
            own = comparison.own_results  # the answer is about the seeds that were asked for
            evidence[name] = Evidence(own)
            failed += sum(
                record.status is Status.FAILED and "TooFewValuesError" not in record.traceback
                for record in own.records.values()
            )
    command = _command(data, network, out, quick=quick, budget=budget, seeds=seeds, only=only)
    verdicts = Verdicts(
        out, list(_claim_results(selected, planned, evidence)), seeds, command, _environment(evidence), failed
    )
    folder.write(out, verdicts.to_json(), verdicts.to_markdown())
    folder.write_page(out)
    return verdicts


def _select_claims(only: Sequence[str]) -> list[Claim]:
    known = {key for claim in CLAIMS for key in (claim.number, claim.name)}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise SettingsError(unknown_name("no claim is called", unknown[0], [claim.name for claim in CLAIMS]))
    return [claim for claim in CLAIMS if not only or claim.name in only or claim.number in only]


def _options(network: str | None) -> frozenset[str]:
    """What the network follows of what a grid can set.

    Raises:
        BnkitError: There is no such network, or it does not come with and without batch norm.
    """
    if network is None:
        return frozenset()
    from bnkit.experiments.networks import network_sources

    found = network_sources([network], [PLAIN, WITH])
    missing = {PLAIN, WITH} - found.keys()
    if missing:
        raise SettingsError(
            f"{network} has networks called {', '.join(found)}; expected {PLAIN} and {WITH}, or a factory of one network"
        )
    return frozenset.intersection(*(source.options for source in found.values()))


def _fit_design(
    design: Design, network: str | None, options: frozenset[str], data: DataSet, budget: float
) -> Design | str:
    """The design for this network and these data; or why there is none."""
    found: Design | str = design
    if network is not None and network != design.network:
        found = design.for_network(network, options)
    return found if isinstance(found, str) else found.for_data(len(data.train), len(data.test), budget)


def _claim_results(
    selected: Sequence[Claim], planned: Mapping[str, Design | str], evidence: Mapping[str, Evidence]
) -> Iterator[ClaimResult]:
    effects = {
        claim.name: claim.effect_of(evidence[claim.design]) if claim.design in evidence else {} for claim in selected
    }
    tested = [claim for claim in selected if claim.design in evidence]
    # The other scales count no test answers.
    answers = [evidence[claim.design].answers if claim.scale is Scale.POINTS else None for claim in tested]
    tests = [
        HypothesisTest(effects[c.name], c.matters, c.resolution, c.nothing, count)
        for c, count in zip(tested, answers, strict=True)
    ]
    verdicts = dict(zip((claim.name for claim in tested), judge(tests), strict=True))
    for claim in selected:
        design = planned[claim.design]
        if isinstance(design, str):
            yield ClaimResult(claim, None, Verdict(Decision.NOT_ASKED, None), {}, design)
        else:
            yield ClaimResult(claim, design, verdicts[claim.name], effects[claim.name])


def _environment(evidence: Mapping[str, Evidence]) -> dict[str, Any]:
    """The machine and the versions of the last run."""
    records = [record for found in evidence.values() for record in found.results.records.values() if record.environment]
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
