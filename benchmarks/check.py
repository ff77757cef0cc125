"""What checking costs: structure and statistics of a ResNet-50, and the share of the time that a monitor takes.

python benchmarks/check.py [structure | statistics | monitor ...] [--batch-size N ...] [--pairs N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from pytorchcv.model_provider import get_model
from torch import Tensor
from torch.nn import functional

import bnkit
from bnkit.checks.rule_needs import Need
from bnkit.checks.rule_registry import rules
from bnkit.experiments.networks import network_sources
from bnkit.experiments.run_settings import Settings

_BATCHES, _FORWARDS = 8, 10


class Taken(NamedTuple):
    """How long something took, in seconds: by the clock on the wall, and of processors."""

    wall: float
    processor: float


def taken(work: Callable[[], object]) -> Taken:
    """How long ``work`` takes."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Taken(time.perf_counter() - wall, time.process_time() - processor)


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes, by the clock on the wall."""
    return taken(work).wall


def structure() -> None:
    """All rules about structure, on two images of 224 × 224: goal 2 s."""
    model, image = get_model("resnet50", pretrained=False), torch.randn(2, 3, 224, 224)
    first = seconds(lambda: bnkit.check(model, example_inputs=image, select="BN1"))
    times = [seconds(lambda: bnkit.check(model, example_inputs=image, select="BN1")) for _ in range(5)]
    print(f"structure of ResNet-50: {statistics.median(times):.2f} s (the first time {first:.2f} s); goal 2 s")


def measured(batch_sizes: Sequence[int] = (4, 16), count: int = 5) -> None:
    """All rules that need data, with eight batches, in turns with ten forward passes in evaluation: goal a ratio of 1."""
    model = get_model("resnet50", pretrained=False).eval()
    codes = [rule.code for rule in rules() if Need.DATA in rule.needs]
    # One thread that others disturb still tells what it took of a processor; several that wait for each other do not.
    clocks = {"the time": 0, "the processor time": 1} if torch.get_num_threads() == 1 else {"the time": 0}
    for size in batch_sizes:
        batches = [(torch.randn(size, 3, 224, 224), torch.arange(size)) for _ in range(_BATCHES)]

        @torch.no_grad()
        def forwards(batches: list[tuple[Tensor, Tensor]] = batches) -> None:
            for number in range(_FORWARDS):
                model(batches[number % _BATCHES][0])

        def checks(batches: list[tuple[Tensor, Tensor]] = batches) -> None:
            bnkit.check(model, batches, select=codes)

        checks(batches[:1])  # the first one loads the compiled loops
        pairs = [(taken(forwards), taken(checks)) for _ in range(count)]
        for name, clock in clocks.items():
            ratios = sorted(check[clock] / passes[clock] for passes, check in pairs)
            print(
                f"statistics of ResNet-50 with {_BATCHES} batches of {size}: "
                f"{statistics.median(check[clock] for _, check in pairs):.2f} s, {statistics.median(ratios):.2f} "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f}, {count} pairs) of {name} of {_FORWARDS} forward passes; goal 1"
            )


def monitor(name: str = "lenet", steps: int = 2400) -> None:
    """A training loop with and without, in turns of 200 steps: goal 2 %."""
    model = network_sources([name], ["batch_norm"])["batch_norm"].build((1, 28, 28), 10, Settings(), seed=0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = torch.randn(256, 1, 28, 28), torch.randint(10, (256,))
    watch = bnkit.Monitor(model, every=200, optimizer=optimizer, on_findings=len)
    spent = cast("Callable[[], float]", lambda: watch._spent)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    def loop(*, watched: bool) -> None:
        for _ in range(200):
            step()
            if watched:
                watch.step((inputs, targets))

    loop(watched=False)
    pairs = [(seconds(lambda: loop(watched=False)), seconds(lambda: loop(watched=True))) for _ in range(steps // 400)]
    plain, with_monitor = (sum(column) for column in zip(*pairs, strict=True))
    share = spent() / with_monitor
    print(
        f"Monitor(every=200) on {name}, batch 256: {with_monitor / plain - 1:+.1%} against the loop without, "
        f"{share:.1%} of the time by its own clock, {len(watch.looks)} looks; goal 2 %"
    )


def main() -> None:
    """Print a line or two for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("structure", "statistics", "monitor")
    parser.add_argument("what", nargs="*", choices=[*names, []], help="one of structure, statistics, monitor")
    parser.add_argument("--batch-size", nargs="+", type=int, default=[4, 16], help="of the statistics")
    parser.add_argument("--pairs", type=int, default=5, help="of the statistics: how often both are timed")
    given = parser.parse_args()
    for name in given.what or names:
        if name == "statistics":
            measured(given.batch_size, given.pairs)
        else:
            {"structure": structure, "monitor": monitor}[name]()


if __name__ == "__main__":
    main()
