"""What it takes to compute the outputs of ``torch.nn`` again: by PyTorch's functions, and by the compiled loop; one thread.

The shortest of some repetitions, added up over the outputs of a network: the machine may have other work.

    python -m benchmarks.rebuild
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

import bnkit
from bnkit.kernels.cpu.aten_affine import affine, coefficients

# For each network of ``benchmarks.memory``: the shape of outputs, how many of them, and how many with a sum.
NETWORKS = {
    "vgg 32": [((64, 64, 32, 32), 2, 0), ((64, 128, 16, 16), 2, 0), ((64, 256, 8, 8), 2, 0)],
    "resnet18 224": [
        ((4, 64, 112, 112), 1, 0), ((4, 64, 56, 56), 2, 2), ((4, 128, 28, 28), 2, 2), ((4, 256, 14, 14), 2, 2), ((4, 512, 7, 7), 2, 2),
    ],
    "resnet20 32": [((128, 16, 32, 32), 4, 3), ((128, 32, 16, 16), 3, 3), ((128, 64, 8, 8), 3, 3)],
}  # fmt: skip
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def shortest(function: Callable[[], Tensor], times: int = 9) -> float:
    """Seconds."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        function()
        found.append(time.perf_counter() - began)
    return min(found)


def both(shape: tuple[int, ...], layout: torch.memory_format, *, adds: bool) -> tuple[float, float]:
    """By PyTorch's functions, and by the loop."""
    x, residual = (torch.randn(shape).contiguous(memory_format=layout) for _ in range(2))
    zeros, ones = torch.zeros(shape[1]), torch.ones(shape[1])
    known = coefficients(zeros, ones, None, None, 0.0, False)

    def passes() -> Tensor:
        y: Tensor = torch.native_batch_norm(x, ones, zeros, zeros, ones, False, 0.0, 0.0)[0]
        return (y.add_(residual) if adds else y).relu_()

    return shortest(passes), shortest(lambda: affine(x, known, residual if adds else None, None, True))


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    bnkit.keep_freed_memory()
    print("| network | layout | ms, PyTorch's functions | ms, loop | of them |\n| --- | --- | --- | --- | --- |")
    for name, outputs in NETWORKS.items():
        for layout, memory_format in LAYOUTS.items():
            passes = loop = 0.0
            for shape, alone, summed in outputs:
                for count, adds in ((alone, False), (summed, True)):
                    if count:
                        taken = both(shape, memory_format, adds=adds)
                        passes, loop = passes + count * taken[0], loop + count * taken[1]
            print(f"| {name} | {layout} | {1e3 * passes:.1f} | {1e3 * loop:.1f} | {loop / passes:.2f} |")


if __name__ == "__main__":
    main()
