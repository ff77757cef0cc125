"""Networks of others without batch norm: put in, trained, folded and taken out again."""

from __future__ import annotations

import copy

import pytest
import torch

from bnkit.model.edit.add import add
from bnkit.model.edit.fold import fold
from bnkit.model.edit.remove import remove
from tests.zoo.networks import PLAIN, Network, build, cases, example, randomize_batch_norms
from tests.zoo.rounding import assert_equal_up_to_rounding, exact, gradients, norms, outputs

pytestmark = pytest.mark.slow

OTHER = 5


@pytest.mark.parametrize("network", cases(PLAIN))
def test_with_batch_norm_it_trains(network: Network):
    model, inputs = build(network), example(network)
    added, changes = add(model, inputs)
    assert len(norms(added)) == len(changes.made) > 0
    before = gradients(copy.deepcopy(model), inputs)
    after = gradients(added, inputs)
    assert all(gradient.isfinite().all() for gradient in after.values())
    put_in = {key for name in norms(added) for key in (f"{name}.weight", f"{name}.bias")}
    # Where it stands in for a bias, that is gone: all else that took part still does, and what was put in does.
    assert {key for key in before if not key.endswith(".bias")} <= after.keys()
    assert after.keys() - before.keys() == put_in
    assert any(after[key].any() for key in put_in)


@pytest.mark.parametrize("network", cases(PLAIN))
def test_put_into_a_trained_one_it_computes_the_same(network: Network):
    model, inputs, other = build(network), example(network), example(network, seed=OTHER)
    added, changes = add(model, inputs, preserve=True)
    assert len(changes.made) > 0
    before, truth = outputs(model, other), exact(model, other)
    assert_equal_up_to_rounding(outputs(added, other), before, truth)
    folded, _ = fold(added, inputs)
    assert norms(folded) == []
    assert_equal_up_to_rounding(outputs(folded, other), before, truth)


@pytest.mark.parametrize("network", cases(PLAIN))
def test_an_added_batch_norm_folds_after_training(network: Network):
    model, inputs, other = build(network), example(network), example(network, seed=OTHER)
    added, _ = add(model, inputs)
    randomize_batch_norms(added, example(network, seed=1, batch=4))
    folded, changes = fold(added, inputs)
    assert norms(folded) == []
    assert all(change.detail.startswith("into the output of") for change in changes)
    assert str(folded) == str(model)
    assert_equal_up_to_rounding(outputs(folded, other), outputs(added, other), exact(added, other))


@pytest.mark.parametrize("preserve", [False, True], ids=["initialised", "preserved"])
@pytest.mark.parametrize("network", cases(PLAIN))
def test_taken_out_again_it_is_what_it_was(network: Network, preserve: bool):
    model, inputs = build(network), example(network)
    added, _ = add(model, inputs, preserve=preserve)
    twin, _ = remove(added, inputs)
    assert str(twin) == str(model)
    before = dict(model.state_dict())
    assert twin.state_dict().keys() == before.keys()
    for key, value in twin.state_dict().items():
        if key.endswith(".bias"):
            torch.testing.assert_close(value, before[key], rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(value, before[key])
    other = example(network, seed=OTHER)
    assert_equal_up_to_rounding(outputs(twin, other), outputs(model, other), exact(model, other))
