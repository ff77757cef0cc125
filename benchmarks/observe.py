"""What looking inside the layers costs: a step that is looked at beside one that is not, on the course's networks.

    python benchmarks/observe.py --interval 100

The two take turns, so that noise of the machine meets both; medians. What counts is the share of the time at an interval:
(a step that is looked at − a plain one) / (interval · a plain one). The goal is less than 5 % at the interval given.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from torch.nn import functional

from bnkit.experiments.networks import network_sources
from bnkit.experiments.run_settings import Settings
from bnkit.experiments.training.learning_task import training_step
from bnkit.memory import keep_freed_memory
from bnkit.model.instrument.layer_instrumentation import LayerInstrumentation

CASES = [
    ("mlp", 64, Settings()),
    ("mlp", 64, Settings(depth=20, width=64)),
    ("lenet", 256, Settings()),
    ("two-cnn", 64, Settings()),
    ("two-cnn", 1000, Settings()),
    ("simple-cnn", 64, Settings()),
    ("resnet", 64, Settings(depth=20)),
]
GOAL = 0.05


def measure(network: str, batch: int, settings: Settings, rounds: int) -> tuple[float, float]:
    """Milliseconds of a plain step, and of one that is looked at."""
    model = network_sources([network], ["batch_norm"])["batch_norm"].build((1, 28, 28), 10, settings, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs, targets = torch.randn(batch, 1, 28, 28), torch.randint(0, 10, (batch,))
    watch = LayerInstrumentation(model)

    def step() -> None:
        training_step(model, optimizer, functional.cross_entropy, inputs, targets)

    times: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * rounds + 4):
        watched = number % 2 == 1
        began = time.perf_counter()
        if watched:
            with watch.step(inputs):
                step()
        else:
            step()
        if number >= 4:  # the first ones warm up
            times[watched].append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[False]), statistics.median(times[True])


def main() -> None:
    """Measure all cases; exit status 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interval", type=int, default=100, help="steps between two that are looked at")
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, every {chosen.interval} steps")
    print(f"{'network':24} {'batch':>6} {'plain ms':>9} {'watched ms':>11} {'share':>7}  5 % from every")
    worst = 0.0
    for network, batch, settings in CASES:
        plain, watched = measure(network, batch, settings, chosen.rounds)
        share = (watched - plain) / (chosen.interval * plain)
        worst = max(worst, share)
        name = network + (f" depth {settings.depth}" if settings.depth else "")
        print(
            f"{name:24} {batch:>6} {plain:>9.2f} {watched:>11.2f} {share:>7.1%}  "
            f"{(watched - plain) / (GOAL * plain):.0f} steps"
        )
    print(f"worst share: {worst:.1%}; goal: less than {GOAL:.0%}")
    sys.exit(worst >= GOAL)


if __name__ == "__main__":
    main()
