"""Networks of others with batch norm: folded, taken out, converted; each against float64 or itself."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.model.edit.add import add
from bnkit.model.edit.convert import convert
from bnkit.model.edit.fold import fold
from bnkit.model.edit.remove import remove
from bnkit.model.inspect.example import largest_difference
from bnkit.model.statistics.recalibrate import recalibrate
from tests.zoo.networks import NORMALISED, Network, build, cases, example
from tests.zoo.rounding import assert_equal_up_to_rounding, exact, gradients, norms, outputs

pytestmark = pytest.mark.slow

OTHER = 5


class _Nothing(nn.Module):
    """A batch norm that does nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


@pytest.mark.parametrize("network", cases(NORMALISED))
def test_folded_it_computes_the_same(network: Network):
    model, other = build(network), example(network, seed=OTHER)
    folded, changes = fold(model, example(network))
    assert len(changes) == len(norms(model))
    assert {change.site for change in changes.kept} == set(norms(folded))
    assert all("did not run" in change.detail for change in changes.kept)
    if not network.jumps:
        assert_equal_up_to_rounding(outputs(folded, other), outputs(model, other), exact(model, other))


@pytest.mark.parametrize("network", cases(NORMALISED))
def test_without_rounding_it_computes_the_very_same(network: Network):
    model, other = build(network).double(), example(network, seed=OTHER).double()
    twin, changes = remove(model.train(), example(network).double(), preserve=True)
    assert twin.training
    assert changes.error < 1e-11
    assert largest_difference(outputs(model, other), outputs(twin, other)) < 1e-11


@pytest.mark.parametrize("network", cases(NORMALISED))
def test_converted_there_and_back_it_is_the_same_to_the_bit(network: Network):
    model, inputs = build(network), example(network, seed=OTHER)
    ours, changes = convert(model)
    assert len(changes.made) == len(norms(model))
    assert {type(module).__module__.split(".")[0] for module in ours.modules() if isinstance(module, _BatchNorm)} == {
        "bnkit"
    }
    back, _ = convert(ours, to="torch")
    assert str(back) == str(model)
    before = outputs(model, inputs)
    for module in ours.modules():
        if isinstance(module, _BatchNorm):
            module.kernel = "aten"  # PyTorch's own: others round in another order
    for converted in (ours, back):
        assert converted.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in converted.state_dict().items())
        assert all(map(torch.equal, outputs(converted, inputs), before))


@pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning:pytorchcv")
@pytest.mark.parametrize("network", cases(NORMALISED))
def test_taken_out_and_put_in_again_it_trains(network: Network):
    model, inputs = build(network), example(network)
    twin, changes = remove(model, inputs)
    assert len(changes.made) == len(norms(model))
    assert norms(twin) == []
    by_hand, other = copy.deepcopy(model), example(network, seed=OTHER)
    for parent in list(by_hand.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, _Nothing())
    assert largest_difference(outputs(by_hand, other), outputs(twin, other)) < 1e-5
    again, changes = add(twin, inputs)
    assert len(norms(again)) == len(changes.made) > 0
    assert all(gradient.isfinite().all() for gradient in gradients(again, inputs).values())


@pytest.mark.parametrize("name", ["transformers.ResNet", "pytorchcv.resnet20_cifar10"])
def test_recalibrated_layer_after_layer_it_has_the_statistics_of_the_data(name: str):
    network = next(network for network in NORMALISED if network.name == name)
    model = build(network)
    batches = [example(network, seed=10), example(network, seed=11, batch=3)]
    by_hand = copy.deepcopy(model).double()
    for layer in (
        module for module in by_hand.modules() if isinstance(module, _BatchNorm)
    ):  # in the order in which they run
        seen = []
        hook = layer.register_forward_hook(lambda layer, inputs, output, seen=seen: seen.append(inputs[0]))
        for batch in batches:
            outputs(by_hand, batch.double())
        hook.remove()
        values = torch.cat(seen).transpose(0, 1).flatten(1)
        layer.running_mean.copy_(values.mean(1))
        layer.running_var.copy_(values.var(1))
    recalibrate(model, batches, sequential=True)
    expected = {name: buffer for name, buffer in by_hand.named_buffers() if buffer.is_floating_point()}
    for name, buffer in model.named_buffers():
        if name in expected:
            scale = expected[name].abs().max()
            assert (buffer - expected[name]).abs().max() <= 1e-5 * scale, name
