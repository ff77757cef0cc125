"""Trains the designs that claims ask about, with as many seeds as are wanted, and keeps what came out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bnkit.claims.claim import Evidence
from bnkit.claims.designs import Design
from bnkit.comparison.compare import run_experiment
from bnkit.comparison.comparison import Comparison
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.experiment import parse_experiment
from bnkit.experiments.plan import Run
from bnkit.experiments.records.record import Record, Status
from bnkit.experiments.records.results_folder import ResultsFolder

if TYPE_CHECKING:
    from bnkit.data import DataSet


@dataclass
class Training:
    """The designs, and what is known of them so far.

    Attributes:
        designs: By name.
        out: The folder; each design has a folder of a comparison in it.
        data_name, data: The data.
        workers: How many runs are trained at once, where nothing asks for durations.
        fresh: Delete what is there, before a design is trained for the first time.
        callbacks: Each handles what happens.
        observer: One more.
        evidence: By design; of those that were trained.
        loads: By design, the load of the machine as each run began that was trained alone.
    """

    designs: Mapping[str, Design]
    out: Path
    data_name: str
    data: DataSet
    workers: int | str | None
    fresh: bool
    callbacks: Sequence[Callback]
    observer: Callback | None
    evidence: dict[str, Evidence] = field(default_factory=dict)
    loads: dict[str, list[float]] = field(default_factory=dict)

    def train(self, name: str, seeds: int, *, alone: bool) -> None:
        """Train the design with seeds 0 to ``seeds`` − 1, or what is missing of that.

        Args:
            name: Of the design.
            seeds: How many.
            alone: One run after the other: something asks for durations, which others that train beside it would disturb.
        """
        experiment = parse_experiment(self.designs[name].content(self.data_name, range(seeds)), f"design {name}")
        meter = [_LoadMeter(self.loads.setdefault(name, []))] if alone else []
        comparison = run_experiment(
            experiment,
            self.out / name,
            fresh=self.fresh and name not in self.evidence,
            workers=None if alone else self.workers,
            callbacks=[*meter, *self.callbacks],
            observer=self.observer,
            data=self.data,
            write_report=False,
            try_training=False,  # that some are refused is what a claim asks
        )
        # What is concluded is about the seeds that were asked for.
        self.evidence[name] = Evidence(comparison.own_results)

    def recorded(self, name: str) -> int:
        """With how many seeds, 0 to n − 1, every run of a design has ended, by earlier calls."""
        folder = ResultsFolder(self.out / name)
        if self.fresh or not folder.experiment_file.is_file():
            return 0
        known = Comparison(folder.path).own_results
        ended = dict.fromkeys(known.plan.experiment.seeds, True)
        for run in known.plan:
            record = known.records[run.run_id]
            ended[run.seed] &= record.is_complete or record.status is Status.FAILED
        return next((count for count in range(len(ended)) if not ended.get(count, False)), len(ended))

    @property
    def failed(self) -> int:
        """How many runs failed that should not have."""
        records = (record for known in self.evidence.values() for record in known.results.records.values())
        return sum(record.status is Status.FAILED and "TooFewValuesError" not in record.traceback for record in records)

    def seeds(self, name: str) -> int:
        """How many a design was trained with."""
        return len(self.evidence[name].seeds) if name in self.evidence else 0

    def seconds_per_seed(self, name: str) -> float:
        """Of training all runs of a seed."""
        if name not in self.evidence:
            return 0.0
        known = self.evidence[name]
        lasts = (outcome.record.last for outcome in known.all)
        return sum(last.run_duration for last in lasts if last is not None) / len(known.seeds)

    @property
    def seconds_per_step(self) -> float:
        """Of all designs that were trained, on average; 0 before the first."""
        steps = sum(self.designs[name].steps() for name in self.evidence)
        return sum(self.seconds_per_seed(name) for name in self.evidence) / steps if steps else 0.0


class _LoadMeter(Callback):
    """Takes note of the load of the machine as each run begins."""

    def __init__(self, loads: list[float]) -> None:
        self._loads = loads

    def run_started(self, run: Run, record: Record) -> None:
        if hasattr(os, "getloadavg"):  # not on Windows
            self._loads.append(round(os.getloadavg()[0], 2))
