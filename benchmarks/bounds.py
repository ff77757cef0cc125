"""What bounds a layer on the CPU: the traffic that it cannot do without, in the order of memory and in that of channels.

Forward, a layer reads one tensor and writes one; backward it reads two and writes one. Here both are done with no arithmetic to
speak of and no second look at anything: once from the first address to the last, as a copy goes, and once channel by channel,
as it has to be where a channel is to stay in a cache until its statistics are known (the planes three further on fetched
ahead). Beside them: our loops, and the layer around them, whose own code is no longer in any cache when they end. All in
turns, in shuffled order; milliseconds, medians, and the share of five passes at the rate of a copy, taken turn by turn.

    python -m benchmarks.bounds
    python -m benchmarks.bounds --shape 128 16 32 32
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

import bnkit
from benchmarks.layer import measured, step, streamed_copy
from bnkit.kernels.cpu import intrinsics, launch, loop_call
from bnkit.kernels.cpu.contiguous_loops import LINE, PIECE, PLANES_AHEAD
from bnkit.kernels.cpu.loop_call import loop_call_for, partition
from bnkit.kernels.cpu.loop_call import run as run_loops
from bnkit.kernels.cpu.numba_compile import outer
from bnkit.kernels.cpu.threads import available
from bnkit.kernels.kernel_interface import BatchNormArgs

SHAPES = ((256, 64, 28, 28), (32, 64, 56, 56))

_pointer = intrinsics.pointer[np.float32]


def mover(x: Tensor, g: Tensor, y: Tensor, *, both: bool, by_channel: bool) -> Callable[[], object]:  # noqa: C901 - a loop in two orders
    """A call that reads ``x``, or ``both`` ``x`` and ``g``, and writes ``y``, past the caches."""

    def move(a: Any) -> None:
        """Write y = x, or y = x + g: all of it in its order, or channel by channel."""
        examples, channels = intrinsics.load(a, loop_call.EXAMPLES), intrinsics.load(a, loop_call.CHANNELS)
        positions = intrinsics.load(a, loop_call.POSITIONS)
        row = channels * positions
        x, y = _pointer(intrinsics.load(a, loop_call.X)), _pointer(intrinsics.load(a, loop_call.Y))
        g = _pointer(intrinsics.load(a, loop_call.GRADIENT))
        if by_channel:
            _, begin, end = partition(a, channels)
            for c in range(begin, end):
                for n in range(examples):
                    first = n * row + c * positions
                    ahead = PLANES_AHEAD * row if n + PLANES_AHEAD < examples else 0
                    for piece in range(first, first + positions, PIECE):
                        last = min(piece + PIECE, first + positions)
                        if ahead != 0:
                            for i in range(piece, last, LINE):
                                intrinsics.prefetch(x, i + ahead)
                                if both:
                                    intrinsics.prefetch(g, i + ahead)
                        for i in range(piece, last):
                            intrinsics.stream(
                                y, i, intrinsics.load(x, i) + intrinsics.load(g, i) if both else intrinsics.load(x, i)
                            )
        else:
            _, begin, end = partition(a, examples)
            for i in range(begin * row, end * row):
                intrinsics.stream(
                    y, i, intrinsics.load(x, i) + intrinsics.load(g, i) if both else intrinsics.load(x, i)
                )

    address = outer(move, f"bounds_{both:d}{by_channel:d}")
    plan = loop_call_for(
        (address, 0, 0),
        threads=available(),
        examples=x.shape[0],
        channels=x.shape[1],
        positions=math.prod(x.shape[2:]),
    )

    def run() -> object:
        tensors = (x.data_ptr(), 0, y.data_ptr(), g.data_ptr(), *[0] * 7)
        return run_loops(plan.address, *tensors, x.numel(), 0.0, 0, 0, 0, 0.0, 0)

    return run


def sides(shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    x, g, y = torch.randn(shape), torch.randn(shape), torch.empty(shape)
    channels = shape[1]
    weight, bias, known = torch.ones(channels), torch.zeros(channels), torch.empty(6, channels, dtype=torch.float64)
    count = x.numel() // channels
    leaf, layer = x.clone().requires_grad_(), bnkit.nn.BatchNorm2d(channels, activation="relu", kernel="numba")

    def loops() -> object:
        args = BatchNormArgs(x, None, None, weight, bias, True, 0.0, layer.eps, "relu", num_values=count)
        output = launch.forward(args, known, float64_compute=False)
        return output, launch.backward(g, args, None, known)

    def both(by_channel: bool) -> Callable[[], object]:
        forward = mover(x, g, y, both=False, by_channel=by_channel)
        backward = mover(x, g, y, both=True, by_channel=by_channel)
        return lambda: (forward(), backward())

    return {
        "copy": lambda: streamed_copy(x, y),
        "the traffic, in the order of memory": both(False),
        "the traffic, channel by channel": both(True),
        "our loops": loops,
        "our layer": step(layer, list(layer.parameters()), leaf, g),
    }


def main() -> None:
    """Measure, and print a table for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=4, metavar=("N", "C", "H", "W"))
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    if asked.shape and asked.shape[2] * asked.shape[3] % LINE:
        parser.error(f"got planes of {asked.shape[2] * asked.shape[3]} positions; expected a multiple of {LINE}")
    bnkit.keep_freed_memory()
    for shape in [tuple(asked.shape)] if asked.shape else SHAPES:
        times = measured(sides(shape), asked.seconds)
        print(f"| {'×'.join(map(str, shape))} | ms | share of the limit |\n| --- | --- | --- |")
        for name, own in times.items():
            share_of_limit = median(2.5 * copy / mine for copy, mine in zip(times["copy"], own, strict=True))
            # A copy is two of the five passes.
            said = "" if name == "copy" else f"{share_of_limit:.2f}"
            print(f"| {name} | {median(own):.2f} | {said} |")
        print()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
