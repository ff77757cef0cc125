"""From which size on the compiled loops are faster than PyTorch's kernel; ``--write`` makes the table that is shipped.

For each situation that ``kernels/size_thresholds.py`` tells apart, inputs of more and more elements, BatchNorm and ReLU forward
and backward, PyTorch's kernel in our layer against the loops, in shuffled turns. The table gets the least size from which on
the loops are faster by a twentieth in the median of turns, and at no larger one slower by more than that; null where there
is none.

    python -m benchmarks.size_thresholds
    python -m benchmarks.size_thresholds --write
"""

from __future__ import annotations

import argparse
import json
import math
from statistics import median

import torch

import bnkit
from benchmarks.layer import measured, step
from bnkit.kernels.size_thresholds import TABLE, case

# Shapes of one example, of which so many are taken that the input has about so many elements.
EXAMPLES = {
    "planes": ((6, 28, 28), (64, 28, 28)),
    "few positions": ((16, 10, 10), (64, 14, 14), (512, 7, 7)),
    "one position": ((120,), (1024,)),
    "channels last, few channels": ((6, 28, 28), (16, 10, 10)),
    "channels last": ((32, 16, 16), (64, 14, 14), (512, 7, 7)),
}
SIZES = tuple(sorted([1 << power for power in range(14, 24)] + [3 << power for power in range(13, 22)]))
# What noise could make of loops that are as fast.
NOISE = 0.05


def ratio(example: tuple[int, ...], size: int, layout: torch.memory_format, seconds: float) -> float:
    """Time of the loops over that of PyTorch's kernel."""
    shape = (max(2, round(size / math.prod(example))), *example)
    kind = bnkit.nn.BatchNorm1d if len(shape) == 2 else bnkit.nn.BatchNorm2d
    x, gradient = (torch.randn(shape).contiguous(memory_format=layout) for _ in range(2))
    x.requires_grad_()
    found = {}
    for kernel in ("aten", "numba"):
        layer = kind(shape[1], activation="relu", kernel=kernel)
        found[kernel] = step(layer, list(layer.parameters()), x, gradient)
    found["copy"] = lambda: None  # `measured` counts the turns by it
    times = measured(found, seconds)
    return median(a / b for a, b in zip(times["numba"], times["aten"], strict=True))


def main() -> None:
    """Measure every situation, print it, and write the table if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each size")
    arguments = parser.parse_args()
    bnkit.keep_freed_memory()
    least: dict[str, int | None] = {}
    for name, examples in EXAMPLES.items():
        layout = torch.channels_last if name.startswith("channels last") else torch.contiguous_format
        assert case(torch.empty(2, *examples[0]).contiguous(memory_format=layout)) == name
        worst = {size: max(ratio(example, size, layout, arguments.seconds) for example in examples) for size in SIZES}
        print(f"{name:28}", "  ".join(f"{size}: {value:.2f}" for size, value in worst.items()), flush=True)
        least[name] = None
        for size in reversed(SIZES):
            if worst[size] > 1 + NOISE:
                break
            if worst[size] <= 1 - NOISE:
                least[name] = size
    print(json.dumps(least, indent=2))
    if arguments.write:
        TABLE.write_text(json.dumps(least, indent=2) + "\n")


if __name__ == "__main__":
    main()
