"""Whole networks in training and in evaluation: PyTorch's batch norm, ours fused, and one that costs nothing.

Each network is built with `torch.nn`'s batch norm. Beside it: what `bnkit.convert(model, example_inputs=...)` makes of it; and the
same network with nothing where batch norm stood, activations and sums left in place, which is the most that could be gained. All
three in one process, a few steps each in shuffled turns; medians, and ratios taken turn by turn. With one thread the time is that of
the processor, with more it is the clock's.

    python -m benchmarks.networks
    python -m benchmarks.networks --network lenet --threads 1 --layout contiguous
    python -m benchmarks.networks --profile --network resnet20 --threads 1 --layout contiguous
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import random
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, median

import torch
from pytorchcv.model_provider import get_model
from torch import Tensor, nn

import bnkit
from bnkit.experiments.networks.normalization_kinds import ARMS
from bnkit.experiments.networks.registry import ARCHITECTURES
from bnkit.experiments.run_settings import Settings

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
SIDES = ("torch.nn", "bnkit", "free")
KINDS = ("training", "evaluation")
# A turn of a side takes about so many seconds.
TURN = 0.1


@dataclass(frozen=True)
class Network:
    """A network, and what it is given: so many images of so many channels and so large."""

    build: Callable[[], nn.Module]
    batch_size: int
    channels: int
    side: int

    def images(self, layout: torch.memory_format) -> Tensor:
        """A batch."""
        shape = (self.batch_size, self.channels, self.side, self.side)
        return torch.rand(shape).contiguous(memory_format=layout)


def _own(name: str) -> Callable[[], nn.Module]:
    return lambda: ARCHITECTURES[name].build(ARMS["torch"], (1, 28, 28), 10, Settings())


def _mobilenet() -> nn.Module:
    model = get_model("mobilenetv2_w1", num_classes=10)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # for images of any size
    return model


def _resnet18() -> nn.Module:
    model = get_model("resnet18", num_classes=10)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return model


def _convolution(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]


def _vgg11() -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        layers += _convolution(before, width) if width else [nn.MaxPool2d(2)]
        before = width or before
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class UNet(nn.Module):
    """Ronneberger et al. (2015), narrow: two convolutions at each of four scales, on the way down and up."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        pairs = zip((3, *widths), widths, strict=False)
        self.down = nn.ModuleList(nn.Sequential(*_convolution(a, b), *_convolution(b, b)) for a, b in pairs)
        up = list(zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True))
        self.larger = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in up)
        self.up = nn.ModuleList(nn.Sequential(*_convolution(2 * b, b), *_convolution(b, b)) for _, b in up)
        self.pool, self.last = nn.MaxPool2d(2), nn.Conv2d(widths[0], 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of ten classes, (N, 10): the mean over all positions."""
        kept = []
        for block in self.down:
            x = block(x if not kept else self.pool(kept[-1]))
            kept.append(x)
        for larger, block, beside in zip(self.larger, self.up, reversed(kept[:-1]), strict=True):
            x = block(torch.cat([larger(x), beside], 1))
        return self.last(x).mean((2, 3))


NETWORKS = {
    "lenet": Network(_own("lenet"), 256, 1, 28),
    "two-cnn": Network(_own("two-cnn"), 256, 1, 28),
    "resnet20": Network(lambda: get_model("resnet20_cifar10"), 64, 3, 32),
    "resnet18": Network(_resnet18, 16, 3, 64),
    "vgg11": Network(_vgg11, 32, 3, 32),
    "mobilenetv2": Network(_mobilenet, 16, 3, 96),
    "unet": Network(UNet, 8, 3, 64),
}


def without_batch_norm(model: nn.Module) -> nn.Module:
    """A copy with nothing where batch norm stood."""
    free = copy.deepcopy(model)
    for name, module in list(free.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            free.set_submodule(name, nn.Identity())
    return free


def sides_of(
    network: Network, layout: torch.memory_format
) -> tuple[dict[str, nn.Module], bnkit.model.change_list.Changes]:
    """The three networks, and what the conversion says of itself."""
    torch.manual_seed(0)
    theirs = network.build().to(memory_format=layout)
    ours, changes = bnkit.convert(theirs, example_inputs=network.images(layout)[:8])
    return dict(zip(SIDES, (theirs, ours, without_batch_norm(theirs)), strict=True)), changes


def step(model: nn.Module, images: Tensor, targets: Tensor) -> Callable[[], object]:
    """A step of training. The rate is 0, so that a network without batch norm stays finite; the work is the same."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    model.train()

    def run() -> None:
        loss = nn.functional.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def evaluation(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """A batch in evaluation mode."""
    model.eval()

    def run() -> Tensor:
        with torch.no_grad():
            output: Tensor = model(images)
            return output

    return run


def measured(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """How long a call of each takes, by turns, which take so long together."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for run in runs.values():
        run()

    def once(name: str, times: int) -> float:
        began = clock()
        for _ in range(times):
            runs[name]()
        return (clock() - began) / times

    times = max(1, round(TURN / once(SIDES[0], 2)))
    found: dict[str, list[float]] = {name: [] for name in runs}
    shuffled, end = random.Random(0), time.perf_counter() + seconds
    while time.perf_counter() < end or len(found[SIDES[0]]) < 5:
        for name in shuffled.sample(list(runs), len(runs)):
            found[name].append(once(name, times))
    return found


def ratios(found: dict[str, list[float]]) -> dict[str, float]:
    """How many times faster than torch.nn ours and a free batch norm are."""
    return {
        side: median(theirs / own for theirs, own in zip(found[SIDES[0]], found[side], strict=True))
        for side in SIDES[1:]
    }


def share(ours: float, free: float) -> float:
    """How much of the time that a free batch norm saves, ours saves; NaN where that is nothing to speak of."""
    return (1 - 1 / ours) / (1 - 1 / free) if free > 1.01 else math.nan


def profile(runs: dict[str, Callable[[], object]]) -> None:
    """Print where the time of torch.nn, ours and the free network goes."""
    for name, run in runs.items():
        run()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(5):
                run()
        print(f"\n{name}")
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=44))


def _cells(found: dict[str, dict[str, float]]) -> list[str]:
    cells = []
    for kind in KINDS:
        ours, free = found[kind]["bnkit"], found[kind]["free"]
        part = share(ours, free)
        cells += [f"{ours:.2f}", f"{free:.2f}", "–" if math.isnan(part) else f"{part:.0%}"]
    return cells


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--threads", type=int, choices=(1, 2), action="append")
    parser.add_argument("--layout", choices=LAYOUTS, action="append")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # those of the libraries
    bnkit.keep_freed_memory()
    rows = []
    print(
        "| network | threads | layout | ms | training | free | of it | ms | evaluation | free | of it |\n|"
        + " --- |" * 11
    )
    for name in options.network or NETWORKS:
        network = NETWORKS[name]
        for threads in options.threads or (1, 2):
            torch.set_num_threads(threads)
            for layout in options.layout or LAYOUTS:
                models, _ = sides_of(network, LAYOUTS[layout])
                images = network.images(LAYOUTS[layout])
                targets = torch.randint(0, 10, (network.batch_size,))
                makers = (lambda model: step(model, images, targets), lambda model: evaluation(model, images))  # noqa: B023
                found, milliseconds = {}, {}
                for kind, make in zip(KINDS, makers, strict=True):
                    runs = {side: make(model) for side, model in models.items()}
                    if options.profile:
                        profile(runs)
                        continue
                    times = measured(runs, options.seconds)
                    found[kind], milliseconds[kind] = ratios(times), 1000 * median(times[SIDES[0]])
                if options.profile:
                    continue
                rows.append({"network": name, "threads": threads, "layout": layout, **found})
                training, evaluated = _cells(found)[:3], _cells(found)[3:]
                times_of_torch = [f"{milliseconds[kind]:.1f}" for kind in KINDS]
                cells = [name, str(threads), layout, times_of_torch[0], *training, times_of_torch[1], *evaluated]
                print(f"| {' | '.join(cells)} |", flush=True)
    if rows:
        means = {kind: {side: geometric_mean(row[kind][side] for row in rows) for side in SIDES[1:]} for kind in KINDS}
        training, evaluated = _cells(means)[:3], _cells(means)[3:]
        print(f"| {' | '.join(['geometric mean', '', '', '', *training, '', *evaluated])} |")
        print(f"\ntorch {torch.__version__}, {platform.machine()}; times faster than torch.nn")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
