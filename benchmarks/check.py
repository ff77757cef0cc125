"""What checking costs: structure and statistics of a ResNet-50, and the share of the time that a monitor takes.

python benchmarks/check.py [structure | statistics | monitor ...]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import cast

import torch
from pytorchcv.model_provider import get_model
from torch.nn import functional

import bnkit
from bnkit.checks.registry import rules
from bnkit.checks.rule import Need
from bnkit.experiments.networks import sources
from bnkit.experiments.settings import Settings

_BATCHES, _FORWARDS = 8, 10


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How long ``work`` takes."""
    began = clock()
    work()
    return clock() - began


def structure() -> None:
    """All rules about structure, on two images of 224 × 224: goal 2 s."""
    model, image = get_model("resnet50", pretrained=False), torch.randn(2, 3, 224, 224)
    first = seconds(lambda: bnkit.check(model, example_inputs=image, select="BN1"))
    times = [seconds(lambda: bnkit.check(model, example_inputs=image, select="BN1")) for _ in range(5)]
    print(f"structure of ResNet-50: {statistics.median(times):.2f} s (the first time {first:.2f} s); goal 2 s")


def measured(batch_size: int = 4) -> None:
    """All rules that need data, with eight batches, in turns with ten forward passes in evaluation: goal a ratio of 1."""
    model = get_model("resnet50", pretrained=False).eval()
    codes = [rule.code for rule in rules() if Need.DATA in rule.needs]
    batches = [(torch.randn(batch_size, 3, 224, 224), torch.arange(batch_size)) for _ in range(_BATCHES)]

    @torch.no_grad()
    def forwards() -> None:
        for number in range(_FORWARDS):
            model(batches[number % _BATCHES][0])

    def checks() -> None:
        bnkit.check(model, batches, select=codes)

    forwards(), checks()  # the first ones warm up
    # One thread that others disturb still tells what it took of a processor; several that wait for each other do not.
    clocks = {"the time": time.perf_counter}
    if torch.get_num_threads() == 1:
        clocks["the processor time"] = time.process_time
    for name, clock in clocks.items():
        pairs = [(seconds(forwards, clock), seconds(checks, clock)) for _ in range(5)]
        taken = statistics.median(check for _, check in pairs)
        ratio = statistics.median(check / passes for passes, check in pairs)
        print(
            f"statistics of ResNet-50 with {_BATCHES} batches of {batch_size}: {taken:.2f} s, {ratio:.2f} of {name} of "
            f"{_FORWARDS} forward passes; goal 1"
        )


def monitor(name: str = "lenet", steps: int = 2400) -> None:
    """A training loop with and without, in turns of 200 steps: goal 2 %."""
    model = sources([name], ["batch_norm"])["batch_norm"].build((1, 28, 28), 10, Settings(), seed=0).train()
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


_ALL: dict[str, Callable[[], None]] = {"structure": structure, "statistics": measured, "monitor": monitor}


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*_ALL, []], help="one of structure, statistics, monitor")
    for name in parser.parse_args().what or _ALL:
        _ALL[name]()


if __name__ == "__main__":
    main()
