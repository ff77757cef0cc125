"""Models with lazy layers, which run on the example before anything is looked at."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bnkit.checks.check import assert_healthy, check
from bnkit.errors import ModelError

KINDS = {
    "batch norm and a lazy layer": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2)
    ),
    "lazy batch norm": lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU()),
    "one dimension": lambda: nn.Sequential(
        nn.Flatten(), nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2)
    ),
}
EXAMPLE = torch.linspace(-1, 1, 4 * 3 * 25).view(4, 3, 5, 5)
BATCHES = [EXAMPLE, EXAMPLE * 2]


def _ran(model):
    model.eval()(EXAMPLE)
    return model.train()


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in KINDS.items()])
@pytest.mark.parametrize("given", [lambda: {"example_inputs": EXAMPLE}, lambda: {"batches": BATCHES}, lambda: {"batches": iter(BATCHES)}])  # fmt: skip
def test_what_is_found_is_found_on_the_model_that_has_run(make, given):
    torch.manual_seed(0)
    model = make()
    findings = check(model, **given())
    assert "BN101" in findings.codes
    torch.manual_seed(0)
    assert findings == check(_ran(make()), **given())


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in KINDS.items()])
def test_the_model_is_as_lazy_as_before(make):
    model = make()
    lazy, kinds = [name for name, p in model.named_parameters() if is_lazy(p)], [type(m) for m in model.modules()]
    state = torch.get_rng_state()
    check(model, example_inputs=EXAMPLE)
    assert torch.equal(state, torch.get_rng_state())
    assert [name for name, p in model.named_parameters() if is_lazy(p)] == lazy
    assert [type(m) for m in model.modules()] == kinds and model.training
    model(EXAMPLE)  # and can become whole


def test_the_optimizer_is_that_of_the_copy():
    model = KINDS["batch norm and a lazy layer"]()
    for decay, expected in ((0.1, ["1"]), (0.0, [])):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=decay)
        findings = check(model, optimizer=optimizer, example_inputs=EXAMPLE, select="BN301")
        assert [finding.site for finding in findings] == expected


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in KINDS.items()])
def test_without_an_example_it_is_one_line(make):
    for look in (check, assert_healthy):
        with pytest.raises(
            ModelError, match="has no shape yet; expected an example that gives it one .`example_inputs` or"
        ):
            look(make())


def test_a_lazy_model_that_raises_on_the_example():
    with pytest.raises(ModelError, match="raised .* on the example"):
        check(KINDS["lazy batch norm"](), example_inputs=torch.ones(3))
