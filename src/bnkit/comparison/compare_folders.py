"""Merges several results folders, to compare their runs in common network by network. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bnkit.comparison.comparison_result import Comparison
from bnkit.errors import RecordError
from bnkit.experiments.experiment import Experiment
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Record
from bnkit.report.objective_metric import Objective
from bnkit.report.results_of_plan import Results

_Point = tuple[str, object, int]


def merge_comparisons(comparisons: Sequence[Comparison]) -> Results:
    """The runs that all ``comparisons`` have in common with their records, or all their runs if they have none in common.

    In the first case a network is called ``<network>.<folder>``, so that the folders are compared with the first one, network by
    network; networks, points of the grid and seeds that one of the folders lacks are left out. In the second case it is called
    ``<folder>.<network>``: each folder has its own answer, and all share the pictures.

    Raises:
        RecordError: They are judged by different measures, or two of the folders have the same name.
    """
    labels = [comparison.folder.path.resolve().name for comparison in comparisons]
    if len(set(labels)) < len(labels):
        raise RecordError(f"two of the folders are called {max(labels, key=labels.count)}; expected names that differ")
    plans = [comparison.results.plan for comparison in comparisons]
    objectives = [Objective.of(plan.task) for plan in plans]
    if len(set(objectives)) > 1:
        raise RecordError(
            f"{' and '.join(labels)} are judged by {' and '.join(objective.name for objective in objectives)}; expected the same"
        )
    by_point = [{_point(run): run for run in plan} for plan in plans]
    common = [point for point in by_point[0] if all(point in runs for runs in by_point)]
    runs: list[Run] = []
    records: dict[str, Record] = {}

    def add(label: str, comparison: Comparison, old: Run, key: str) -> None:
        network = old.network.model_copy(update={"key": key, "identity": f"{label}/{old.network.identity}"})
        run = replace(old, number=len(runs) + 1, network=network)
        runs.append(run)
        records[run.run_id] = comparison.folder.record(old)

    folders = list(zip(labels, comparisons, by_point, strict=True))
    for point in common:
        for label, comparison, known in folders:
            add(label, comparison, known[point], f"{known[point].network.key}.{label}")
    if not common:
        for label, comparison, known in folders:
            for run in known.values():
                add(label, comparison, run, f"{label}.{run.network.key}")
    about = (
        f"{' and '.join(labels[1:])} against {labels[0]}, network by network, where they have the same runs"
        if common
        else f"{' and '.join(labels)} side by side: they have no runs in common"
    )
    return Results(Plan(_experiment(plans, " and ".join(labels), about, runs), tuple(runs)), records)


def _point(run: Run) -> _Point:
    """The settings that have to agree for two runs to be compared; machine and threads are not among them."""
    return run.network.key, run.settings.model_copy(update={"device": "auto"}), run.seed


def _experiment(plans: Sequence[Plan], name: str, about: str, runs: Sequence[Run]) -> Experiment:
    first = plans[0].experiment
    assert first.settled is not None  # a folder's experiment is always settled
    networks = tuple({run.network.key: run.network for run in runs}.values())
    keys = dict.fromkeys(key for plan in plans for key in plan.experiment.grid.explicit_keys)
    values = {
        key: tuple(dict.fromkeys(value for run in runs if (value := getattr(run.settings, key)) is not None))
        for key in keys
    }
    return first.model_copy(
        update={
            "name": name,
            "about": about,
            "show": (),
            "until": None,
            "seeds": tuple(sorted({run.seed for run in runs})),
            "grid": first.grid.model_copy(update=values),
            "settled": first.settled.model_copy(update={"networks": networks}),
        }
    )
