"""What goes on around the rules: what is loaded for them, and models that are compiled."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from bnkit.checks.check import check

_SCRIPT = """
import sys
import torch
from torch import nn
import bnkit
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
found = bnkit.check(model, [torch.randn(8, 3, 8, 8)])
assert "BN101" in found.codes, found
print([name for name in ("torch._dynamo", "sympy", "torch._inductor") if name in sys.modules])
"""


@pytest.mark.slow
def test_nothing_is_loaded_that_compiles():
    """That takes two seconds, longer than to check the structure of a ResNet-50."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_model_is_checked_like_another(whole):
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), nn.ReLU(), nn.Linear(8, 2))
    batches = [torch.randn(32, 4) for _ in range(2)]
    expected = check(model, batches)
    assert "BN101" in expected.codes
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    if whole:
        compiled = torch.compile(model, backend=backend)
        assert [f.code for f in check(compiled, batches)] == [f.code for f in expected]
    else:
        model[0].compile(backend=backend)
        assert check(model, batches) == expected
    assert not graphs
