"""One layer, forward and backward: BatchNorm2d and ReLU, ours against ``torch.nn`` and ``torch.compile``.

Ten shapes, contiguous and channels last; all sides in one process, in turns; medians, and ratios taken turn by turn. The
physical limit is the least traffic there is (five passes over the tensor: x, y forward; x, dy, dx backward) at the rate of
a copy with streaming stores, measured in the same turns.

    python -m benchmarks.layer                    # with freed memory kept
    python -m benchmarks.layer --allocator default
    python -m benchmarks.layer --compile          # torch.compile too: takes minutes to compile
    python -m benchmarks.layer --overhead         # what a call costs on small inputs
    python -m benchmarks.layer --json FILE
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

import bnkit
from bnkit.kernels.cpu import intrinsics
from bnkit.kernels.cpu import loop_call as arguments
from bnkit.kernels.cpu.loop_call import loop_call_for, partition
from bnkit.kernels.cpu.loop_call import run as run_loops
from bnkit.kernels.cpu.numba_compile import outer
from bnkit.kernels.cpu.threads import available, threads_for

SHAPES = (
    (256, 6, 28, 28),  # LeNet
    (256, 16, 10, 10),
    (1000, 6, 24, 24),  # the course's CNN
    (1000, 12, 8, 8),
    (64, 64, 14, 14),
    (128, 16, 32, 32),  # ResNets for CIFAR
    (128, 64, 8, 8),
    (64, 512, 7, 7),  # ResNets for ImageNet
    (32, 64, 56, 56),
    (256, 64, 28, 28),
)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def _copy(a: Any) -> None:
    """Whole cache lines from one tensor to another, past the caches."""
    _, first, last = partition(a, intrinsics.load(a, arguments.COUNT) // 16)
    x, y = _pointer(intrinsics.load(a, arguments.X)), _pointer(intrinsics.load(a, arguments.Y))
    for place in range(16 * first, 16 * last):
        intrinsics.stream(y, place, intrinsics.load(x, place))


_pointer = intrinsics.pointer[np.float32]
_copy_at = outer(_copy, "benchmark")


def streamed_copy(x: Tensor, y: Tensor) -> None:
    """``y`` becomes ``x``, past the caches; both begin at a multiple of 64 bytes."""
    assert x.data_ptr() % 64 == y.data_ptr() % 64 == 0 and x.numel() % 16 == 0
    threads = threads_for(x.numel() // 16, x.numel(), available())
    tensors = (x.data_ptr(), 0, y.data_ptr(), *[0] * 8)
    plan = loop_call_for((_copy_at, 0, 0), threads=threads)
    run_loops(plan.address, *tensors, x.numel(), 0.0, 0, 0, 0, 0.0, 0)


def step(
    layer: Callable[[Tensor], Tensor], parameters: list[Tensor], x: Tensor, gradient: Tensor
) -> Callable[[], object]:
    """A forward and a backward pass."""

    def run() -> object:
        return torch.autograd.grad(layer(x), [x, *parameters], gradient)

    return run


def sides(shape: tuple[int, ...], layout: torch.memory_format, *, compiled: bool) -> dict[str, Callable[[], object]]:
    """What is measured for one shape, by name."""
    x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
    gradient = torch.randn(shape).contiguous(memory_format=layout)
    theirs, ours = nn.BatchNorm2d(shape[1]), bnkit.nn.BatchNorm2d(shape[1], activation="relu", kernel="numba")
    automatic = bnkit.nn.BatchNorm2d(shape[1], activation="relu")
    source, target = torch.randn(shape), torch.empty(shape)
    found = {
        "torch.nn": step(lambda x: torch.relu_(theirs(x)), list(theirs.parameters()), x, gradient),
        "numba": step(ours, list(ours.parameters()), x, gradient),
        "auto": step(automatic, list(automatic.parameters()), x, gradient),
        "copy": lambda: streamed_copy(source, target),
        "Tensor.copy_": lambda: target.copy_(source),
    }
    if compiled:
        torch._dynamo.reset()  # it gives up on a function after eight versions
        whole = torch.compile(lambda x: torch.relu(theirs(x)))
        found["torch.compile"] = step(whole, list(theirs.parameters()), x, gradient)
    return found


def measured(
    found: dict[str, Callable[[], object]], seconds: float, before: Callable[[], object] | None = None
) -> dict[str, list[float]]:
    """Milliseconds by turn, in turns for so many seconds; ``before`` each there is something that does not count."""
    for run in found.values():
        run()
        run()
    shuffled = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in found}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["copy"]) < 7:
        # In another order each turn: who comes second to a like one finds its memory and the caches warm.
        for name in shuffled.sample(list(found), len(found)):
            run = found[name]
            if before is not None:
                before()
            began = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - began))
    return times


def row(shape: tuple[int, ...], layout: str, times: dict[str, list[float]]) -> dict[str, object]:
    """The medians and ratios of one shape."""

    def ratio(over: str, under: str) -> float:
        return median(a / b for a, b in zip(times[over], times[under], strict=True))

    return {
        "shape": "×".join(map(str, shape)),
        "layout": layout,
        "megabytes": math.prod(shape) * 4 / 1e6,
        **{name: median(values) for name, values in times.items()},
        "times faster": ratio("torch.nn", "auto"),
        "numba, times faster": ratio("torch.nn", "numba"),
        # A copy is two passes, a step five.
        "share of the limit": 2.5 * ratio("copy", "auto"),
        **({"times faster than torch.compile": ratio("torch.compile", "auto")} if "torch.compile" in times else {}),
    }


def table(rows: list[dict[str, object]]) -> str:
    """``rows`` in Markdown."""
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for entry in rows:
        cells = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in entry.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def overhead(seconds: float, *, cold: bool) -> str:
    """Small inputs, by kernel: what a call costs; ``cold``: behind a large tensor, which took the place of all code in the caches."""
    rows = []
    large = torch.zeros(1 << 23)
    for shape in ((4, 8), (64, 16), (4, 8, 4, 4), (16, 16, 8, 8)):
        kind = bnkit.nn.BatchNorm1d if len(shape) == 2 else bnkit.nn.BatchNorm2d
        torch_kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
        x, gradient = torch.randn(shape, requires_grad=True), torch.randn(shape)
        theirs = torch_kind(shape[1])
        found = {
            "torch.nn": step(lambda x, theirs=theirs: torch.relu_(theirs(x)), list(theirs.parameters()), x, gradient)
        }
        for kernel in ("auto", "numba", "reference"):
            layer = kind(shape[1], activation="relu", kernel=kernel)
            found[kernel] = step(layer, list(layer.parameters()), x, gradient)
        found["copy"] = lambda x=x: x.detach().clone()
        times = measured(found, seconds, (lambda: large.add_(1)) if cold else None)
        entry: dict[str, object] = {"shape": "×".join(map(str, shape))}
        entry |= {f"{name}, µs": 1000 * median(times[name]) for name in ("torch.nn", "auto", "numba", "reference")}
        entry["auto / torch.nn"] = median(a / b for a, b in zip(times["auto"], times["torch.nn"], strict=True))
        rows.append(entry)
    return table(rows)


def main() -> None:
    """Measure what the options ask for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--allocator", choices=("kept", "default"), default="kept")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each shape and layout")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.allocator == "kept":
        bnkit.keep_freed_memory()
    if arguments.overhead:
        print(overhead(arguments.seconds, cold=False))
        print(f"\nBehind a tensor of 32 MB:\n\n{overhead(arguments.seconds, cold=True)}")
        return
    rows = [
        row(shape, name, measured(sides(shape, layout, compiled=arguments.compile), arguments.seconds))
        for name, layout in LAYOUTS.items()
        for shape in SHAPES
    ]
    print(table(rows))
    for name in LAYOUTS:
        here = [entry["times faster"] for entry in rows if entry["layout"] == name]
        print(
            f"\n{name}: {math.exp(sum(map(math.log, here)) / len(here)):.2f} times faster than torch.nn (geometric mean)"
        )
    machine = (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"\n{machine}, numba {numba.__version__}, freed memory: {arguments.allocator}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "allocator": arguments.allocator, "rows": rows}))


if __name__ == "__main__":
    main()
