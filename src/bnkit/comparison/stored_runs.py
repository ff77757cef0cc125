"""The runs in a results folder: their records and networks. Loads torch only when a network is built."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnkit.comparison.components_from_folder import StoredComponents
from bnkit.comparison.train_until_decided import growth_in
from bnkit.errors import SettingsError
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.overwrite_protection import refuse_foreign_page
from bnkit.experiments.records.results_folder import ResultsFolder, columns, rows
from bnkit.experiments.records.run_epochs_file import Record
from bnkit.message_parts import unknown_name
from bnkit.report.learning_rate_sweep import why_undefined
from bnkit.report.objective_metric import Objective
from bnkit.report.results_of_plan import Results
from bnkit.report.run_outcomes import outcomes
from bnkit.report.skip_unchanged_page import is_up_to_date, mark_page

if TYPE_CHECKING:
    from torch import nn

    from bnkit.data import Splits
    from bnkit.experiments.resolve_experiment import Components


class StoredRuns:
    """The runs in a results folder: their records, and their networks as they were trained.

    Args:
        folder: The folder.
        plan: The runs of the last call.
        components: Their components, if they are in memory.
        call: The file of the call that ``plan`` is of, ``calls/0001.toml``; None for the last call.

    Attributes:
        folder: The folder.
        plan: The runs of the last call. The methods also cover runs of earlier calls that answer the same question;
            ``results.own`` has the ids of this call's.
    """

    def __init__(
        self, folder: ResultsFolder, plan: Plan, components: Components | None = None, call: Path | None = None
    ) -> None:
        self.folder = folder
        self.plan = plan
        self._call = call
        self._stored = StoredComponents(folder, plan, components)

    @property
    def records(self) -> dict[str, Record]:
        """The record of each run, by run id."""
        return {run.run_id: self.folder.record(run) for run in self._all_runs}

    @property
    def results(self) -> Results:
        """All runs that answer the question of the last call, and the records."""
        folder_runs, growth = self.folder.runs(self.plan), growth_in(self.folder, self.plan)
        return Results(
            folder_runs.plan, self.records, folder_runs.own_if_others, folder_runs.notes, growth, folder_runs.looks
        )

    @property
    def own_results(self) -> Results:
        """The runs of the last call alone, and the records."""
        growth = growth_in(self.folder, self.plan)
        return Results(self.plan, {run.run_id: self.folder.record(run) for run in self.plan}, growth=growth)

    @property
    def _all_runs(self) -> Plan:
        return self.folder.runs(self.plan).plan

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``results.csv`` as dictionaries, one for each run and epoch.

        A missing value is None; the loss of the epoch in which a run diverged is the word ``nan``, as in the file.
        """
        return [{**row, "loss": "nan"} if _is_nan(row["loss"]) else row for row in self._result_rows()]

    def _result_rows(self) -> list[dict[str, Any]]:
        """``rows`` with NaN as a number."""
        plan, records = self._all_runs, self.records
        header = columns(plan)
        return [dict(zip(header, row, strict=True)) for run in plan for row in rows(run, records[run.run_id], plan)]

    def best(self, network: str) -> Run:
        """The run of ``network`` with the best final value on the validation part.

        Without a validation part, the best in training. The test set is never used for this choice.

        Raises:
            SettingsError: The network is unknown, or none of its runs finished.
        """
        networks = self._all_runs.networks
        if network not in networks:
            raise SettingsError(unknown_name("no network is called", network, networks))
        runs = [outcome for outcome in outcomes(self.results) if outcome.run.network.key == network]
        ended = [outcome for outcome in runs if outcome.final is not None]
        undefined = [outcome for outcome in runs if outcome.is_undefined]
        if not ended and undefined:
            raise SettingsError(f"there is no best run of {network}: {why_undefined(undefined[0])}")
        if not ended:
            raise SettingsError(f"no run of {network} finished; train again, or look at the records for why")
        objective = Objective.of(self.plan.task)
        return min(
            ended, key=lambda outcome: (objective.order(outcome.validation), objective.order(outcome.training))
        ).run

    def load(self, run: int | str | Run, epoch: int | None = None) -> nn.Module:
        """The trained network of a run, on the CPU, in evaluation mode.

        Args:
            run: Its number in the plan (from 1), its run id or the beginning of it, or what ``best`` returned.
            epoch: The epoch whose checkpoint to load, if the comparison kept checkpoints; None for the end.

        Raises:
            SettingsError: There is no such run.
            RecordError: It has no weights yet, or none for that epoch.
            BnkitError: Its network came from a factory that this process does not have.
        """
        from bnkit.experiments.training.checkpoint import load_weights, weights_after

        model = self.build(run)
        name = {} if epoch is None else {"name": weights_after(epoch)}
        load_weights(self.folder.run_folder(self.run(run)), model, **name)
        return model

    def build(self, run: int | str | Run) -> nn.Module:
        """The untrained network of a run, on the CPU, in evaluation mode; the run is named as for ``load``.

        Raises:
            SettingsError: There is no such run.
            BnkitError: Its network came from a factory that this process does not have.
        """
        components, planned = self._stored.of(self.run(run))
        return components.build(planned).eval()

    def data(self, run: int | str | Run) -> Splits:
        """The data that a run is trained and measured on, on its device; the run is named as for ``load``.

        Raises:
            SettingsError: There is no such run.
            BnkitError: The data no longer exist.
        """
        components, planned = self._stored.of(self.run(run))
        return components.parts(planned)

    def run(self, run: int | str | Run) -> Run:
        """The run with that number in the plan (from 1), or whose run id begins with the text.

        Raises:
            SettingsError: There is no such run.
        """
        wanted = run.run_id if isinstance(run, Run) else run
        named = [
            known
            for known in self._all_runs
            if wanted == known.number or (isinstance(wanted, str) and wanted and known.run_id.startswith(wanted))
        ]
        if len(named) != 1:
            raise SettingsError(
                f"run {run!r} names {len(named)} runs; expected a number from 1 to {len(self._all_runs)}, or a run id"
            )
        return named[0]

    @property
    def report_file(self) -> Path:
        """``report.html`` in the folder; for one call, the page next to its file, ``calls/0001.html``."""
        return self.folder.report_file if self._call is None else self._call.with_suffix(".html")

    def picture_file(self, name: str) -> Path:
        """Where a picture goes by default: into the folder; for one call next to its file, ``calls/0001-loss.pdf``."""
        return self.folder.path / name if self._call is None else self._call.with_name(f"{self._call.stem}-{name}")

    def write_report(self) -> Path:
        """Write the page about the runs to ``report_file``, and return its path.

        Raises:
            RecordError: The folder cannot be written, or the page would replace a file that bnkit did not write.
        """
        from bnkit.report.page import page

        if self._call is None:
            self.folder.refuse_foreign()
        else:
            refuse_foreign_page(self.report_file)
        # The experiment that repeats this call, without the runs of earlier calls.
        asked = {self.plan.experiment.name: self.plan.experiment.to_toml()}
        self.folder.replace(self.report_file, mark_page(page(self.results, asked), self.results))
        return self.report_file

    def refresh_report(self) -> None:
        """Write the report unless the existing one is up to date; raises as ``write_report`` does."""
        if not is_up_to_date(self.report_file, self.results):
            self.write_report()


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
