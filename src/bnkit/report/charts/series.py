"""The figures of all runs as plain values, for the page to draw from. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any

from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Epoch, Status
from bnkit.experiments.run_settings import Settings
from bnkit.report.contrasts.contrast import Contrast
from bnkit.report.objective_metric import Objective
from bnkit.report.results_of_plan import Results
from bnkit.report.run_outcomes import RunOutcome, interval_over_seeds, matches, outcomes, points_of
from bnkit.report.tables import format_setting

# The fields of an epoch that the curves show.
PANELS = ("loss", "training", "test", "population")
# The most observed runs in the page, and the most steps of each: the page has to stay small.
_MAX_LAYER_SERIES, _MAX_STEPS = 12, 40


def point_labels(plan: Plan) -> list[str]:
    """The points of the grid, as ``lr 0.1, batch_size 64``; settings that do not vary are left out, except for the learning rate."""
    return [_label(point) for point in _points(plan, with_rate=True)]


def series(results: Results, contrasts: Sequence[Contrast]) -> dict[str, Any]:
    """The data that the page draws: every run, the learning rates, the layers, and what is shown first."""
    every, points = outcomes(results), point_labels(results.plan)
    places = _places(_points(results.plan, with_rate=True))
    headline = [points.index(point) for point in headline_points(results.plan, contrasts).values()]
    # The first curves shown are those at the best learning rate of the network that is asked about.
    asked = next(
        (results.plan.networks.index(contrast.network) for contrast in contrasts if contrast.best is not None), 0
    )
    return {
        "networks": list(results.plan.networks),
        "points": points,
        "shares": Objective.of(results.plan.task).is_accuracy,
        "headline": headline,
        "first": headline[asked] if headline else 0,
        "runs": [
            {
                "network": results.plan.networks.index(outcome.run.network.key),
                "point": index,
                "seed": outcome.run.seed,
                **_epoch_series(outcome),
            }
            for outcome in every
            if outcome.record.epochs
            for index in places(outcome.run)
        ],
        "rates": _rates(results.plan, every),
        "inside": _layer_series(results.plan, every),
    }


def _points(plan: Plan, *, with_rate: bool) -> list[Mapping[str, object]]:
    varying = plan.varying
    keys = [key for key in plan.experiment.grid.explicit_keys if key == "lr" or key in varying]
    return points_of(plan, [key for key in keys if with_rate or key != "lr"])


def _label(point: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {format_setting(value)}" for key, value in point.items())


def _places(points: Sequence[Mapping[str, object]]) -> Callable[[Run], list[int]]:
    """Which of ``points`` a run belongs to: one, or several if a setting has no effect on the run."""

    @cache
    def of_settings(settings: Settings) -> list[int]:
        return [index for index, point in enumerate(points) if matches(settings, point)]

    return lambda run: of_settings(run.settings)


def headline_points(plan: Plan, contrasts: Sequence[Contrast]) -> dict[str, str]:
    """The point of the grid at which the first picture shows each network.

    It is the network's best learning rate, under the setting of the first comparison.
    """
    points = point_labels(plan)
    by_network = dict.fromkeys(plan.networks, points[0])
    answered = [contrast for contrast in contrasts if contrast.best is not None]
    for contrast in answered:
        first = answered[0].setting
        if contrast.best is None or any(first.get(key, value) != value for key, value in contrast.setting.items()):
            continue
        for network, lr in (
            (contrast.network, contrast.best.network_lr),
            (contrast.baseline, contrast.best.baseline_lr),
        ):
            by_network[network] = _point(plan, {"lr": lr, **contrast.setting}) or points[0]
    return by_network


def headline_runs(plan: Plan, contrasts: Sequence[Contrast]) -> list[Run]:
    """The runs of each network at its ``headline_points``."""
    points = _points(plan, with_rate=True)
    shown = {
        network: points[point_labels(plan).index(point)] for network, point in headline_points(plan, contrasts).items()
    }
    return [run for run in plan if matches(run.settings, shown[run.network.key])]


def _point(plan: Plan, wanted: Mapping[str, object]) -> str | None:
    agreeing = (
        point
        for point in _points(plan, with_rate=True)
        if all(point.get(key, value) == value for key, value in wanted.items())
    )
    return next((_label(point) for point in agreeing), None)


def _epoch_series(outcome: RunOutcome) -> dict[str, list[float | None]]:
    objective, epochs = outcome.objective, outcome.record.epochs
    of: dict[str, Callable[[Epoch], float | None]] = {
        "epoch": lambda epoch: float(epoch.epoch),
        "step": lambda epoch: float(epoch.steps) if epoch.steps is not None else None,
        "seconds": lambda epoch: epoch.run_duration,
        "loss": lambda epoch: epoch.loss,
        "training": objective.training,
        "test": objective.test,
        "population": objective.population,
    }
    return {name: [_round_sig(figure(epoch)) for epoch in epochs] for name, figure in of.items()}


def _rates(plan: Plan, every: Sequence[RunOutcome]) -> dict[str, dict[str, dict[str, list[Any]]]]:
    """By setting (without the learning rate) and network: the test measure over the learning rate, and how many runs were lost."""
    points = _points(plan, with_rate=False)
    places = _places(points)
    groups: list[list[RunOutcome]] = [[] for _ in points]
    for outcome in every:
        for index in places(outcome.run):
            groups[index].append(outcome)
    return {
        _label(point): {
            network: _over_rates([o for o in group if o.run.network.key == network]) for network in plan.networks
        }
        for point, group in zip(points, groups, strict=True)
    }


def _over_rates(runs: Sequence[RunOutcome]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {key: [] for key in ("lr", "mean", "low", "high", "n", "lost_lr", "lost")}
    for lr in sorted({outcome.run.settings.lr for outcome in runs}):
        here = [outcome for outcome in runs if outcome.run.settings.lr == lr]
        interval = interval_over_seeds(here)
        if interval is not None:
            low, high = (interval.mean if end is None else end for end in (interval.low, interval.high))
            values = (lr, *(_round_sig(value) for value in (interval.mean, low, high)), interval.n)
            for key, value in zip(("lr", "mean", "low", "high", "n"), values, strict=True):
                columns[key].append(value)
        lost = sum(outcome.record.status in (Status.DIVERGED, Status.FAILED) for outcome in here)
        if lost:
            columns["lost_lr"].append(lr)
            columns["lost"].append(f"{lost} of {len(here)}")
    return columns


def _layer_series(plan: Plan, every: Sequence[RunOutcome]) -> list[dict[str, Any]]:
    """The recorded layer statistics: of each network and point of the grid the first seed, with some steps left out."""
    by_run: dict[tuple[str, str], dict[str, Any]] = {}
    points = _points(plan, with_rate=True)
    places = _places(points)
    for outcome in every:
        entries = [entry for epoch in outcome.record.epochs for entry in epoch.layers or ()]
        key = outcome.run.network.key, _label(points[places(outcome.run)[0]])
        if entries and key not in by_run and len(by_run) < _MAX_LAYER_SERIES:
            thinned = entries[:: -(-len(entries) // _MAX_STEPS)]
            names = list(dict.fromkeys(name for entry in thinned for name in entry["layers"]))
            by_run[key] = {
                "label": f"{key[0]}, {key[1]}, seed {outcome.run.seed}",
                "steps": [entry["step"] for entry in thinned],
                "layers": {name: [entry["layers"].get(name) for entry in thinned] for name in names},
            }
    # Runs with batch norm come first: they have the most to show.
    return sorted(by_run.values(), key=lambda figures: not any("gamma" in (e or {}) for e in _first_entries(figures)))


def _first_entries(figures: Mapping[str, Any]) -> list[Any]:
    """The record of each layer at the first step."""
    return [entries[0] for entries in figures["layers"].values()]


def _round_sig(value: float | None) -> float | None:
    """Rounded to the digits that a picture shows."""
    return None if value is None else float(f"{value:.5g}")


def final_values(results: Results) -> list[tuple[str, str, str]]:
    """The network, the point of the grid, and the mean on the test set at the end: the curves as text."""
    objective = Objective.of(results.plan.task)
    points = _points(results.plan, with_rate=True)
    places = _places(points)
    by_label: dict[tuple[str, str], list[float]] = {}
    for outcome in outcomes(results):
        if outcome.final is not None:
            for index in places(outcome.run):
                by_label.setdefault((outcome.run.network.key, _label(points[index])), []).append(outcome.test)
    return [(network, label, objective.text(fmean(values))) for (network, label), values in by_label.items()]
