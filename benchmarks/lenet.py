"""LeNet in training, examples per second: PyTorch's batch norm against ours, by kernel.

Batches of 256 images of 28×28, SGD, all networks in one process, a few steps each in shuffled turns; medians, and ratios
taken turn by turn.

    python -m benchmarks.lenet
    python -m benchmarks.lenet --network two-cnn --batch-size 1000
"""

from __future__ import annotations

import argparse
import random
import time
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor, nn

import bnkit
from bnkit.experiments.networks.normalization_kinds import ARMS, Arm
from bnkit.experiments.networks.registry import ARCHITECTURES
from bnkit.experiments.run_settings import Settings

STEPS = 5
WITHIN = ", activation within"


def _ours(kernel: str) -> Arm:
    return Arm(
        kernel,
        kernel,
        lambda c: bnkit.nn.BatchNorm1d(c, kernel=kernel),
        lambda c: bnkit.nn.BatchNorm2d(c, kernel=kernel),
    )


CONTESTANTS = {
    "none": ARMS["no_batch_norm"],
    "torch": ARMS["torch"],
    **{name: _ours(name) for name in ("auto", "aten", "numba", "reference")},
    **{f"{name}{WITHIN}": _ours(name) for name in ("auto", "aten", "numba")},
}


def within(model: nn.Module) -> None:
    """Let each of our batch norms apply the sigmoid or the ReLU that follows it: one pass over memory for both."""
    names = {nn.Sigmoid: "sigmoid", nn.ReLU: "relu"}
    modules = list(model.named_modules())
    for (_, norm), (name, activation) in pairwise(modules):
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and type(activation) in names:
            norm.activation = names[type(activation)]
            model.set_submodule(name, nn.Identity())


def seconds_of_steps(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor) -> float:
    """What some steps of training take."""
    began = time.perf_counter()
    for _ in range(STEPS):
        loss = nn.functional.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - began


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="lenet")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    bnkit.keep_freed_memory()
    images, targets = torch.rand(arguments.batch_size, 1, 28, 28), torch.randint(0, 10, (arguments.batch_size,))
    made = {}
    for name, arm in CONTESTANTS.items():
        torch.manual_seed(0)
        model = ARCHITECTURES[arguments.network].build(arm, (1, 28, 28), 10, Settings())
        if name.endswith(WITHIN):
            within(model)
        made[name] = model, torch.optim.SGD(model.parameters(), lr=0.1)
    times: dict[str, list[float]] = {name: [] for name in made}
    for contestant in made.values():
        seconds_of_steps(*contestant, images, targets)
    shuffled, end = random.Random(0), time.perf_counter() + arguments.seconds
    while time.perf_counter() < end:
        for name in shuffled.sample(list(made), len(made)):
            times[name].append(seconds_of_steps(*made[name], images, targets))
    print("| batch norm | examples/s | against torch.nn |\n| --- | --- | --- |")
    for name, own in times.items():
        rate = arguments.batch_size * STEPS / median(own)
        ratio = median(theirs / mine for theirs, mine in zip(times["torch"], own, strict=True))
        print(f"| {name} | {rate:,.0f} | {ratio:.2f} |")
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}, batches of {arguments.batch_size}")


if __name__ == "__main__":
    main()
