"""Whole networks: a training step of a ResNet-50, and how many small trainings fit into a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from benchmarks.gpu_parts.device import Bench, Step
from torch import Tensor, nn
from torch.nn import functional

import bnkit.nn

# ResNet-50 (He et al., 2015, table 1): blocks of each stage, and their width.
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
_EXPANSION = 4
_BATCH = 128
_STEPS_OF_A_RUN = 100


class Norm(nn.Module):
    """Batch normalization, residual and ReLU: PyTorch's, one after the other, or our layer, which does all."""

    def __init__(self, channels: int, *, ours: bool, bends: bool = True) -> None:
        super().__init__()
        self.is_ours, self.bends = ours, bends
        if ours:
            self.norm: nn.Module = bnkit.nn.BatchNorm2d(channels, activation="relu" if bends else None, kernel="triton")
        else:
            self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.is_ours:
            return self.norm(x, residual)
        x = self.norm(x)
        x = x if residual is None else x + residual
        return functional.relu(x, inplace=True) if self.bends else x


class _Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, *, ours: bool) -> None:
        super().__init__()
        outputs = _EXPANSION * width
        self.first = nn.Conv2d(inputs, width, 1, bias=False)
        self.first_norm = Norm(width, ours=ours)
        self.second = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.second_norm = Norm(width, ours=ours)
        self.third = nn.Conv2d(width, outputs, 1, bias=False)
        self.third_norm = Norm(outputs, ours=ours)
        self.shortcut = self.shortcut_norm = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_norm = Norm(outputs, ours=ours, bends=False)

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.shortcut is None or self.shortcut_norm is None else self.shortcut_norm(self.shortcut(x))
        x = self.second_norm(self.second(self.first_norm(self.first(x))))
        return self.third_norm(self.third(x), kept)


def resnet50(*, ours: bool, stages: tuple[tuple[int, int], ...] = STAGES) -> nn.Module:
    """A ResNet-50 for 1,000 classes."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), Norm(64, ours=ours), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for number, (blocks, width) in enumerate(stages):
        for block in range(blocks):
            layers.append(_Block(inputs, width, 2 if number > 0 and block == 0 else 1, ours=ours))
            inputs = _EXPANSION * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def _training(model: Any, owner: nn.Module, x: Tensor, targets: Tensor) -> Step:
    optimizer = torch.optim.SGD(owner.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        functional.cross_entropy(model(x).float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _network(device: str, name: str) -> tuple[nn.Module, Any, Tensor, Tensor]:
    is_dry = device == "cpu"
    stages = ((1, 2),) if is_dry else STAGES
    batch, side = (2, 16) if is_dry else (_BATCH, 224)
    model = resnet50(ours=name.startswith("ours"), stages=stages)
    model = model.to(device, torch.bfloat16, memory_format=torch.channels_last)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.float()
    x = torch.randn(batch, 3, side, side).to(device, torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(model, backend="aot_eager" if is_dry else "inductor") if "compile" in name else model
    return model, compiled, x, torch.randint(0, 1000, (batch,), device=device)


def warm_ups(device: str) -> list[Callable[[], object]]:
    """What compiles a ResNet-50 each, into the caches on disk; each can be sent to a process."""
    return [partial(_warm_up, device, name) for name in ("compile", "ours, compile", "ours")]


def _warm_up(device: str, name: str) -> None:
    model, compiled, x, targets = _network(device, name)
    _training(compiled, model, x, targets)()


def step_times(bench: Bench) -> dict[str, Any]:
    """A step of ResNet-50 in bfloat16, channels last: ms, and the peak of memory.

    In a CUDA graph the host does nothing: there, the time is the device's.
    """
    rows: dict[str, Any] = {}
    graphs = {} if bench.is_dry else {"eager, CUDA graph": 15, "ours, CUDA graph": 15}
    for name, seconds in {"eager": 10, "ours": 20, **graphs, "compile": 60, "ours, compile": 60}.items():
        if bench.left() < seconds:
            bench.notes.append(f"ResNet-50, {name}: left out, {max(bench.left(), 0):.0f} s were left")
            continue
        torch._dynamo.reset()
        model, compiled, x, targets = _network(bench.device, name)
        step = _training(compiled, model, x, targets)
        for _ in range(1 if bench.is_dry else 3):
            step()
        step = _captured(step) if "graph" in name else step
        if not bench.is_dry:
            torch.cuda.reset_peak_memory_stats()
        spent = bench.times({name: step}, 1 if bench.is_dry else 10, flush=False)[name]
        peak = None if bench.is_dry else torch.cuda.max_memory_allocated() / 1e6
        rows[name] = {"step_ms": spent, "images_per_second": 1000 * len(x) / spent, "peak_mb": peak}
        del model, compiled, step
    return rows


def _small(*, ours: bool, width: int = 6) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 5, padding=2), Norm(width, ours=ours), nn.AvgPool2d(2),
        nn.Conv2d(width, 16, 5), Norm(16, ours=ours), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(400, 10),
    )  # fmt: skip


def _captured(step: Step) -> Step:
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def sweep(bench: Bench) -> dict[str, Any]:
    """Runs of a small network per second, 100 steps of 256 images each, as a sweep over seeds trains them."""
    kinds: dict[str, Callable[[Step], Step]] = {"eager": lambda step: step}
    if not bench.is_dry:
        kinds["CUDA graph"] = _captured
    rows = {}
    for kind, prepare in kinds.items():
        for ours in (False, True):
            name = f"{'ours' if ours else 'torch.nn'}, {kind}"
            bench.need(10, f"sweep, {name}")
            model = _small(ours=ours).to(bench.device)
            x = torch.randn(2 if bench.is_dry else 256, 1, 28, 28, device=bench.device)
            step = prepare(_training(model, model, x, torch.randint(0, 10, (len(x),), device=bench.device)))
            steps = 1 if bench.is_dry else _STEPS_OF_A_RUN
            for _ in range(steps // 10):
                step()
            bench.synchronize()
            begin = time.perf_counter()
            for _ in range(steps):
                step()
            bench.synchronize()
            rows[name] = {"runs_per_second": 1 / (time.perf_counter() - begin), "steps_of_a_run": steps}
    return rows
