"""What recalibration gains for LeNet with batch norm on Fashion-MNIST, learning rate 1: test accuracy before and after.

BNKIT_DATA=… python benchmarks/recalibrate.py --epochs 5 --seeds 4
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import bnkit
from bnkit.comparison.compare import run_experiment
from bnkit.data import Examples, load, prepare
from bnkit.experiments.experiment import parse_experiment, read_recipe


def accuracy(model: nn.Module, examples: Examples) -> float:
    """In evaluation mode."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(part.inputs).argmax(1) == part.targets).sum()) for part in _thousands(examples))
    return right / len(examples)


def _thousands(examples: Examples) -> list[Examples]:
    return [examples[start : start + 1000] for start in range(0, len(examples), 1000)]


def main() -> None:
    """Train, recalibrate, and print a row for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, help="a folder to keep the runs in")
    arguments = parser.parse_args()
    changes = {"arms": ["batch_norm"], "epochs": arguments.epochs, "seeds": arguments.seeds}
    experiment = parse_experiment({**read_recipe("lenet-fashion-mnist"), **changes}, "benchmark")
    with tempfile.TemporaryDirectory() as folder:
        comparison = run_experiment(experiment, arguments.out or Path(folder))
        data = load(experiment.data)
        print("| seed | moving average | recalibrated | seconds |\n| --- | --- | --- | --- |")
        for run in comparison.plan:
            parts = prepare(data, run.settings.trainset, experiment.validation)
            assert isinstance(parts.train, Examples)
            assert isinstance(parts.test, Examples)
            order = torch.randperm(len(parts.train), generator=torch.Generator().manual_seed(0))
            model = comparison.load(run)
            before = accuracy(model, parts.test)
            began = time.perf_counter()
            bnkit.recalibrate(model, parts.train.inputs[order], batch_size=1000)
            seconds = time.perf_counter() - began
            print(f"| {run.seed} | {before:.3f} | {accuracy(model, parts.test):.3f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
