from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numba.core.errors import NumbaWarning

from bnkit.kernels.compilation.loop_sources import SOURCES, digest_of_sources
from bnkit.kernels.cpu import intrinsics, loop_call, numba_compile
from tests.child_processes import run


def _times(factor):
    number, get, put = intrinsics.pointer[np.float64], intrinsics.load, intrinsics.store

    def times(a):
        x, y = number(get(a, loop_call.X)), number(get(a, loop_call.Y))
        for place in range(get(a, loop_call.COUNT)):
            put(y, place, factor * get(x, place))

    return times


def _multiplied(function):
    x = torch.arange(5, dtype=torch.float64)
    y = torch.empty_like(x)
    plan = loop_call.loop_call_for((function, 0, 0))
    loop_call.run(plan.address, x.data_ptr(), 0, y.data_ptr(), *[0] * 8, 5, 0.0, 0, 0, 0, 0.0, 0)
    return y.tolist()


def test_where_nothing_can_be_kept_on_disk_it_is_compiled_all_the_same(monkeypatch):
    njit = numba_compile.njit
    attempts = []

    def refuse(loop):  # what Numba raises where neither the sources' folder nor the user's can be written to
        attempts.append("loop")
        raise RuntimeError(f"cannot cache function {loop.__name__!r}: no locator available for file")

    def refusing(*args, cache=False, **options):
        attempts.append(cache)
        if cache:
            raise RuntimeError("cannot cache function 'entry': no locator available for file")
        return njit(*args, **options)

    monkeypatch.setattr(numba_compile, "_CacheByName", refuse)
    monkeypatch.setattr(numba_compile, "njit", refusing)
    assert _multiplied(numba_compile.outer(_times(2.0), "nowhere")) == [0, 2, 4, 6, 8]
    assert numba_compile.entry(lambda x: x + 1)(1) == 2
    assert attempts == ["loop", True, False]


@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_variants_of_a_loop_are_kept_apart(factor):
    """They are the same code, and close over different things; the second time they come from the disk."""
    for _ in range(2):
        loop = _times(factor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumbaWarning)
            address = numba_compile.outer(loop, f"by_{factor:.0f}")
        assert _multiplied(address) == [0, factor, 2 * factor, 3 * factor, 4 * factor]
    assert f"by_{factor:.0f}" in loop.__qualname__
    assert digest_of_sources(__file__) in loop.__qualname__
    assert numba_compile._kept[-1].cache_hits == 1


def test_a_comparison_with_infinity_survives_the_fast_arithmetic():
    """Under "reassoc" np.isfinite does not: it subtracts a number from itself."""

    get, to_pointer = intrinsics.load, intrinsics.pointer[np.float64]

    def count(x, size):
        count = 0
        for place in range(size):
            if not abs(get(x, place) - 0.5) < np.inf:
                count += 1
        return count

    values = torch.tensor([1.0, float("nan"), float("inf"), -float("inf"), 2.0] * 7, dtype=torch.float64)
    counting = numba_compile.inner(count, "counting")
    counted = numba_compile.njit(lambda address, size: counting(to_pointer(address), size))
    assert counted(values.data_ptr(), values.numel()) == 21


def test_a_change_of_any_source_makes_other_loops():
    """A module that holds loops, or what they are made of, imports Numba or what we have added to it."""
    folder = Path(numba_compile.__file__).parent
    loops = re.compile(
        r"^(import numba|from numba|from bnkit\.kernels\.cpu\.intrinsics |from bnkit\.kernels\.cpu import .*\bintrinsics\b)",
        re.MULTILINE,
    )
    found = {f"cpu/{file.stem}" for file in folder.glob("*.py") if loops.search(file.read_text(encoding="utf-8"))}
    # And constants: the slope of the leaky ReLU, and how many numbers a column takes.
    assert found | {"activation", "cpu/layout"} == set(SOURCES)


_COMPILED = """
import sys
from bnkit.kernels.cpu import channels_last_loops, contiguous_loops, numba_compile

variant = numba_compile.Variant("float32", "relu", has_residual=True)
contiguous_loops.plane_loop("forward", variant)
channels_last_loops.row_loop("backward_write", variant)
print([loop.cache_hits for loop in numba_compile._kept])
"""


@pytest.mark.slow
def test_another_process_finds_the_loops_on_disk(tmp_path):
    """Each closes over other compiled functions, which are other objects in every process."""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
    said = [run([sys.executable, "-c", _COMPILED], environment=environment).stdout.strip() for _ in range(2)]
    assert said == ["[0, 0]", "[1, 1]"]


_EVALUATED = """
import sys
import torch
from bnkit.nn.functional import batch_norm

generator = torch.Generator().manual_seed(0)
x, residual = torch.randn(2, 64, 3, generator=generator, dtype=torch.float64)
mean, variance = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
for activation in sys.argv[1:]:
    ours, exact = (
        batch_norm(x, mean, variance, training=False, activation=activation, residual=residual, kernel=kernel)
        for kernel in ("numba", "reference")
    )
    torch.testing.assert_close(ours, exact, msg=lambda text: f"{activation}: {text}")
"""


@pytest.mark.exhaustive
def test_loops_that_several_processes_compiled_are_told_apart_by_one_that_loads_them_all(tmp_path):
    """Numba numbers functions of one name by process: without the variant in it, names are the same, and the first one is taken."""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONHASHSEED": "0"}  # which is in the names too
    for activations in (["relu"], ["tanh"], ["sigmoid"], ["relu", "tanh", "sigmoid"]):
        done = run([sys.executable, "-c", _EVALUATED, *activations], environment=environment)
        assert done.returncode == 0, done.stderr
