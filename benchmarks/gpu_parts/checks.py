"""Whether the numbers are right on this device: against float64, bit by bit again, in CUDA graphs, under torch.compile."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from benchmarks.gpu_parts.device import Bench
from torch import Tensor, nn

import bnkit.nn
from bnkit.nn.functional import batch_norm

ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda values: values,
    "relu": torch.relu,
    "leaky_relu": nn.functional.leaky_relu,
    "sigmoid": torch.sigmoid,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
    "gelu": nn.functional.gelu,
}
# Planes and rows; a program that holds a channel, one that reads it twice, several to a channel; odd sizes and one channel.
SHAPES = [(8, 64, 7, 7), (64, 128, 28, 28), (32, 16, 56, 56), (16, 4096, 2, 2), (5, 1, 33, 31), (1000, 48), (7, 3)]
DRY_SHAPES = [(3, 2, 3, 5), (7, 3)]
# Mean and deviation of the input.
SPREADS = [(0.3, 1.0), (1e4, 1e-2)]


def run(bench: Bench) -> list[dict[str, Any]]:
    """Every check: its name, whether it passed, and what was seen."""
    results = []
    for name, check in _checks(bench):
        if bench.left() < 30:
            bench.notes.append(f"checks from {name!r} on: left out, no time")
            break
        try:
            seen = check()
        except Exception as error:
            seen = f"{type(error).__name__}: {error}"
        results.append({"check": name, "passed": not seen, "seen": seen})
    return results


def warm_ups(device: str) -> list[Callable[[], object]]:
    """What compiles for one check each, into the caches on disk; each can be sent to a process."""
    return [partial(_warm_up, device, name) for name, check in _checks(Bench(device, 0, 0)) if check is not _large]


def _warm_up(device: str, name: str) -> None:
    dict(_checks(Bench(device, 0, 0)))[name]()


def _checks(bench: Bench) -> Iterator[tuple[str, Callable[[], str]]]:
    shapes = DRY_SHAPES if bench.is_dry else SHAPES
    dtypes = (torch.float32, torch.bfloat16) if bench.is_dry else (torch.float32, torch.bfloat16, torch.float16)
    for shape, last, dtype in itertools.product(shapes, (False, True), dtypes):
        if last and len(shape) < 4:
            continue
        layout = "channels last" if last else "contiguous"
        yield (
            f"{'x'.join(map(str, shape))} {layout} {str(dtype)[6:]}",
            lambda shape=shape, last=last, dtype=dtype: _exactness(bench, shape, dtype, last, None, (0.3, 1.0)),
        )
    for activation, spread in itertools.product(ACTIVATIONS, SPREADS):
        yield (
            f"{activation}, mean {spread[0]:g}, deviation {spread[1]:g}",
            lambda activation=activation, spread=spread: _exactness(
                bench, shapes[0], torch.float32, False, activation, spread
            ),
        )
    yield "the same bits in ten repeats", lambda: _repeats(bench, shapes)
    yield "compiled, fullgraph", lambda: _compiled(bench, shapes[0])
    yield "captured in a CUDA graph and replayed", lambda: _captured(bench, shapes[0])
    if not bench.is_dry:
        yield "more than 2**31 elements", _large


def _leaves(bench: Bench, shape: tuple[int, ...], dtype: torch.dtype, last: bool, spread: tuple[float, float]) -> Any:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for _ in range(3)]
    tensors[0] = tensors[0] * spread[1] + spread[0]
    if last:
        tensors = [tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors]
    x, residual, upstream = (tensor.to(bench.device, dtype) for tensor in tensors)
    weight = (torch.rand(shape[1], generator=generator) + 0.5).to(bench.device)
    bias = torch.randn(shape[1], generator=generator).to(bench.device)
    return [x, weight, bias, residual], upstream


def _ours(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, activation: str | None) -> Tensor:
    return batch_norm(x, None, None, weight, bias, True, activation=activation, residual=residual, kernel="triton")


def _theirs(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, activation: str | None) -> Tensor:
    return ACTIVATIONS[activation](nn.functional.batch_norm(x, None, None, weight, bias, True) + residual)


def _results(compute: Any, leaves: list[Tensor], upstream: Tensor, activation: str | None) -> list[Tensor]:
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    output = compute(*leaves, activation)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream)]


def _exactness(
    bench: Bench,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    last: bool,
    activation: str | None,
    spread: tuple[float, float],
) -> str:
    """Our error against float64 is at most twice PyTorch's, and one rounding step of the largest term."""
    leaves, upstream = _leaves(bench, shape, dtype, last, spread)
    exact = _results(_theirs, [leaf.double() for leaf in leaves], upstream.double(), activation)
    ours, theirs = (_results(compute, leaves, upstream, activation) for compute in (_ours, _theirs))
    x, weight, _, _ = (leaf.double() for leaf in leaves)
    over = [0, *range(2, x.dim())]
    variance, mean = torch.var_mean(x, over, correction=0, keepdim=True)
    inverse = (variance + 1e-5).rsqrt()
    normalised, steepest = (x - mean).abs() * inverse, upstream.double().abs() * 1.2
    scale = weight.reshape(mean.shape) * inverse
    terms = {  # of the sums that the gradients are
        "x": (steepest.amax(over, keepdim=True) * scale * (1 + normalised.amax(over, keepdim=True))).max(),
        "weight": (steepest * normalised).sum(over).max(),
        "bias": steepest.sum(over).max(),
    }
    bends = activation in ("relu", "leaky_relu")  # beside the kink a rounding step decides between two slopes
    for what, one, other, known in zip(("output", "x", "weight", "bias", "residual"), ours, theirs, exact, strict=True):
        if bends and what != "output":
            continue
        off, their_off = ((values.double() - known).abs().max().item() for values in (one, other))
        largest = max(known.abs().max().item(), float(terms.get(what, 0.0)))
        if not off <= 2 * their_off + torch.finfo(one.dtype).eps * largest:
            return f"{what} off by {off:.3g}, PyTorch by {their_off:.3g}"
    return ""


def _repeats(bench: Bench, shapes: list[tuple[int, ...]]) -> str:
    for shape in shapes:
        leaves, upstream = _leaves(bench, shape, torch.float32, False, (0.3, 1.0))
        first = _results(_ours, leaves, upstream, "silu")
        for _ in range(1 if bench.is_dry else 10):
            again = _results(_ours, leaves, upstream, "silu")
            if not all(torch.equal(one, other) for one, other in zip(first, again, strict=True)):
                return f"other bits for {shape}"
    return ""


def _layer(bench: Bench, channels: int) -> nn.Module:
    return bnkit.nn.BatchNorm2d(channels, activation="relu", kernel="triton").to(bench.device)


def _compiled(bench: Bench, shape: tuple[int, ...]) -> str:
    (x, *_), upstream = _leaves(bench, shape, torch.float32, False, (0.3, 1.0))
    plain, other = _layer(bench, shape[1]), _layer(bench, shape[1])
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager" if bench.is_dry else "inductor")
    outputs = []
    for layer in (plain, compiled):
        leaf = x.clone().requires_grad_()
        output = layer(leaf)
        outputs.append((output, *torch.autograd.grad(output, leaf, upstream)))
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(other.state_dict(), plain.state_dict())
    return ""


def _captured(bench: Bench, shape: tuple[int, ...]) -> str:
    if bench.is_dry:
        bench.notes.append("CUDA graphs: no GPU, not checked")
        return ""
    (x, *_), upstream = _leaves(bench, shape, torch.float32, False, (0.3, 1.0))
    plain, graphed = _layer(bench, shape[1]), _layer(bench, shape[1])
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            torch.autograd.grad(graphed(other), other, upstream)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = graphed(other)
        (gradient,) = torch.autograd.grad(output, other, upstream)
    for _ in range(4):
        graph.replay()
    for _ in range(7):  # as often in all; a capture runs nothing
        expected = plain(leaf)
        (known,) = torch.autograd.grad(expected, leaf, upstream)
    torch.cuda.synchronize()
    for one, two in ((output, expected), (gradient, known)):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    torch.testing.assert_close(graphed.running_mean, plain.running_mean, rtol=0, atol=0)
    torch.testing.assert_close(graphed.running_var, plain.running_var, rtol=0, atol=0)
    return ""


def _large() -> str:
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        return ""
    x = torch.randn(33, 1 << 14, 64, 64, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        output = batch_norm(x, None, None, None, None, True, kernel="triton")
        for part in (output[:, :2], output[:, -2:]):
            if (
                not (part.float().std((0, 2, 3)) - 1).abs().max() < 1e-2
                or not part.float().mean((0, 2, 3)).abs().max() < 1e-2
            ):
                return "not normalised"
    return ""
