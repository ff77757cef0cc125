"""Several results folders as one: what they have in common, network against network. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bnkit.errors import RecordError
from bnkit.experiments.experiment import Experiment
from bnkit.experiments.measure import Measure
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records import Record
from bnkit.report.comparison import Comparison

_Point = tuple[str, object, int]


def joined(comparisons: Sequence[Comparison]) -> tuple[Plan, Mapping[str, Record]]:
    """A plan of the runs that all ``comparisons`` have, and their records.

    A network is called ``<network>.<folder>``, so that the folders are set against the first one, network by network.
    Runs that one of the folders lacks are left out: networks, points of the grid, seeds.

    Raises:
        RecordError: They have no runs in common, are judged by different things, or two of the folders have one name.
    """
    labels = [comparison.folder.path.resolve().name for comparison in comparisons]
    if len(set(labels)) < len(labels):
        raise RecordError(f"two of the folders are called {max(labels, key=labels.count)}; expected names that differ")
    measures = [Measure.of(comparison.plan.task) for comparison in comparisons]
    if len(set(measures)) > 1:
        raise RecordError(
            f"{' and '.join(labels)} are judged by {' and '.join(measure.name for measure in measures)}; expected the same"
        )
    by_point = [{_point(run): run for run in comparison.plan} for comparison in comparisons]
    common = [point for point in by_point[0] if all(point in runs for runs in by_point)]
    if not common:
        raise RecordError(
            f"{' and '.join(labels)} have no runs in common; expected the same network, settings and seed in both"
        )
    runs: list[Run] = []
    records: dict[str, Record] = {}
    for point in common:
        for label, comparison, known in zip(labels, comparisons, by_point, strict=True):
            old = known[point]
            key, identity = f"{old.network.key}.{label}", f"{label}/{old.network.identity}"
            network = old.network.model_copy(update={"key": key, "identity": identity})
            run = replace(old, number=len(runs) + 1, network=network)
            runs.append(run)
            records[run.run_id] = comparison.folder.record(old)
    return Plan(_experiment(comparisons, labels, runs), tuple(runs)), records


def _point(run: Run) -> _Point:
    """What has to agree for two runs to be set against each other: not the machine, not the threads."""
    return run.network.key, run.settings.model_copy(update={"device": "auto"}), run.seed


def _experiment(comparisons: Sequence[Comparison], labels: Sequence[str], runs: Sequence[Run]) -> Experiment:
    first = comparisons[0].plan.experiment
    assert first.settled is not None  # a folder's experiment is
    networks = tuple({run.network.key: run.network for run in runs}.values())
    return first.model_copy(
        update={
            "name": " and ".join(labels),
            "about": f"{' and '.join(labels[1:])} against {labels[0]}, network by network, where they have the same runs",
            "show": (),
            "settled": first.settled.model_copy(update={"networks": networks}),
        }
    )
