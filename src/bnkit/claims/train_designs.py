"""Trains the designs of the claims with a given number of seeds, and keeps their runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bnkit.claims.claim import Evidence
from bnkit.claims.claim_designs import Design
from bnkit.comparison.compare import run_experiment
from bnkit.comparison.comparison_result import Comparison
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.experiment import parse_experiment
from bnkit.experiments.plan import Run
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.records.run_epochs_file import Record, Status

if TYPE_CHECKING:
    from bnkit.data import DataSet


@dataclass
class TrainedDesigns:
    """The designs and their runs so far.

    Attributes:
        designs: The designs by name.
        out: The folder; the comparison of each design is a folder in it.
        data_name, data: The data.
        workers: How many runs train at once, unless durations are measured.
        fresh: Delete existing runs before a design is trained for the first time.
        callbacks: Callbacks for the events of training.
        observer: One more callback.
        evidence: The runs of each trained design.
        loads: For each design, the load average of the machine at the start of each run that was trained alone.
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
        """Train the missing runs of the design for seeds 0 to ``seeds`` − 1.

        Args:
            name: The design's name.
            seeds: The number of seeds.
            alone: Train one run at a time, because durations are measured, which other runs at the same time would distort.
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
            try_training=False,  # a claim tests whether some runs are refused
        )
        # Only the requested seeds count, even if the folder has more.
        self.evidence[name] = Evidence(comparison.own_results)

    def recorded(self, name: str) -> int:
        """The number n of seeds 0 to n − 1 for which earlier calls ended every run of a design."""
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
        """The number of runs that failed unexpectedly."""
        records = (record for known in self.evidence.values() for record in known.results.records.values())
        return sum(record.status is Status.FAILED and "TooFewValuesError" not in record.traceback for record in records)

    def seeds(self, name: str) -> int:
        """The number of seeds that a design was trained with."""
        return len(self.evidence[name].seeds) if name in self.evidence else 0

    def seconds_per_seed(self, name: str) -> float:
        """The training time of all runs of a seed."""
        if name not in self.evidence:
            return 0.0
        known = self.evidence[name]
        lasts = (outcome.record.last for outcome in known.all)
        return sum(last.run_duration for last in lasts if last is not None) / len(known.seeds)

    @property
    def seconds_per_step(self) -> float:
        """The average training time of a step over all trained designs; 0 before the first."""
        steps = sum(self.designs[name].steps() for name in self.evidence)
        return sum(self.seconds_per_seed(name) for name in self.evidence) / steps if steps else 0.0


class _LoadMeter(Callback):
    """Records the load average of the machine at the start of each run."""

    def __init__(self, loads: list[float]) -> None:
        self._loads = loads

    def run_started(self, run: Run, record: Record) -> None:
        if hasattr(os, "getloadavg"):  # not on Windows
            self._loads.append(round(os.getloadavg()[0], 2))
