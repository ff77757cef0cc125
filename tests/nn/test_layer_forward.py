"""The way from a layer to a compiled loop."""

from __future__ import annotations

import traceback

import pytest
import torch

from bnkit.kernels.cpu import launch
from bnkit.nn import BatchNorm2d, batch_norm

# Each function in between costs a microsecond and a page to a reader.
MOST_CALLS = 8


@pytest.mark.parametrize("case", ["training", "masked", "evaluation", "evaluation without gradients"])
def test_at_most_eight_functions_are_called_between_the_layer_and_the_loop(monkeypatch, case):
    stacks, run = [], launch.run

    def noted(*addresses):
        stacks.append(traceback.extract_stack()[:-1])
        return run(*addresses)

    monkeypatch.setattr(launch, "run", noted)
    layer = BatchNorm2d(4, kernel="numba").train(not case.startswith("evaluation"))
    x, mask = torch.randn(2, 4, 6, 6), torch.ones(2, 1, 6, 6, dtype=torch.bool) if case == "masked" else None
    with torch.set_grad_enabled(case != "evaluation without gradients"):
        layer(x, mask=mask)
    (stack,) = stacks
    files = [frame.filename for frame in stack]
    assert stack[-1].name == "forward" and files[-1] == launch.__file__
    between = stack[files.index(batch_norm.__file__) + 1 :]
    assert len(between) + 1 <= MOST_CALLS, [
        frame.name for frame in between
    ]  # and the compiled function that calls the loop
