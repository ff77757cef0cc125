"""Finds the picture of a comparison that a caller names, and its content. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from bnkit.errors import SettingsError
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Epoch
from bnkit.experiments.run_settings import Settings
from bnkit.message_parts import unknown_name
from bnkit.report.charts.curves import curves
from bnkit.report.charts.series import headline_runs
from bnkit.report.contrasts.contrast import Contrast
from bnkit.report.objective_metric import Objective
from bnkit.report.paper.difference_rows import difference_rows
from bnkit.report.paper.matplotlib_figures import Draw, draw_curves, draw_differences, height_of_differences
from bnkit.report.results_of_plan import Results
from bnkit.report.run_outcomes import matches, points_of

DIFFERENCE = "difference"
# Fields of an epoch with a number that is not drawn.
_NO_FIGURES = {"epoch", "run_duration", "steps", "answers", "test_answers", "test_constant"}


@dataclass(frozen=True)
class Plot:
    """A picture that can be drawn.

    Attributes:
        name: Its name.
        draw: Draws it in the given axes.
        height: The height in inches; None for two thirds of the width.
    """

    name: str
    draw: Draw
    height: float | None = None

    def size(self, width: float) -> tuple[float, float]:
        """Its width and height in inches."""
        return width, self.height or width * 0.68


def figure_name(plan: Plan, figure: str | None, settings: Mapping[str, object]) -> str:
    """The name of the figure to draw: ``figure``, or by default the test measure.

    Raises:
        SettingsError: The figure or a setting is unknown.
    """
    numbers = (field.name for field in fields(Epoch) if re.match(r"(float|int)\b", str(field.type)))
    known = [*(name for name in numbers if name not in _NO_FIGURES), DIFFERENCE]
    name = figure if figure is not None else f"test_{Objective.of(plan.task).field}"
    if name not in known:
        raise SettingsError(unknown_name("no figure is called", name, known))
    unknown = [key for key in settings if key not in Settings.model_fields]
    if unknown:
        raise SettingsError(unknown_name("unknown setting", unknown[0], Settings.model_fields))
    return name


def plot_of(
    results: Results,
    contrasts: Sequence[Contrast],
    figure: str | None,
    settings: Mapping[str, object],
    *,
    at_best: bool = False,
) -> Plot:
    """The picture called ``figure`` of the runs of an experiment under ``settings``.

    Args:
        results: The runs.
        contrasts: The differences of their networks.
        figure: The name; None for the first picture of the report, with each network at its best learning rate.
        settings: The settings of the runs to draw.
        at_best: Whether a figure over the epochs shows each network at its best learning rate.

    Raises:
        SettingsError: As ``figure_name`` raises it, or if the settings do not name one point of the grid, or if no run has
            recorded the figure.
    """
    name, objective = figure_name(results.plan, figure, settings), Objective.of(results.plan.task)
    if name == DIFFERENCE:
        return difference_plot(contrasts, results.plan.networks, objective, settings)
    runs = (
        headline_runs(results.plan, contrasts)
        if at_best or (figure is None and not settings)
        else _at_point(results, settings)
    )
    words = name.replace("metric", objective.name).replace("_", " ")
    if name.startswith("training_"):
        words = f"{words}, evaluated"
    title = f"training {words}" if name in ("loss", objective.field) else words
    series = curves(results, name, runs)
    if not any(curve.epochs for curve in series):
        raise SettingsError(f"no run has recorded {name}; expected a figure that one has, such as loss or difference")
    return Plot(name, draw_curves(series, title, is_share="accuracy" in name))


def plot_of_table(
    contrasts: Sequence[Contrast], networks: Sequence[str], figure: str | None, settings: Mapping[str, object]
) -> Plot:
    """The picture called ``figure`` of the runs in a table, which has no epochs.

    Raises:
        SettingsError: The figure is unknown, or no difference exists under these settings.
    """
    if figure not in (None, DIFFERENCE):
        raise SettingsError(
            f"there is no figure {figure!r}: a table has one value for each run; expected {DIFFERENCE!r}"
        )
    known = list(dict.fromkeys(key for contrast in contrasts for key in contrast.setting))
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise SettingsError(unknown_name("unknown setting", unknown[0], known))
    return difference_plot(contrasts, networks, contrasts[0].objective, settings)


def difference_plot(
    contrasts: Sequence[Contrast], networks: Sequence[str], objective: Objective, settings: Mapping[str, object]
) -> Plot:
    """The paired differences under ``settings``; all by default.

    Raises:
        SettingsError: No difference exists under these settings.
    """
    rows = difference_rows(contrasts, settings)
    if not rows:
        where = f" under the settings {dict(settings)}" if settings else ""
        raise SettingsError(
            f"there is no difference to plot{where}: no pair of runs finished; see the answer for what there is"
        )
    return Plot(DIFFERENCE, draw_differences(rows, networks, objective), height_of_differences(rows))


def _at_point(results: Results, settings: Mapping[str, object]) -> list[Run]:
    plan = results.plan
    runs = [run for run in plan if matches(run.settings, settings)]
    points = points_of(runs, Settings.model_fields)
    if len(points) != 1:
        raise SettingsError(
            f"the settings {dict(settings)} name {len(points)} points of the grid; expected one: give a value for "
            f"{', '.join(plan.varying) or 'none'}"
        )
    return runs
