"""Bytes held for the backward pass, and the time of a step of training: with ``bnkit.recompute``, and without.

Networks like VGG and like ResNet, with the layers of ``torch.nn`` and with ours. "Held" is what operations of the forward
pass allocated and is alive behind it: parameters and the batch are not in it. Both sides train the same network on the same
batch, in turns, in shuffled order; ratios are taken turn by turn, medians of these.

    python -m benchmarks.memory                  # with freed memory kept
    python -m benchmarks.memory --allocator default
    python -m benchmarks.memory --only "vgg 32"  # networks whose name holds this
    python -m benchmarks.memory --peak           # the peak resident size instead, each in a process of its own
    python -m benchmarks.memory --clock processor  # its time instead, on one thread: where others work at the same time
    python -m benchmarks.memory --json FILE
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import bnkit

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
LAYERS = ("torch.nn", "bnkit.nn")


def normalised(layers: str, channels: int, *, relu: bool) -> list[nn.Module]:
    """Batch normalization, and ReLU behind it or in it."""
    if layers == "torch.nn":
        return [nn.BatchNorm2d(channels), *([nn.ReLU(inplace=True)] if relu else [])]
    return [bnkit.nn.BatchNorm2d(channels, activation="relu" if relu else None)]


def vgg(layers: str, widths: tuple[int, ...]) -> nn.Module:
    """3×3 convolutions of these widths, max-pooling where the width is 0 (Simonyan & Zisserman, 2015)."""
    found: list[nn.Module] = []
    before = 3
    for width in widths:
        if width == 0:
            found.append(nn.MaxPool2d(2))
            continue
        found += [nn.Conv2d(before, width, 3, padding=1, bias=False), *normalised(layers, width, relu=True)]
        before = width
    return nn.Sequential(*found, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al., 2016)."""

    def __init__(self, layers: str, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.ours = layers != "torch.nn"
        self.first = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False), *normalised(layers, width, relu=True)
        )
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm = normalised(layers, width, relu=self.ours)[0]
        self.shortcut = nn.Sequential()
        if stride != 1 or before != width:
            convolution = nn.Conv2d(before, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, *normalised(layers, width, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        """The output of the block."""
        residual, out = self.shortcut(x), self.second(self.first(x))
        if self.ours:
            return self.norm(out, residual)  # type: ignore[no-any-return]
        out = self.norm(out)
        out += residual
        return functional.relu(out, inplace=True)


def resnet(layers: str, stem: list[nn.Module], widths: tuple[int, ...], blocks: int) -> nn.Module:
    """``blocks`` of each width behind a stem."""
    found, before = [*stem], widths[0]
    for stage, width in enumerate(widths):
        for place in range(blocks):
            found.append(Block(layers, before, width, 2 if stage > 0 and place == 0 else 1))
            before = width
    return nn.Sequential(*found, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def _small_stem(layers: str, width: int) -> list[nn.Module]:
    return [nn.Conv2d(3, width, 3, 1, 1, bias=False), *normalised(layers, width, relu=True)]


def _large_stem(layers: str) -> list[nn.Module]:
    return [nn.Conv2d(3, 64, 7, 2, 3, bias=False), *normalised(layers, 64, relu=True), nn.MaxPool2d(3, 2, 1)]


class Network(NamedTuple):
    """A network, and the shape of its batch."""

    make: Callable[[str], nn.Module]
    shape: tuple[int, int, int, int]


NETWORKS = {
    "vgg 32": Network(lambda layers: vgg(layers, (64, 64, 0, 128, 128, 0, 256, 256, 0)), (64, 3, 32, 32)),
    "vgg 224": Network(lambda layers: vgg(layers, (32, 0, 64, 0, 128, 128, 0, 256, 256, 0)), (4, 3, 224, 224)),
    "resnet 32": Network(lambda layers: resnet(layers, _small_stem(layers, 64), (64, 128, 256), 2), (64, 3, 32, 32)),
    "resnet18 224": Network(lambda layers: resnet(layers, _large_stem(layers), (64, 128, 256, 512), 2), (4, 3, 224, 224)),
    "resnet20 32": Network(lambda layers: resnet(layers, _small_stem(layers, 16), (16, 32, 64), 3), (128, 3, 32, 32)),
}  # fmt: skip


class Held(TorchDispatchMode):
    """Counts the bytes of what operations allocated and is alive."""

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and note what is new in its result."""
        result = function(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                storage = tensor.untyped_storage()
                self._found[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return result

    def bytes(self) -> int:
        """How many bytes are alive now."""
        return sum(size for storage, size in self._found.values() if not storage.expired())  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def context(model: nn.Module, *, again: bool) -> Iterator[None]:
    """``recompute`` or nothing."""
    with bnkit.recompute(model) if again else contextlib.nullcontext():
        yield


def held(model: nn.Module, x: Tensor, targets: Tensor, *, again: bool) -> int:
    """Bytes held behind a forward pass."""
    with Held() as counted, context(model, again=again):
        loss = functional.cross_entropy(model(x), targets)
    assert loss.requires_grad
    return counted.bytes()


def seconds(
    model: nn.Module, x: Tensor, targets: Tensor, *, again: bool, clock: Callable[[], float] = time.perf_counter
) -> float:
    """A forward and a backward pass."""
    began = clock()
    with context(model, again=again):
        loss = functional.cross_entropy(model(x), targets)
    loss.backward()
    return clock() - began


def made(name: str, layers: str, layout: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, a batch and its targets."""
    torch.manual_seed(0)
    network = NETWORKS[name]
    model = network.make(layers).to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    x = torch.randn(network.shape).contiguous(memory_format=LAYOUTS[layout])
    return model, x, torch.randint(0, 10, (network.shape[0],))


def row(name: str, layers: str, layout: str, long: float, clock: Callable[[], float]) -> dict[str, Any]:
    """The figures of one network with one kind of layers, measured for so many seconds."""
    model, x, targets = made(name, layers, layout)
    sizes = {again: held(model, x, targets, again=again) for again in (False, True)}
    times: dict[bool, list[float]] = {False: [], True: []}
    for again in (False, True, False, True):
        seconds(model, x, targets, again=again)
    shuffled, end = random.Random(0), time.perf_counter() + long
    while time.perf_counter() < end or len(times[True]) < 5:
        for again in shuffled.sample([False, True], 2):
            times[again].append(seconds(model, x, targets, again=again, clock=clock))
    ratios = sorted(b / a for a, b in zip(times[False], times[True], strict=True))
    return {
        "network": name,
        "layers": layers,
        "layout": layout,
        "batch": "×".join(map(str, x.shape)),
        "MB held": sizes[False] / 1e6,
        "MB, recompute": sizes[True] / 1e6,
        "of the bytes": sizes[True] / sizes[False],
        "ms": 1000 * median(times[False]),
        "of the time": median(ratios),
        "quartiles": f"{ratios[len(ratios) // 4]:.3f} to {ratios[-1 - len(ratios) // 4]:.3f}",
        "turns": len(ratios),
    }


def peak(name: str, layers: str, layout: str, *, again: bool) -> float:
    """The peak resident size of a few steps in this process, MB, above what it was before."""
    model, x, targets = made(name, layers, layout)
    small = x[:1]
    seconds(model, small, targets[:1], again=again)  # libraries are loaded, loops compiled
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        seconds(model, x, targets, again=again)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def peaks(name: str, layers: str, layout: str) -> dict[str, Any]:
    """The peak of both sides, each in a process of its own."""
    found = {}
    for again in (False, True):
        code = f"import benchmarks.memory as m; print(m.peak({name!r}, {layers!r}, {layout!r}, again={again}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found[again] = float(done.stdout)
    return {
        "network": name,
        "layers": layers,
        "layout": layout,
        "MB at the peak": found[False],
        "MB, recompute": found[True],
        "of the peak": found[True] / found[False],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """``rows`` in Markdown."""
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for entry in rows:
        cells = [f"{value:.3f}" if isinstance(value, float) and value < 10 else
                 f"{value:.0f}" if isinstance(value, float) else str(value) for value in entry.values()]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure what the options ask for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--allocator", choices=("kept", "default"), default="kept")
    parser.add_argument("--only", default="", help="networks whose name holds this")
    parser.add_argument("--layers", choices=LAYERS)
    parser.add_argument("--layout", choices=tuple(LAYOUTS))
    parser.add_argument("--seconds", type=float, default=10.0, help="for each line")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--peak", action="store_true", help="the peak resident size, and no times")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    clock = time.perf_counter
    if arguments.clock == "processor":
        clock = time.process_time
        torch.set_num_threads(1)  # others would wait for each other, which counts as time
    if arguments.allocator == "kept" and not arguments.peak:
        bnkit.keep_freed_memory()
    measured: Callable[[str, str, str], dict[str, Any]] = peaks
    if not arguments.peak:
        measured = lambda *which: row(*which, arguments.seconds, clock)  # noqa: E731
    rows = [
        measured(name, layers, layout)
        for name in NETWORKS
        for layers in LAYERS
        for layout in LAYOUTS
        if arguments.only in name and arguments.layers in (None, layers) and arguments.layout in (None, layout)
    ]
    print(table(rows))
    machine = (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"\n{machine}, freed memory: {'default' if arguments.peak else arguments.allocator}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "allocator": arguments.allocator, "rows": rows}))


if __name__ == "__main__":
    main()
