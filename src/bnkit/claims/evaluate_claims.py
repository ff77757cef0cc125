"""Computes a verdict on every claim: trains the designs one after the other, and judges their records together."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnkit.claims import CLAIMS, Claim, Decision, Design, Evidence, Verdict, claims_folder, designs
from bnkit.claims.claim import PLAIN, WITH
from bnkit.claims.claim_designs import default_seeds
from bnkit.claims.seed_rounds import MAX_SEEDS, ClaimVerdict, decide, judge_once
from bnkit.claims.train_designs import TrainedDesigns
from bnkit.claims.verdict_table import ClaimResult, Verdicts
from bnkit.comparison.progress import shown_progress
from bnkit.duration import parse_duration
from bnkit.errors import DataError, SettingsError
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.running.launch_request import LaunchOptions
from bnkit.intervals.interval import FEWEST
from bnkit.message_parts import unknown_name

if TYPE_CHECKING:
    from bnkit.data import DataSet

FOLDER = Path("results") / "claims"


def evaluate_claims(
    data: str = "digits",
    network: str | None = None,
    out: Path = FOLDER,
    *,
    quick: bool = False,
    budget: float | str = 1.0,
    seeds: int | None = None,
    until: str | None = None,
    max_seeds: int = MAX_SEEDS,
    only: Sequence[str] = (),
    workers: int | str | None = None,
    fresh: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    observer: Callback | None = None,
) -> Verdicts:
    """Train the designs that the claims need, and judge the claims. Runs that ``out`` already has are not trained again.

    Args:
        data: As for a comparison; its targets have to be classes.
        network: A network to test instead of the course's.
        out: The folder; the comparison of each design is a folder in it.
        quick: Train the small designs.
        budget: A factor for the number of images; or, with ``until``, a duration such as "90s", "10m" or "2h", after which no
            more seeds are begun.
        seeds: The number of seeds, 5 by default and 7 with ``quick``; fewer than 3 decide no claim. Not with ``until``.
        until: "decided": seeds are added to the designs of open claims until all are decided. The verdicts allow for every look.
        max_seeds: The largest number of seeds with ``until``.
        only: Names or numbers of claims; all if empty.
        workers: As for a comparison: figures other than durations do not depend on their number. A design that only measures
            durations trains one run at a time; with ``until``, so does a design with an open claim about durations.
        fresh: Delete existing runs first.
        callbacks: Callbacks for the events of training.
        progress: Show progress on standard error; None shows it on a terminal and in a notebook.
        observer: One more callback.

    Raises:
        BnkitError: An argument is invalid.
    """
    from bnkit.data.user_data import load_data

    LaunchOptions(workers)
    out = out.expanduser()
    asked = _ClaimsCall.of(
        data, network, quick=quick, budget=budget, seeds=seeds, until=until, max_seeds=max_seeds, only=only
    )
    selected = _select_claims(only)
    loaded = load_data(data)
    if loaded.classes is None:
        raise DataError(f"{data} has floating targets; expected classes: the claims are about accuracy")
    options = _options(network)
    planned = {
        name: _fit_design(design, network, options, loaded, asked.images)
        for name, design in designs(quick=quick).items()
        if any(claim.design == name for claim in selected)
    }
    trained = {name: design for name, design in planned.items() if isinstance(design, Design)}
    claims_folder.refuse_foreign(out, trained)
    before = None if fresh else claims_folder.read_if_any(out)
    looks = _earlier_looks(before, asked)
    with shown_progress(progress) as display:
        training = TrainedDesigns(trained, out, data, loaded, workers, fresh, [display, *callbacks], observer)
        training.loads.update({name: list(known) for name, known in (before or {}).get("loads", {}).items()})
        claims = [claim for claim in selected if claim.design in trained]

        def write(judged: Sequence[ClaimVerdict]) -> Verdicts:
            results = list(_claim_results(selected, planned, judged))
            verdicts = Verdicts(
                out,
                results,
                asked.seeds or max((training.seeds(name) for name in trained), default=0),
                asked.command(out),
                _environment(training.evidence),
                training.failed,
                is_sequential=asked.is_sequential,
                loads=training.loads,
            )
            claims_folder.write(out, {**verdicts.to_json(), "question": asked.text}, verdicts.to_markdown())
            return verdicts

        if asked.is_sequential:
            verdicts = write(decide(claims, training, seconds=asked.seconds, max_seeds=max_seeds, judged=write))
        else:
            for name, design in trained.items():
                training.train(name, asked.seeds, alone=design.is_timed)
            verdicts = write(judge_once(claims, training, looks))
    claims_folder.write_page(out)
    return verdicts


@dataclass(frozen=True)
class _ClaimsCall:
    """The checked arguments of a call.

    Attributes:
        words: The command's options except seeds and time: they identify the question, and each question has its own runs.
        images: The factor for the number of images.
        seeds: The number of seeds; 0 if they are added until there is a verdict.
        seconds: The budget, or None.
        further: The other options of the command.
    """

    words: tuple[str, ...]
    images: float
    seeds: int
    seconds: float | None
    further: tuple[str, ...]

    @classmethod
    def of(cls, data: str, network: str | None, **options: Any) -> _ClaimsCall:
        until, seeds, most, budget = options["until"], options["seeds"], options["max_seeds"], options["budget"]
        if until not in (None, "decided"):
            raise SettingsError(f"until={until!r}; expected decided")
        images, seconds = _budget(budget)
        if seconds is not None and until is None:
            raise SettingsError(
                f"budget={budget} is a duration; expected `until` decided with it, or how many times as many images"
            )
        if images <= 0:
            raise SettingsError(f"budget={images:g}; expected how many times as many images, above 0")
        if seeds is not None and seeds < 1:
            raise SettingsError(f"seeds={seeds}; expected at least 1")
        if until is not None and seeds is not None:
            raise SettingsError(f"seeds={seeds} with `until` decided; expected one of them: seeds are added until then")
        if most < FEWEST:
            raise SettingsError(f"max_seeds={most}; expected at least {FEWEST}: fewer pairs have no verdict")
        words = ["--quick"] if options["quick"] else []
        words += ["--data", data] if data != "digits" else []
        words += ["--network", network] if network is not None else []
        words += ["--budget", f"{images:g}"] if images != 1 else []
        further = [] if until is None else ["--until", until]
        further += ["--budget", str(budget)] if seconds is not None else []
        further += ["--max-seeds", str(most)] if until is not None and most != MAX_SEEDS else []
        usual = default_seeds(quick=options["quick"])
        further += ["--seeds", str(seeds)] if seeds not in (None, usual) else []
        further += [word for name in options["only"] for word in ("--only", name)]
        count = 0 if until is not None else usual if seeds is None else seeds
        return cls(tuple(words), images, count, seconds, tuple(further))

    @property
    def is_sequential(self) -> bool:
        return self.seeds == 0

    @property
    def text(self) -> str:
        """The question as a command."""
        return shlex.join(("bnkit", "claims", *self.words))

    def command(self, out: Path) -> str:
        """The command that repeats the call."""
        out_option = () if out == FOLDER else ("--out", str(out))
        return shlex.join(("bnkit", "claims", *self.words, *self.further, *out_option))


def _budget(budget: float | str) -> tuple[float, float | None]:
    """The factor for the number of images, and the seconds."""
    try:
        return float(budget), None
    except ValueError:
        return 1.0, parse_duration(budget)


def _earlier_looks(before: Mapping[str, Any] | None, asked: _ClaimsCall) -> dict[str, tuple[int, ...]]:
    """For each claim, the numbers of seeds at which earlier calls with the same question judged it, without the present number."""
    if before is None or asked.text != before.get(
        "question", re.sub(r" --(seeds|only|out) \S+", "", before["command"])
    ):
        return {}
    by_claim = {}
    for claim in before["claims"]:
        counts = tuple(claim.get("looks") or [before["seeds"]])
        by_claim[claim["name"]] = counts[:-1] if counts[-1] == asked.seeds else counts
    return by_claim


def _select_claims(only: Sequence[str]) -> list[Claim]:
    known = {key for claim in CLAIMS for key in (claim.number, claim.name)}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise SettingsError(unknown_name("no claim is called", unknown[0], [claim.name for claim in CLAIMS]))
    return [claim for claim in CLAIMS if not only or claim.name in only or claim.number in only]


def _options(network: str | None) -> frozenset[str]:
    """The settings of a grid that the network takes.

    Raises:
        BnkitError: The network is unknown, or does not come with and without batch norm.
    """
    if network is None:
        return frozenset()
    from bnkit.experiments.networks import network_sources

    sources = network_sources([network], [PLAIN, WITH])
    missing = {PLAIN, WITH} - sources.keys()
    if missing:
        raise SettingsError(
            f"{network} has networks called {', '.join(sources)}; expected {PLAIN} and {WITH}, or a factory of one network"
        )
    return frozenset.intersection(*(source.options for source in sources.values()))


def _fit_design(
    design: Design, network: str | None, options: frozenset[str], data: DataSet, budget: float
) -> Design | str:
    """The design for this network and these data, or why it does not fit."""
    adapted: Design | str = design
    if network is not None and network != design.network:
        adapted = design.for_network(network, options)
    return adapted if isinstance(adapted, str) else adapted.for_data(len(data.train), len(data.test), budget)


def _claim_results(
    selected: Sequence[Claim], planned: Mapping[str, Design | str], judged: Sequence[ClaimVerdict]
) -> Iterator[ClaimResult]:
    known = {judgement.claim.name: judgement for judgement in judged}
    for claim in selected:
        design = planned[claim.design]
        if isinstance(design, str):
            yield ClaimResult(claim, None, Verdict(Decision.NOT_ASKED, None), {}, design)
        else:
            judgement = known[claim.name]
            yield ClaimResult(claim, design, judgement.verdict, judgement.effects, judgement.why, judgement.looks)


def _environment(evidence: Mapping[str, Evidence]) -> dict[str, Any]:
    """The machine and the versions of the last run."""
    records = [
        record for of_design in evidence.values() for record in of_design.results.records.values() if record.environment
    ]
    return records[-1].environment if records else {}
