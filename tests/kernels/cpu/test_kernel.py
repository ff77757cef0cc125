"""The compiled loops where they take other ways than on small inputs: threads, stores past the caches, odd addresses."""

from __future__ import annotations

import itertools
import math
import sys
import threading
import traceback
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import bnkit
from bnkit.kernels.cpu import launch, threads
from bnkit.kernels.cpu.layout import layout_of
from bnkit.nn.functional import batch_norm
from tests.cases.selection import selected
from tests.error_bounds import assert_within_error_bound


def _leaves(shape, layout=torch.contiguous_format, seed=0, offset=0):
    generator = torch.Generator().manual_seed(seed)
    size = torch.Size(shape).numel()
    storage = torch.empty(size + 16)
    x = storage[offset : offset + size].view(shape)
    x.copy_(torch.randn(shape, generator=generator) + 1)
    if layout != torch.contiguous_format:
        x = x.contiguous(memory_format=layout)
    channels = shape[1]
    weight, bias = torch.rand(channels, generator=generator) + 0.5, torch.randn(channels, generator=generator)
    residual = torch.randn(shape, generator=generator).contiguous(memory_format=layout)
    upstream = torch.randn(shape, generator=generator).contiguous(memory_format=layout)
    return [x, weight, bias, residual], upstream


def _ours(x, weight, bias, residual, activation):
    return batch_norm(x, None, None, weight, bias, True, activation=activation, residual=residual, kernel="numba")


def _theirs(x, weight, bias, residual, activation):
    output = nn.functional.batch_norm(x, None, None, weight, bias, True)
    output = output if residual is None else output + residual
    return output if activation is None else torch.relu(output)


def _run(compute, leaves, upstream, activation):
    leaves = [None if leaf is None else leaf.detach().requires_grad_() for leaf in leaves]
    output = compute(*leaves, activation)
    known = [leaf for leaf in leaves if leaf is not None]
    return [output.detach(), *torch.autograd.grad(output, known, upstream)]


def _check(leaves, upstream, activation):
    got, expected = (_run(compute, leaves, upstream, activation) for compute in (_ours, _theirs))
    wide = [None if leaf is None else leaf.double() for leaf in leaves]
    exact = _run(_theirs, wide, upstream.double(), activation)
    for what, *values in zip(("output", "input", "weight", "bias", "residual"), got, expected, exact, strict=False):
        if activation is None or what == "output":
            assert_within_error_bound(*values, what)
        else:  # beside the kink a rounding step decides between two slopes
            near = (values[0].double() - values[2]).abs() <= 1e-4 * values[2].abs().max()
            assert near.double().mean() > 0.9999, what


SHAPES = {
    "planes past the caches": (48, 44, 32, 32),
    "planes in the order of memory": (64, 7, 17, 31),
    "planes, channel by channel": (120, 24, 27, 30),
    "planes, no cache for a channel": (500, 5, 30, 30),
    "rows of a few columns, some left over": (701, 3, 5, 5),
    "rows of all columns": (400, 50, 2, 2),
    "blocks of channels": (400, 300, 2, 2),
    "blocks of channels past the caches": (700, 64, 7, 7),
    "a linear layer": (3001, 37),
    "a linear layer past the caches": (2100, 1024),
    "a plane of one channel": (300, 1, 20, 20),
}
STRATEGIES = {"planes": "planes", "rows": "rows", "blocks": "blocks", "a": "rows"}


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_takes_the_strategy_in_its_name(name):
    shape = SHAPES[name]
    layout = layout_of(shape, torch.float32, len(shape) > 2, 2)
    assert layout.strategy == STRATEGIES[name.split()[0].strip(",")]
    assert layout.can_stream == ("past the caches" in name)
    left_over = layout.strategy == "rows" and layout.examples * layout.positions < math.prod(shape)
    assert left_over == (name in {"rows of a few columns, some left over", "a linear layer"})
    if "order" in name or "no cache" in name:
        assert layout.block == -(-shape[1] // layout.threads)
    if "channel by channel" in name:
        assert layout.block == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "adds", "activation"),
    selected(
        itertools.product(SHAPES, [False, True], [None, "relu"]),
        lambda name, adds, activation: (
            (adds, activation)
            == ((False, None) if name in ("planes in the order of memory", "rows of all columns") else (True, "relu"))
        ),
    ),
)
def test_large_inputs(name, adds, activation):
    leaves, upstream = _leaves(SHAPES[name])
    _check(leaves if adds else [*leaves[:3], None], upstream, activation)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3, 6, 64, 130])
@pytest.mark.parametrize("adds", [pytest.param(False, marks=pytest.mark.exhaustive), True])
def test_large_inputs_channels_last(channels, adds):
    leaves, upstream = _leaves((37, channels, 31, 33), torch.channels_last)
    _check(leaves if adds else [*leaves[:3], None], upstream, "relu")


@pytest.mark.slow
@pytest.mark.parametrize(
    "offset", [pytest.param(offset, marks=[pytest.mark.exhaustive] if offset % 5 else []) for offset in range(16)]
)
def test_every_alignment_of_the_data_pointer(offset):
    leaves, upstream = _leaves(SHAPES["planes past the caches"], offset=offset)
    assert leaves[0].data_ptr() % 64 == 4 * offset
    _check([*leaves[:3], None], upstream, "relu")


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_any_number_of_threads_gives_the_same_planes(count):
    leaves, upstream = _leaves((64, 7, 17, 17))
    before = torch.get_num_threads()
    results = []
    try:
        for threads_now in (1, count):
            torch.set_num_threads(threads_now)
            results.append(_run(_ours, [*leaves[:3], None], upstream, "relu"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_several_python_threads_at_once():
    leaves, upstream = _leaves((64, 7, 17, 17))
    expected = _run(_ours, leaves, upstream, "relu")
    wrong = []

    def train():
        for _ in range(20):
            got = _run(_ours, leaves, upstream, "relu")
            if not all(torch.equal(one, other) for one, other in zip(got, expected, strict=True)):
                wrong.append(1)

    running = [threading.Thread(target=train, daemon=True) for _ in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(120)
    assert not any(thread.is_alive() for thread in running)
    assert wrong == []


@pytest.fixture(autouse=True)
def _two_threads():
    """PyTorch's threads, and so the loops', unless a test says otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class _Normalised(Dataset):
    """Each example goes through a batch norm, in a forked worker."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        leaves, upstream = _leaves((64, 7, 17, 17), seed=index)
        plane = _run(_ours, leaves, upstream, "relu")[1][3, 2].clone()
        # A worker of a DataLoader is told to use one thread. Who is not, would wait for ever for those of the parent.
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        available = threads.available()
        torch.set_num_threads(before)
        return plane, available


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_worker_computes_after_its_parent_did():
    dataset = _Normalised()
    expected = [dataset[index][0] for index in range(4)]
    assert threads.available() == 2
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    got = list(loader)
    assert all(torch.equal(plane, known) for (plane, _), known in zip(got, expected, strict=True))
    assert [count for _, count in got] == [1, 1, 1, 1]


def test_inf_and_nan_reach_the_output():
    for value in (float("inf"), float("-inf"), float("nan")):
        (x, weight, bias, _), _ = _leaves((8, 3, 5, 5))
        x[2, 1, 0, 0] = value
        output = _ours(x, weight, bias, None, "relu")
        assert output[:, 1].isnan().all()
        assert output[:, [0, 2]].isfinite().all()


@pytest.mark.parametrize(
    ("activation", "adds", "dtype"),
    selected(
        (
            (*how, dtype)
            for how in [(None, False), ("relu", True), ("gelu", False)]
            for dtype in (torch.float32, torch.bfloat16)
        ),
        lambda activation, adds, dtype: (dtype is torch.bfloat16) == (activation == "relu"),
    ),
)
def test_an_evaluation_without_gradients_is_the_same_in_one_pass(activation, adds, dtype):
    (x, weight, bias, residual), _ = _leaves((3, 4, 24, 24))
    weight.requires_grad_()
    x, residual = x.to(dtype), residual.to(dtype) if adds else None
    mean, variance = torch.linspace(-1, 1, 4), torch.linspace(0.5, 2, 4)

    def evaluate(kernel):
        return batch_norm(x, mean, variance, weight, bias, activation=activation, residual=residual, kernel=kernel)

    differentiated = evaluate("numba")
    with torch.no_grad():
        got, expected = evaluate("numba"), evaluate("reference")
    assert torch.equal(got, differentiated)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_call_goes_through_few_functions_on_its_way_to_a_loop(monkeypatch, training):
    """Each costs microseconds where the tensors are small."""
    layer, paths, home = bnkit.nn.BatchNorm1d(8, kernel="numba").train(training), [], str(Path(bnkit.__file__).parent)

    def run_noted(*arguments):
        files = (frame.f_code.co_filename for frame, _ in traceback.walk_stack(sys._getframe(1)))
        paths.append([file for file in files if file.startswith(home)])
        return run(*arguments)

    run = launch.run
    monkeypatch.setattr(launch, "run", run_noted)
    layer(torch.randn(4, 8, requires_grad=True)).sum().backward()
    forward, backward = map(len, paths)
    assert 0 < forward <= 8
    assert 0 < backward <= 3
