from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numba.core.errors import NumbaWarning

from bnkit.kernels.cpu import compiling, intrinsics, loop_call
from tests.child_processes import run


def _double(a):
    x, y = number(get(a, loop_call.X)), number(get(a, loop_call.Y))
    for place in range(get(a, loop_call.COUNT)):
        put(y, place, 2 * get(x, place))


# What these mean is filled in by `outer`.
number = get = put = infinity = None


def _doubled(function):
    x = torch.arange(5, dtype=torch.float64)
    y = torch.empty_like(x)
    plan = loop_call.loop_call_for((function, 0, 0))
    loop_call.run(plan.address, x.data_ptr(), 0, y.data_ptr(), *[0] * 8, 5, 0.0, 0, 0, 0, 0.0, 0)
    return y.tolist()


def _names():
    return {
        "number": intrinsics.pointer[np.float64],
        "get": intrinsics.load,
        "put": intrinsics.store,
    }


def test_where_nothing_can_be_kept_on_disk_it_is_compiled_all_the_same(monkeypatch):
    cfunc, njit = compiling.cfunc, compiling.njit
    attempts = []

    def refusing(compile_):
        def decorate(*args, cache=False, **options):
            attempts.append(cache)
            if cache:  # what Numba raises where neither the sources' folder nor the user's can be written to
                raise RuntimeError("cannot cache function 'loop': no locator available for file")
            return compile_(*args, **options)

        return decorate

    monkeypatch.setattr(compiling, "cfunc", refusing(cfunc))
    monkeypatch.setattr(compiling, "njit", refusing(njit))
    assert _doubled(compiling.outer(_double, _names(), "nowhere")) == [0, 2, 4, 6, 8]
    assert compiling.entry(lambda x: x + 1)(1) == 2
    assert attempts == [True, False, True, False]


@pytest.mark.parametrize("variant", ["one", "another"])
def test_variants_of_a_loop_are_kept_apart(variant):
    names = _names()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumbaWarning)
        assert _doubled(compiling.outer(_double, names, variant)) == [0, 2, 4, 6, 8]
    twin = compiling._twin(_double, names, variant)
    assert variant in twin.__qualname__
    assert compiling._sources() in twin.__qualname__


def test_a_comparison_with_infinity_survives_the_fast_arithmetic():
    """Under "reassoc" np.isfinite does not: it subtracts a number from itself."""

    def count(x, size):
        found = 0
        for place in range(size):
            if not abs(get(x, place) - 0.5) < infinity:
                found += 1
        return found

    values = torch.tensor([1.0, float("nan"), float("inf"), -float("inf"), 2.0] * 7, dtype=torch.float64)
    names = _names()
    counting = compiling.inner(count, {"get": intrinsics.load, "infinity": float("inf")}, "counting")
    to_pointer = names["number"]
    counted = compiling.njit(lambda address, size: counting(to_pointer(address), size))
    assert counted(values.data_ptr(), values.numel()) == 21


def test_a_change_of_any_source_makes_other_loops():
    """A module that holds loops, or what they are made of, imports Numba or what we have added to it."""
    folder = Path(compiling.__file__).parent
    loops = re.compile(
        r"^(import numba|from numba|from bnkit\.kernels\.cpu\.intrinsics |from bnkit\.kernels\.cpu import .*\bintrinsics\b)",
        re.MULTILINE,
    )
    found = {file.stem for file in folder.glob("*.py") if loops.search(file.read_text(encoding="utf-8"))}
    assert found | {"../activation"} == set(compiling.SOURCES)  # and a constant: the slope of the leaky ReLU


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
