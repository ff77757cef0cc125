"""The result of a comparison: answer, tables and pictures. Loads torch only when a trained network is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnkit.comparison.stored_runs import StoredRuns
from bnkit.comparison.table_comparison import RunTable
from bnkit.comparison.train_until_decided import asked_plan
from bnkit.errors import SettingsError
from bnkit.experiments.plan import Plan, plan
from bnkit.experiments.records.earlier_compare_calls import is_call
from bnkit.experiments.records.results_folder import ResultsFolder, columns
from bnkit.message_parts import not_installed, plural
from bnkit.report.answer_text import Answer
from bnkit.report.contrasts.compare_networks import contrasts
from bnkit.report.contrasts.pairs_table import pairs_table
from bnkit.report.paper.paper_summary import Summary, summary_of
from bnkit.report.tables import further_tables, runs_table
from bnkit.strict_json import strict
from bnkit.text_table import Table

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from bnkit.experiments.resolve_experiment import Components
    from bnkit.report.paper.plots import Plot


class Comparison(StoredRuns):
    """The result of a comparison: a view of its results folder, or of a table of runs (``from_frame``).

    As the last line of a notebook's cell, it shows the answer, a picture and a table.

    Args:
        path: The folder that ``bnkit compare`` or ``bnkit.compare`` wrote; or the file of one of its calls,
            ``calls/0002.toml`` in it, for the runs of that call.

    Attributes:
        folder: The folder.
        plan: The runs of the last call, or of the one given. The other methods also cover runs of earlier calls that answer the
            same question; ``results.own`` has the ids of this call's.

    Raises:
        RecordError: The folder holds no experiment, or one of a newer bnkit.
    """

    _table: RunTable | None = None

    def __init__(self, path: str | Path) -> None:
        path = Path(path).expanduser()
        call = path if is_call(path) else None
        folder = ResultsFolder(path if call is None else path.parent.parent)
        super().__init__(folder, asked_plan(folder, plan(folder.experiment(call))), call=call)

    @classmethod
    def of_plan(cls, folder: ResultsFolder, plan: Plan, components: Components | None) -> Comparison:
        """The comparison in ``folder``, from its plan and, if they exist, the components in memory."""
        comparison = cls.__new__(cls)
        # A folder caches the records that it has read; other processes have written more since.
        StoredRuns.__init__(comparison, ResultsFolder(folder.path), plan, components)
        return comparison

    @classmethod
    def from_frame(
        cls,
        df: Any,
        *,
        metric: str,
        network: str = "network",
        seed: str = "seed",
        settings: str | Sequence[str] = (),
        baseline: object = None,
        minimize: bool = False,
        examples: int | None = None,
    ) -> Comparison:
        """Compare runs that other code has trained, from a table with a row for each run.

        Runs of two networks are a pair if seed and settings agree. Each setting, including the learning rate, is compared by
        itself, and none is chosen. ``answer`` says which rows were left out: runs without a partner, repeated rows, figures that
        are not finite. There are no networks to load and no curves; ``plot`` only has "difference".

        Args:
            df: A pandas data frame, such as the export of W&B or MLflow, ``study.trials_dataframe()`` of Optuna, or a table of
                another library that has ``to_pandas``.
            metric: The column by which runs are judged, one figure a run. A share from 0 to 1 whose name ends in "accuracy" or
                "acc" is reported in percentage points.
            network: The column with the network's name; values that are not text are called ``column=value``.
            seed: The column by which runs are paired.
            settings: The columns that have to agree within a pair.
            baseline: The network that the others are compared with; by default ``no_batch_norm``, False, or the first one.
            minimize: Whether lower is better.
            examples: The number of test examples of an accuracy: then no interval is narrower than they allow, and there is one
                for new test examples.

        Raises:
            SettingsError: The table lacks a column, has invalid values, or has no pair of runs.

        Examples:
            >>> import pandas
            >>> runs = pandas.DataFrame({
            ...     "network": ["no_batch_norm"] * 3 + ["batch_norm"] * 3,
            ...     "seed": [0, 1, 2] * 2,
            ...     "accuracy": [0.90, 0.91, 0.90, 0.93, 0.95, 0.93],
            ... })
            >>> Comparison.from_frame(runs, metric="accuracy", examples=10_000).answer.headline
            'batch_norm bought +3.3 points of accuracy (95 % interval for new test examples +1.7 to +5.0, n = 3).'
        """
        from bnkit.comparison.frame_columns import Columns
        from bnkit.comparison.read_data_frame import run_table

        columns = Columns.named(network, seed, metric, settings)
        comparison = cls.__new__(cls)
        comparison._table = run_table(df, columns, baseline=baseline, minimize=minimize, examples=examples)
        comparison._table.answer()  # raises here if there is no pair
        return comparison

    def __getattr__(self, name: str) -> Any:
        if name in ("folder", "plan", "_stored", "_call") and self._table is not None:
            raise SettingsError(
                "this comparison was made from a table: it has no results folder, so no runs to load, no curves and no report; "
                "expected one of `bnkit.compare`"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def answer(self) -> Answer:
        """What batch normalization bought, in words (``print`` it) and figures."""
        return Answer.of(self.results) if self._table is None else self._table.answer()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``results.csv`` as dictionaries, one for each run and epoch; for a table, its runs.

        A missing value is None; the loss of the epoch in which a run diverged is the word ``nan``, as in the file.
        """
        return super().rows if self._table is None else self._table.rows()

    def to_json(self) -> dict[str, Any]:
        """The output of ``bnkit compare --json`` as plain values; None for missing values and for numbers that are not finite."""
        if self._table is not None:
            return {"results": self._table.rows(), "answer": strict(self.answer.to_json())}
        content = {
            "name": self.plan.experiment.name,
            "folder": str(self.folder.path),
            "report": str(self.report_file),
            "results": self._result_rows(),
            "answer": self.answer.to_json(),
        }
        if self.results.own is not None:
            content["this_call"] = [run.run_id for run in self.plan]
        return {key: strict(value) for key, value in content.items()}

    def summary(self) -> pandas.DataFrame:
        """A row for each network and setting, as a pandas data frame: the figures for a paper.

        Accuracies and their differences are shares from 0 to 1. The columns:

        - ``network``, and each setting that varies
        - ``best``: whether this learning rate was chosen for the network on the validation part
        - ``n``, ``failed``: the number of runs with a final figure, and of those without
        - ``mean``, ``mean_low``, ``mean_high``: the mean on the test set over the seeds, with its 95 % interval
        - ``baseline``, ``difference``, ``difference_low``, ``difference_high``: the difference from that network under the same
          setting, paired by seed, with its 95 % interval for these test examples (Holm's procedure for several pairs)
        - ``new_examples_low``, ``new_examples_high``: the interval for new test examples

        Raises:
            SettingsError: pandas is not installed.
        """
        summary = self._summary
        frame = _pandas().DataFrame(summary.values(), columns=summary.header())
        figures = summary.header()[summary.header().index("mean") :]
        return frame.astype({name: float for name in figures if name != "baseline"})

    def to_latex(self) -> str:
        r"""The summary as LaTeX: a ``table`` that fits a column, for a preamble with ``\usepackage{booktabs}``."""
        from bnkit.report.paper.latex_table import latex

        return latex(self._summary)

    def to_markdown(self) -> str:
        """The answer, the summary as a table, and the meaning of its columns."""
        return self._summary.to_markdown()

    def to_csv(self) -> str:
        """The summary as comma-separated values, with the columns of ``summary()``."""
        return self._summary.to_csv()

    @property
    def _summary(self) -> Summary:
        if self._table is not None:
            return self._table.summary(self.answer)
        results, answer = self.results, self.answer
        return summary_of(results, answer.contrasts, answer.headline)

    def table(self) -> Table:
        """A row for each run, best on the test set first; ``header, rows = comparison.table()`` unpacks it."""
        return runs_table(self.results) if self._table is None else self._table.table()

    def further_tables(self) -> dict[str, Table]:
        """Tables by title: every pair of networks if there are more than two, and those that the experiment's ``show`` names."""
        if self._table is not None:
            return {}
        results = self.results
        return {**pairs_table(contrasts(results)), **further_tables(results)}

    def data_frame(self) -> pandas.DataFrame:
        """``rows`` as a pandas data frame; NaN for missing values, and for a loss that is not finite.

        Raises:
            SettingsError: pandas is not installed.
        """
        if self._table is not None:
            return _pandas().DataFrame(self._table.rows())
        return _pandas().DataFrame(self._result_rows(), columns=list(columns(self._all_runs)))

    def figures(self) -> dict[str, Any]:
        """Bokeh figures by title, for ``bokeh.plotting.show`` or to embed."""
        from bnkit.report.charts.bokeh_figures import figures

        return figures(self.results)

    def plot(self, figure: str | None = None, *, ax: Axes | None = None, **settings: Any) -> Axes:
        """A matplotlib plot, in the colours of the report; a notebook shows it.

        Args:
            figure: One of the recorded figures over the epochs, a line a network (the mean over the seeds) in a band from the
                lowest to the highest: "loss", "accuracy", "validation_loss", "validation_accuracy", "test_loss",
                "test_accuracy", "test_accuracy_population", "gradient_norm", "epoch_duration" or "examples_per_second"; with a
                metric of the experiment's own "metric", "validation_metric", "test_metric" or "test_metric_population" too.
                Or "difference": each network minus its baseline, paired by seed, with 95 % intervals: thick for these test
                examples, thin for new ones. By default the first picture of the report: the test measure of each network at its
                best learning rate.
            ax: The axes to draw in; by default those of a new figure.
            settings: The runs to draw, by keys of the grid: ``plot("loss", lr=0.1)``. Every key that varies is needed, except
                for "difference" and without ``figure``.

        Raises:
            SettingsError: The figure is unknown, the settings do not name one point of the grid, or matplotlib is not
                installed.

        Examples:
            ``comparison.plot("loss", lr=0.1).set_yscale("log")``
        """
        from bnkit.report.paper.matplotlib_figures import plotted

        chosen = self._plot(figure, settings)
        return plotted(chosen.draw, ax, chosen.size(5.0))

    def savefig(self, path: str | Path, figure: str | None = None, *, width: float = 3.25, **settings: Any) -> Path:
        """Write a plot for a paper as PDF (its fonts embedded), SVG (its text as text) or PNG; the same runs give the same file.

        Args:
            path: The file; its ending sets the format.
            figure, settings: As for ``plot``.
            width: The width in inches; by default that of a column.

        Raises:
            SettingsError: As for ``plot``, or if the file has another ending.
            RecordError: The file cannot be written.
        """
        from bnkit.report.paper.matplotlib_figures import save

        chosen, path = self._plot(figure, settings), Path(path)
        save(chosen.draw, path, chosen.size(width))
        return path

    def _plot(self, figure: str | None, settings: Mapping[str, Any]) -> Plot:
        from bnkit.report.paper.plots import figure_name, plot_of, plot_of_table

        if self._table is not None:
            return plot_of_table(self._table.contrasts(), self._table.networks, figure, settings)
        figure_name(self.plan, figure, settings)  # refuses before anything is read
        results = self.results
        return plot_of(results, contrasts(results), figure, settings)

    def __repr__(self) -> str:
        if self._table is not None:
            return f"Comparison.from_frame: {plural(len(self._table.runs), 'run')}\n\n{self.answer}"
        return f"Comparison({str(self._call or self.folder.path)!r}): {plural(len(self._all_runs), 'run')}\n\n{self.answer}"

    def _repr_html_(self) -> str:
        from bnkit.report.notebook.comparison_html import comparison_html, curves_picture

        answer, summary = self.answer, self._summary
        if self._table is not None:
            return comparison_html(answer, summary, self._table.networks)
        results = self.results
        return comparison_html(answer, summary, results.plan.networks, [curves_picture(results, answer)])


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise SettingsError(not_installed("a data frame", "pandas", "frame")) from error
    return pandas
