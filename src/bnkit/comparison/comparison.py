"""What a comparison returns. Loads torch only when a trained network is loaded."""

from __future__ import annotations

import html
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnkit.comparison.stored_components import StoredComponents
from bnkit.comparison.until_decided import asked_plan, growth_in
from bnkit.errors import SettingsError
from bnkit.experiments.plan import Plan, Run, plan
from bnkit.experiments.records.record import Epoch, Record
from bnkit.experiments.records.results_folder import ResultsFolder, columns, rows
from bnkit.experiments.settings import Settings
from bnkit.messages import plural, unknown_name
from bnkit.report.answer import Answer
from bnkit.report.contrast import contrasts
from bnkit.report.objective import Objective
from bnkit.report.outcomes import matches, outcomes, points_of
from bnkit.report.page_digest import is_up_to_date, mark_page
from bnkit.report.pairs_table import pairs_table
from bnkit.report.results import Results
from bnkit.report.sweep import why_undefined
from bnkit.report.tables import further_tables, runs_table, summary_table
from bnkit.strict_json import strict
from bnkit.table import Table

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from bnkit.data import Splits
    from bnkit.experiments.resolve import Components


class Comparison:
    """What came out of a comparison: a view of its results folder.

    Args:
        path: The folder that ``bnkit compare`` or ``bnkit.compare`` wrote.

    Attributes:
        folder: The folder.
        plan: The runs of the last call. What the other methods give covers those of earlier calls too that answer the same
            question; ``results.own`` has the ids of this call's.

    Raises:
        RecordError: The folder holds no experiment, or one of a newer bnkit.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = ResultsFolder(Path(path))
        self.plan: Plan = asked_plan(self.folder, plan(self.folder.experiment()))
        self._stored = StoredComponents(self.folder, self.plan)

    @classmethod
    def of_plan(cls, folder: ResultsFolder, plan: Plan, components: Components | None) -> Comparison:
        """The comparison in ``folder``, whose plan is at hand, and its components if they are."""
        comparison = cls.__new__(cls)
        # A folder keeps the records that it has read; other processes have written more since.
        comparison.folder = ResultsFolder(folder.path)
        comparison.plan = plan
        comparison._stored = StoredComponents(comparison.folder, plan, components)
        return comparison

    @property
    def records(self) -> dict[str, Record]:
        """What is recorded of each run, by run id."""
        return {run.run_id: self.folder.record(run) for run in self._all_runs}

    @property
    def results(self) -> Results:
        """All runs that answer the question of the last call, and the records."""
        found, growth = self.folder.runs(self.plan), growth_in(self.folder, self.plan)
        return Results(found.plan, self.records, found.own_if_others, found.notes, growth, found.looks)

    @property
    def own_results(self) -> Results:
        """The runs of the last call alone, and the records."""
        growth = growth_in(self.folder, self.plan)
        return Results(self.plan, {run.run_id: self.folder.record(run) for run in self.plan}, growth=growth)

    @property
    def _components(self) -> Components | None:
        return self._stored.of_last_call

    @property
    def _all_runs(self) -> Plan:
        return self.folder.runs(self.plan).plan

    @property
    def answer(self) -> Answer:
        """What batch normalization bought, in words (``print`` it) and figures."""
        return Answer.of(self.results)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``results.csv``, one for each run and epoch, as they are recorded; a dictionary a row.

        None where there is no value; the loss of the epoch in which a run diverged is the word ``nan``, as in the file.
        """
        return [{**row, "loss": "nan"} if row["loss"] != row["loss"] else row for row in self._result_rows()]

    def _result_rows(self) -> list[dict[str, Any]]:
        """``rows`` with NaN as a number."""
        plan, records = self._all_runs, self.records
        header = columns(plan)
        return [dict(zip(header, row, strict=True)) for run in plan for row in rows(run, records[run.run_id], plan)]

    def to_json(self) -> dict[str, Any]:
        """What ``bnkit compare --json`` prints, as plain values: None for what there is not, and for what is not finite."""
        content = {
            "name": self.plan.experiment.name,
            "folder": str(self.folder.path),
            "report": str(self.folder.report_file),
            "results": self._result_rows(),
            "answer": self.answer.to_json(),
        }
        if self.results.own is not None:
            content["this_call"] = [run.run_id for run in self.plan]
        return {key: strict(value) for key, value in content.items()}

    def summary(self) -> Table:
        """A row for each network and setting: the mean on the test set, its 95 % interval, n, and how many runs failed."""
        return summary_table(self.results)

    def table(self) -> Table:
        """A row for each run, best on the test set first; ``header, rows = comparison.table()`` takes it apart."""
        return runs_table(self.results)

    def further_tables(self) -> dict[str, Table]:
        """By title: every network against every other, where there are more than two; and what the experiment's ``show`` asks for."""
        results = self.results
        return {**pairs_table(contrasts(results)), **further_tables(results)}

    def data_frame(self) -> pandas.DataFrame:
        """``rows`` as a pandas data frame: NaN for what there is not, and for a loss that is not finite.

        Raises:
            SettingsError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise SettingsError(
                "a data frame needs pandas, which is not installed; pip install 'bnkit[frame]'"
            ) from error
        return pandas.DataFrame(self._result_rows(), columns=list(columns(self._all_runs)))

    def figures(self) -> dict[str, Any]:
        """Bokeh figures by title, to ``bokeh.plotting.show`` or to embed."""
        from bnkit.report.charts.figures import figures

        return figures(self.results)

    def plot(self, figure: str | None = None, **settings: Any) -> Any:
        """A Bokeh figure of one of the recorded figures over the epochs: a line a network, a band over the seeds.

        Args:
            figure: "loss", "accuracy", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy",
                "test_accuracy_population", "gradient_norm", "epoch_duration" or "examples_per_second"; with a metric of
                the experiment's own "metric", "validation_metric", "test_metric" or "test_metric_population" too. By
                default what the networks are judged by, on the test set.
            settings: Which runs, by keys of the grid: ``plot("loss", lr=0.1)``. Needed for those that vary.

        Raises:
            SettingsError: There is no such figure, or the settings do not name one point of the grid.

        Example:
            ``bokeh.plotting.show(comparison.plot("loss", lr=0.1))``
        """
        from bnkit.report.charts.figures import training_curves

        figure = figure if figure is not None else f"test_{Objective.of(self.plan.task).field}"
        known = [entry.name for entry in fields(Epoch) if entry.name not in ("epoch", "run_duration")]
        if figure not in known:
            raise SettingsError(unknown_name("no figure is called", figure, known))
        unknown = [key for key in settings if key not in Settings.model_fields]
        if unknown:
            raise SettingsError(unknown_name("unknown setting", unknown[0], Settings.model_fields))
        plan = self._all_runs
        runs = [run for run in plan if matches(run.settings, settings)]
        points = points_of(runs, Settings.model_fields)
        if len(points) != 1:
            raise SettingsError(
                f"the settings {settings} name {len(points)} points of the grid; expected one: give a value for "
                f"{', '.join(plan.varying) or 'none'}"
            )
        return training_curves(self.results, figure, runs)

    def best(self, network: str) -> Run:
        """The run of ``network`` that ended best on the validation part.

        Without a validation part, the one that was best in training. The test set never decides.

        Raises:
            SettingsError: There is no such network, or none of its runs finished.
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

    def write_report(self) -> Path:
        """Write ``report.html`` into the folder, and return its path.

        Raises:
            RecordError: The folder cannot be written, or has one that bnkit did not write.
        """
        from bnkit.report.page import page

        self.folder.refuse_foreign()
        # To repeat it: what was asked for, without what earlier calls left.
        asked = {self.plan.experiment.name: self.plan.experiment.to_toml()}
        self.folder.replace(self.folder.report_file, mark_page(page(self.results, asked), self.results))
        return self.folder.report_file

    def refresh_report(self) -> None:
        """Write ``report.html`` unless the one that is there was made from the same; errors as of ``write_report``."""
        if not is_up_to_date(self.folder.report_file, self.results):
            self.write_report()

    def load(self, run: int | str | Run, epoch: int | None = None) -> nn.Module:
        """The trained network of a run, on the CPU, in evaluation mode.

        Args:
            run: Its number in the plan (from 1), its run id or the beginning of it, or what ``best`` returned.
            epoch: After which epoch, of a comparison that kept its checkpoints; None for the end.

        Raises:
            SettingsError: There is no such run.
            RecordError: It has no weights yet, or none of that epoch.
            BnkitError: Its network came from a factory that this process does not have.
        """
        from bnkit.experiments.training.checkpoint import load_weights, weights_after

        model = self.build(run)
        name = {} if epoch is None else {"name": weights_after(epoch)}
        load_weights(self.folder.run_folder(self.run(run)), model, **name)
        return model

    def build(self, run: int | str | Run) -> nn.Module:
        """The network of a run, named as for ``load``, before it was trained: on the CPU, in evaluation mode.

        Raises:
            SettingsError: There is no such run.
            BnkitError: Its network came from a factory that this process does not have.
        """
        components, planned = self._stored.of(self.run(run))
        return components.build(planned).eval()

    def data(self, run: int | str | Run) -> Splits:
        """The data as a run, named as for ``load``, is trained and measured on them, on the device that it trains on.

        Raises:
            SettingsError: There is no such run.
            BnkitError: The data are not there any more.
        """
        components, planned = self._stored.of(self.run(run))
        return components.parts(planned)

    def run(self, run: int | str | Run) -> Run:
        """The run of that number in the plan (from 1), or that run id or beginning of one.

        Raises:
            SettingsError: There is no such run.
        """
        wanted = run.run_id if isinstance(run, Run) else run
        found = [
            known
            for known in self._all_runs
            if wanted == known.number or (isinstance(wanted, str) and wanted and known.run_id.startswith(wanted))
        ]
        if len(found) != 1:
            raise SettingsError(
                f"run {run!r} names {len(found)} runs; expected a number from 1 to {len(self._all_runs)}, or a run id"
            )
        return found[0]

    def __repr__(self) -> str:
        return f"Comparison({str(self.folder.path)!r}): {plural(len(self._all_runs), 'run')}\n\n{self.answer}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"
