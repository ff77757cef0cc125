"""One layer, forward and backward: eager ``torch.nn``, ``torch.compile`` and ours, ten shapes, two layouts, three dtypes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from benchmarks.gpu_parts.device import Bench, Step
from torch import Tensor, nn

import bnkit.nn

# ResNet-50's at batch 256, others' at smaller ones; the one with most to gain by the way through the cache comes first.
SHAPES = [
    (256, 256, 56, 56),
    (256, 64, 112, 112),
    (256, 512, 28, 28),
    (256, 1024, 14, 14),
    (256, 2048, 7, 7),
    (256, 64, 56, 56),
    (32, 64, 56, 56),
    (64, 512, 7, 7),
    (128, 16, 32, 32),
    (256, 6, 28, 28),
]
DRY_SHAPES = [(4, 2, 4, 4), (2, 3, 3, 5)]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
DTYPES = [torch.bfloat16, torch.float32, torch.float16]
_REPEATS = 20


class Cell(NamedTuple):
    """What is measured: a shape, a layout, a dtype, and whether a residual is added before ReLU."""

    shape: tuple[int, ...]
    layout: str
    dtype: torch.dtype
    adds: bool


def cells(*, is_dry: bool) -> list[Cell]:
    """All of them, the most telling first."""
    shapes, dtypes = (DRY_SHAPES, DTYPES[:1]) if is_dry else (SHAPES, DTYPES)
    plain = [Cell(shape, layout, dtype, False) for dtype, shape, layout in itertools.product(dtypes, shapes, LAYOUTS)]
    added = [Cell(shape, layout, dtypes[0], True) for shape, layout in itertools.product(shapes, LAYOUTS)]
    return plain[: 2 * len(shapes)] + added + plain[2 * len(shapes) :]


class _Plain(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, residual: Tensor | None) -> Tensor:
        normalised = self.norm(x)
        return torch.relu(normalised if residual is None else normalised + residual)


def _contenders(cell: Cell, device: str, *, compiles: bool) -> tuple[dict[str, Callable[..., Tensor]], list[Any]]:
    channels = cell.shape[1]
    tensors = [torch.randn(cell.shape, device=device).to(cell.dtype) for _ in range(3)]
    x, residual, upstream = (tensor.contiguous(memory_format=LAYOUTS[cell.layout]) for tensor in tensors)
    inputs = [x.requires_grad_(), residual.requires_grad_() if cell.adds else None, upstream]
    layers: dict[str, Callable[..., Tensor]] = {
        "ours": bnkit.nn.BatchNorm2d(channels, activation="relu", kernel="triton").to(device),
        "eager": _Plain(channels).to(device),
    }
    if compiles:
        torch._dynamo.reset()
        backend = "aot_eager" if device == "cpu" else "inductor"
        layers["compile"] = torch.compile(_Plain(channels).to(device), dynamic=False, backend=backend)
    return layers, inputs


def _step(layer: Callable[..., Tensor], x: Tensor, residual: Tensor | None, upstream: Tensor) -> Step:
    wanted = [x] if residual is None else [x, residual]
    wanted += list(layer.parameters())  # type: ignore[attr-defined]
    return lambda: torch.autograd.grad(layer(x, residual), wanted, upstream)


def warm_ups(device: str) -> list[Callable[[], object]]:
    """What compiles one cell each, into the caches on disk; each can be sent to a process."""
    return [partial(_warm_up, cell, device) for cell in cells(is_dry=False)]


def _warm_up(cell: Cell, device: str) -> None:
    layers, inputs = _contenders(cell, device, compiles=True)
    for layer in layers.values():
        _step(layer, *inputs)()


def run(bench: Bench, until: float) -> list[dict[str, Any]]:
    """A row for each cell, until so many seconds are left; what is beyond is noted."""
    rows: list[dict[str, Any]] = []
    todo = cells(is_dry=bench.is_dry)
    for number, cell in enumerate(todo):
        if bench.left() < until:
            bench.notes.append(f"layers: {number} of {len(todo)} measured, then no time was left")
            break
        row = {"shape": list(cell.shape), "layout": cell.layout, "dtype": str(cell.dtype)[6:], "adds": cell.adds}
        try:
            rows.append(row | _measured(bench, cell, compiles=bench.left() > until + 20))
        except Exception as error:
            rows.append(row | {"failed": f"{type(error).__name__}: {error}"})
    return rows


def _measured(bench: Bench, cell: Cell, *, compiles: bool) -> dict[str, Any]:
    layers, inputs = _contenders(cell, bench.device, compiles=compiles)
    x, residual, _ = inputs
    copied = torch.empty_like(x)
    source = x.detach()
    steps: dict[str, Step] = {name: _step(layer, *inputs) for name, layer in layers.items()}
    steps["copy"] = lambda: copied.copy_(source)
    repeats = 1 if bench.is_dry else _REPEATS
    times = bench.times(steps, repeats)
    forward = bench.times({name: lambda layer=layer: layer(x, residual) for name, layer in layers.items()}, repeats)
    passes = 8 if cell.adds else 5  # x, y; x, dy, dx: and the residual twice, and its gradient
    return {
        "times_ms": times,
        "forward_ms": forward,
        "times_faster": {name: times[name] / times["ours"] for name in layers if name != "ours"},
        "share_of_copy": passes / 2 * times["copy"] / times["ours"],
        "copy_gb_per_s": 2 * x.numel() * x.itemsize / times["copy"] / 1e6,
        "held_mb": {name: _held(bench, layer, x, residual) for name, layer in layers.items()},
    }


def _held(bench: Bench, layer: Callable[..., Tensor], x: Tensor, residual: Tensor | None) -> float:
    """MB that a forward pass leaves for its backward pass, its output included."""
    if bench.is_dry:
        return 0.0
    before = torch.cuda.memory_allocated()
    output = layer(x, residual)
    held = (torch.cuda.memory_allocated() - before) / 1e6
    del output
    return held
