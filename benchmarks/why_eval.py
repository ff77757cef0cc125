"""What `bnkit check` says of every epoch of LeNet with batch norm on Fashion-MNIST, learning rate 1, and the picture of it.

BNKIT_DATA=… python benchmarks/why_eval.py --out results/why --picture docs/images/why-eval-is-worse.svg
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

import bnkit
from bnkit.checks.measure_on_data import DataMeasurements
from bnkit.comparison.compare import run_experiment
from bnkit.comparison.comparison_result import Comparison
from bnkit.experiments.data_for_model import data_of_run
from bnkit.experiments.experiment import parse_experiment, read_recipe
from bnkit.model.inspect.batches import Batches
from bnkit.model.inspect.recognise_batch_norm import batch_norm_sites
from bnkit.model.statistics.running_stats_drift import Drift

_SIZE, _COUNT = 256, 32
_WIDTH, _HEIGHT, _MARGIN = 640, 360, 48
_COLOURS = ("#1f77b4", "#d95f02", "#1b9e77")


@dataclass(frozen=True)
class Row:
    """One checkpoint: its accuracies on the test set, and its worst layer."""

    seed: int
    epoch: int
    average: float
    predicted: float
    recalibrated: float
    found: str
    worst: str
    drift: float


def row(comparison: Comparison, number: int, epoch: int) -> Row:
    """What is measured of the network of that run after that epoch."""
    run, parts = comparison.run(number), comparison.data(number)
    model = comparison.load(run, epoch)
    data = data_of_run(parts, comparison.plan.experiment.data, run.settings.trainset).matched_to(model)
    training, test = data.training_batches(_SIZE, _COUNT), data.test_batches(1000)
    findings = bnkit.check(model, training, test_batches=test, select="BN201")
    twin = comparison.load(run, epoch)  # which is changed
    measured = DataMeasurements(twin, batch_norm_sites(twin), Batches(training), Batches(test))
    layers = dict(model.named_modules())
    drifts = [
        Drift.of(name, layers[name], collected.population)  # type: ignore[arg-type]
        for name, collected in measured.input_statistics.items()
        if collected.population is not None
    ]
    worst = max(drifts, key=lambda drift: drift.severity)
    bnkit.recalibrate(model, training)
    with torch.no_grad():
        right = sum(int((model(inputs).argmax(1) == targets).sum()) for inputs, targets in test)
    effect = measured.effect
    return Row(
        run.seed,
        epoch,
        effect.accuracy_before,
        effect.accuracy_after,
        right / len(parts.test),
        findings[0].severity.value if findings else "–",
        worst.layer,
        worst.severity,
    )


def picture(rows: list[Row]) -> str:
    """Gap against drift as SVG: a point for each checkpoint, a colour for each seed."""
    widest, highest = max(row.drift for row in rows) * 1.05, max(max(r.predicted - r.average for r in rows) * 1.1, 0.01)

    def x(drift: float) -> float:
        return _MARGIN + drift / widest * (_WIDTH - 2 * _MARGIN)

    def y(gap: float) -> float:
        return _HEIGHT - _MARGIN - max(gap, 0.0) / highest * (_HEIGHT - 2 * _MARGIN)

    points = [
        f'<circle cx="{x(r.drift):.1f}" cy="{y(r.predicted - r.average):.1f}" r="5" fill="{_COLOURS[r.seed % 3]}" '
        f'fill-opacity="0.8"><title>seed {r.seed}, epoch {r.epoch}</title></circle>'
        for r in rows
    ]
    ticks = [
        *(f'<text x="{x(d):.1f}" y="{_HEIGHT - 28}" text-anchor="middle">{d:g}</text>' for d in _steps(widest, 0.25)),
        *(f'<text x="40" y="{y(g) + 4:.1f}" text-anchor="end">{100 * g:g}</text>' for g in _steps(highest, 0.05)),
    ]
    limit = f'<line x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{y(0.01):.1f}" y2="{y(0.01):.1f}" stroke="#999" stroke-dasharray="4"/>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
            f'<path d="M{_MARGIN} {_MARGIN / 2}V{_HEIGHT - _MARGIN}H{_WIDTH - _MARGIN / 2}" fill="none" stroke="#333"/>',
            limit,
            *ticks,
            *points,
            f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 8}" text-anchor="middle">largest drift of a layer, in deviations</text>',
            f'<text x="{_MARGIN}" y="14">points of test accuracy that the moving average costs (dashed: the limit of BN201)</text>',
            "</svg>",
            "",
        ]
    )


def _steps(end: float, step: float) -> list[float]:
    return [round(step * number, 6) for number in range(int(end / step) + 1)]


def main() -> None:
    """Record, unless that was done; print a row for each checkpoint; draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the comparison")
    parser.add_argument("--picture", type=Path, help="where the picture goes")
    arguments = parser.parse_args()
    changes = {"arms": ["batch_norm"], "seeds": 3}
    experiment = parse_experiment({**read_recipe("lenet-fashion-mnist"), **changes}, "why-eval-is-worse")
    comparison = run_experiment(experiment, arguments.out, keep_checkpoints=True)
    print("| seed | epoch | moving average | BN201 predicts | recalibrated | BN201 | furthest off | drift |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    for run in comparison.plan:
        for epoch in range(1, experiment.epochs + 1):
            rows.append(one := row(comparison, run.number, epoch))
            print(
                f"| {one.seed} | {one.epoch} | {one.average:.3f} | {one.predicted:.3f} | {one.recalibrated:.3f} | {one.found} | "
                f"{one.worst} | {one.drift:.2f} |",
                flush=True,
            )
    if arguments.picture is not None:
        arguments.picture.write_text(picture(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
