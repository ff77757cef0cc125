"""A kernel that was compiled is started without Triton's look at its arguments, with the same arguments."""

from __future__ import annotations

import dataclasses
import importlib.util
import os

import pytest
import torch

from bnkit.kernels.gpu import tiling

if importlib.util.find_spec("triton") is None and not os.environ.get("CI"):
    pytest.skip("no Triton on this machine", allow_module_level=True)

X = torch.zeros(4, 3, 2, 2)
CONSTANTS = {"B": 2, "A": 1, "num_warps": 4}


class Kernel:
    """What stands for a function that Triton compiles: it notes how it was started."""

    arg_names = ("x", "y", "rows", "eps", "A", "B")

    def __init__(self, *, compiles=True):
        self.compiles, self.calls, self.direct = compiles, [], []

    def __getitem__(self, grid):
        def call(*arguments, **constants):
            self.calls.append((grid, arguments, constants))
            return Compiled(self) if self.compiles else None

        return call


class Compiled:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *arguments: self.kernel.direct.append((grid, arguments))


@pytest.fixture
def start():
    from bnkit.kernels.gpu.cached_launch import start

    return start


@pytest.fixture
def plan():
    return dataclasses.replace(tiling.tiling_of(X, "forward", 1), compiled={})


def test_the_second_launch_is_direct_and_has_every_argument_in_order(start, plan):
    kernel, other = Kernel(), torch.ones(4, 3, 2, 2)
    start(kernel, plan, (3, 1, 1), (X, None), (7, 0.5), CONSTANTS)
    start(kernel, plan, (3, 1, 1), (other, None), (8, 0.25), CONSTANTS)
    (grid, arguments, constants), ((direct_grid, direct),) = kernel.calls[0], kernel.direct
    assert (grid, arguments[1:], constants) == ((3, 1, 1), (None, 7, 0.5), CONSTANTS)
    assert direct_grid == (3, 1, 1)
    assert direct[0] is other
    assert direct[1:] == (None, 8, 0.25, 1, 2)  # A before B, as the kernel has them


@pytest.mark.parametrize(
    ("tensors", "variant"),
    [((X, X), ()), ((torch.zeros(49)[1:].view(4, 3, 2, 2), None), ()), ((X, None), ("relu",))],
    ids=["another tensor is there", "not aligned", "another variant"],
)
def test_what_triton_would_compile_again_goes_through_triton(start, plan, tensors, variant):
    kernel = Kernel()
    start(kernel, plan, (3, 1, 1), (X, None), (7, 0.5), CONSTANTS)
    start(kernel, plan, (3, 1, 1), tensors, (7, 0.5), CONSTANTS, variant)
    assert (len(kernel.calls), kernel.direct) == (2, [])


@pytest.mark.parametrize(("compiles", "is_large"), [(False, False), (True, True)], ids=["interpreted", "large"])
def test_what_is_interpreted_or_large_is_never_kept(start, plan, compiles, is_large):
    kernel, plan = Kernel(compiles=compiles), dataclasses.replace(plan, is_large=is_large)
    for _ in range(2):
        start(kernel, plan, (3, 1, 1), (X, None), (7, 0.5), CONSTANTS)
    assert (len(kernel.calls), plan.compiled) == (2, {})
