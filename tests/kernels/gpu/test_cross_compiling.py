"""The Triton kernels compiled for GPUs, which need not be there: that they compile, and what of."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re

import pytest
import torch

from bnkit.kernels.gpu import tiling

HAS_TRITON = importlib.util.find_spec("triton") is not None
if not HAS_TRITON and not os.environ.get("CI"):
    pytest.skip("no Triton on this machine: its kernels were not compiled", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled by the interpreter", allow_module_level=True)

# Of a ResNet-50: what every way through a tensor takes; the last two lie channels last.
SHAPES = {
    "whole": ((256, 2048, 7, 7), False),
    "alone": ((64, 256, 28, 28), False),
    "parts": ((256, 64, 56, 56), False),
    "rows alone": ((64, 2048, 7, 7), True),
    "rows in parts": ((256, 64, 56, 56), True),
}
# What the forward pass starts with, for each way.
STARTS = {"parts": "forward_sums", "rows in parts": "forward_sums"}


targets = importlib.import_module("tests.cases.gpu_targets")  # which needs Triton


@pytest.fixture(autouse=True)
def _own_cache_of_kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.exhaustive)], ids=str)
def test_nothing_is_spilled_and_loads_are_wide(monkeypatch, dtype, strategy):
    shape, last = SHAPES[strategy]
    launches = targets.launches_of(monkeypatch, shape, dtype, last=last)
    assert launches[0].kernel.__name__ == STARTS.get(strategy, "forward_one_launch")
    assert launches[0].arguments.get("IN_REGISTERS", False) == (strategy == "whole")
    for launch in launches:
        name = launch.kernel.__name__
        compiled = launch.compiled(targets.TARGETS["sm_90"])
        used = targets.resources(compiled)
        # A few bytes are the edge of the registers that 512 threads have.
        assert used["stack"] <= (24 if launch.warps == 16 else 0), (name, used)
        assert used["local"] == 0, (name, used)
        assert used["registers"] * 32 * launch.warps <= 65536, (name, used)
        if launch.arguments.get("UNIT") == 16:  # 16 bytes at a time
            assert re.search(r"ld\.global\S*\.v4\.\w32", compiled.asm["ptx"]), name
            if not name.endswith("_sums"):
                assert re.search(r"st\.global\S*\.v4\.\w32", compiled.asm["ptx"]), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        ("gfx942", torch.bfloat16),  # sm_90 is compiled for above
        *(
            pytest.param(*other, marks=pytest.mark.exhaustive)
            for other in (("sm_90", torch.float16), ("sm_80", torch.float32), ("sm_90", torch.float64))
        ),
    ],
    ids=str,
)
def test_every_kernel_compiles_for_every_target(monkeypatch, dtype, target):
    # Small plans, so that every kernel is there; the names of all of them are collected below.
    compiled = {}
    for options in ({"activation": "gelu", "adds": True}, {"activation": "tanh", "masked": True, "moves": False}):
        for shape, last in (((16, 64, 4, 4), False), ((16, 64, 4, 4), True), ((64, 8, 56, 56), True)):
            for launch in targets.launches_of(monkeypatch, shape, dtype, last=last, **options):
                if (launch.kernel.__name__, options["activation"]) not in compiled:
                    code = launch.compiled(targets.TARGETS[target]).asm
                    compiled[launch.kernel.__name__, options["activation"]] = len(code.get("cubin") or code["hsaco"])
    parts = {f"{direction}_{part}" for direction in ("forward", "backward") for part in ("sums", "merge", "write")}
    assert {name for name, _ in compiled} == {*parts, "forward_one_launch", "backward_one_launch"}
    assert min(compiled.values()) > 0


@pytest.mark.parametrize(("shape", "expected"), [((1 << 12, 1 << 10, 32, 16), True), ((2, 2, 2, 2), False)])
def test_large_tensors_take_64_bit_offsets(shape, expected):
    assert tiling.tiling_of(torch.empty(shape, device="meta"), "forward", 1).is_large == expected


@pytest.mark.slow
def test_64_bit_offsets_compile(monkeypatch):
    launches = targets.launches_of(monkeypatch, (1 << 12, 1 << 10, 32, 16), torch.bfloat16, activation=None)
    assert all(
        "64" in launch.compiled(targets.TARGETS["sm_90"]).asm["ttir"]
        for launch in launches
        if "LARGE" in launch.arguments
    )


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_plans_cover_the_tensor_and_keep_their_limits(dtype, last, direction):
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        sizes = [2 ** int(torch.randint(0, most, (), generator=generator)) for most in (10, 12, 8, 8)]
        shape = tuple(max(1, size + int(torch.randint(-1, 4, (), generator=generator))) for size in sizes)
        x = torch.empty(shape, dtype=dtype, device="meta")
        plan = tiling.tiling_of(x.contiguous(memory_format=torch.channels_last) if last else x, direction, 2)
        height, width = plan.tile
        assert plan.each * (plan.parts - 1) < plan.tiles <= plan.each * plan.parts
        if plan.by_rows:
            assert plan.tiles * height >= shape[0] * shape[2] * shape[3]
            assert plan.programs * width >= shape[1]
        else:
            assert plan.programs == shape[1]
            assert plan.tiles == -(-shape[0] // height) * -(-shape[2] * shape[3] // width)
        assert height * width <= 16384
        assert 1 <= plan.parts <= 512
        assert 1 <= plan.warps <= 16
        assert plan.columns % plan.unit == 0
        assert plan.strategy != "in_registers" or plan.tiles == plan.parts == 1
