"""The common test bodies on the Triton kernels, through Triton's interpreter, in a process of its own; and what goes with that."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

from bnkit.errors import KernelError
from bnkit.kernels import select
from tests.cases.kernels import INTERPRETED
from tests.child_processes import run
from tests.random_examples import EXHAUSTIVE

TESTS = Path(__file__).parents[2]
# Paths from the folder of tests, and how many cases there are at least, in `make test` and in all: none may vanish.
BODIES = {
    "kernels/test_kernel_interface.py": (55, 440),
    "kernels/gpu/test_strategies.py": (25, 30),
    "kernels/fused/test_custom_op.py": (11, 18),
    "kernels/test_random_cases.py::test_no_further_off_than_pytorch": (4, 4),
    "nn/test_batch_norm.py": (10, 30),
    "nn/test_masks.py::test_statistics_and_gradients_are_those_of_what_counts": (12, 12),
}
HAS_TRITON = importlib.util.find_spec("triton") is not None


@pytest.fixture(autouse=True)
def _needs_triton():
    """Triton is for Linux; without it these tests are skipped, but never in CI."""
    if not HAS_TRITON:
        if os.environ.get("CI"):
            pytest.fail("CI has no Triton; the extra `dev` installs it")
        pytest.skip("no Triton on this machine: its kernels were not tested")


@pytest.mark.slow
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_the_common_test_bodies_through_the_interpreter(every):
    arguments = ["-q", "-rA", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
    # The interpreter computes with NumPy, which warns of what GPUs pass over: inf, NaN, and a part without values.
    arguments += ["-W", "ignore::RuntimeWarning:triton.runtime.interpreter"]
    arguments += ["-m", "", "--hypothesis-profile", EXHAUSTIVE] if every else []
    command = [sys.executable, "-m", "pytest", *arguments, *(str(TESTS / body) for body in BODIES)]
    done = run(command, seconds=550, cwd=TESTS.parent, environment={"TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    for body, least in BODIES.items():
        assert done.stdout.count(f"PASSED tests/{body}") >= least[every], body


def test_here_nothing_is_interpreted():
    assert not INTERPRETED


def test_by_name_on_the_cpu_it_says_where_it_runs():
    with pytest.raises(
        KernelError, match=r"kernel='triton' was asked for, but it runs on a GPU .*TRITON_INTERPRET=1.*on cpu"
    ):
        select("triton", torch.zeros(4, 3))


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "triton":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import torch, bnkit.nn
from bnkit.kernels import select
x = torch.zeros(4, 3)
bnkit.nn.BatchNorm1d(3)(torch.randn(4, 3)).sum().backward()
try:
    select("triton", x)
except bnkit.errors.KernelError as error:
    print(error)
"""


@pytest.mark.slow
def test_without_triton_it_says_how_to_get_it_and_the_rest_works():
    done = run([sys.executable, "-c", WITHOUT], environment={"TRITON_INTERPRET": "1"})
    assert "Triton cannot be used here (ModuleNotFoundError" in done.stdout, done.stderr
    assert "pip install 'bnkit[triton]'; use kernel='auto'" in done.stdout
