"""Recorded layer statistics equal values worked out by hand, and recording them changes no result."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from bnkit.model.instrument.activation_memory import bytes_for_backward
from bnkit.model.instrument.dead_units import activations_called
from bnkit.model.instrument.layer_instrumentation import LayerInstrumentation
from bnkit.model.instrument.loss_landscape import STEPS, loss_along_gradient
from bnkit.nn import BatchNorm1d, BatchNorm2d


def _network(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(8, 5),
        nn.Sigmoid(),
        nn.Linear(5, 3),
    )


def _batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 6, generator=generator) * 2 + 1, torch.randint(0, 3, (16,), generator=generator)


def _step(model, optimizer, inputs, targets):
    optimizer.zero_grad()
    functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()


def test_the_figures_of_a_step_are_those_worked_out_by_hand():
    model, (inputs, targets) = _network(), _batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before, norm = copy.deepcopy(model), model[1]
    with LayerInstrumentation(model).step(inputs) as figures:
        _step(model, optimizer, inputs, targets)

    assert figures.keys() == {"0", "1", "2", "4", "5", "6"}
    pre = before[0](inputs).detach()
    assert figures["1"]["input"]["mean"] == pytest.approx(pre.mean().item(), abs=1e-4)
    assert figures["1"]["input"]["deviation"] == pytest.approx(pre.std(correction=0).item(), rel=1e-3)
    ordered = pre.flatten().sort().values
    assert figures["1"]["input"]["quantiles"][2] == pytest.approx(ordered[round(0.5 * 127)].item(), rel=1e-3)
    assert figures["1"]["output"]["deviation"] == pytest.approx(1.0, abs=0.01)
    # In the forward pass of the step: gamma and beta as they were before it.
    assert (figures["1"]["gamma"]["mean"], figures["1"]["beta"]["mean"]) == (1.0, 0.0)
    shift = ((norm.running_mean - pre.mean(0)).abs() / (pre.var(0, correction=0) + norm.eps).sqrt()).mean()
    assert figures["1"]["running_shift"] == pytest.approx(shift.item(), rel=1e-3)
    ratio = ((norm.running_var + norm.eps) / (pre.var(0, correction=0) + norm.eps)).log().mean().exp()
    assert figures["1"]["running_ratio"] == pytest.approx(ratio.item(), rel=1e-3)

    assert figures["4"]["gradient_norm"] == pytest.approx(model[4].weight.grad.norm().item(), rel=1e-4)
    moved = (model[4].weight - before[4].weight).norm() / before[4].weight.norm()
    assert figures["4"]["update_ratio"] == pytest.approx(moved.item(), rel=1e-3)
    hidden, after = before[2](before[1].train()(pre)).detach(), copy.deepcopy(model)
    again = after[2](after[1](after[0](inputs))).detach()
    deviation = hidden.std(0, correction=0)
    expected = ((again.mean(0) - hidden.mean(0)).abs() / deviation)[deviation > 0].mean().item()
    assert figures["4"]["input_shift"] == pytest.approx(expected, rel=1e-2)
    assert figures["0"]["input_shift"] == 0.0


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_training_that_is_looked_at_is_the_training_that_is_not(dropout):
    finals = []
    for watched in (False, True):
        model = _network(dropout)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        watch = LayerInstrumentation(model)
        torch.manual_seed(3)
        for number in range(4):
            inputs, targets = _batch(number)
            if watched:
                with watch.step(inputs) as figures:
                    _step(model, optimizer, inputs, targets)
                assert figures["6"]["update_ratio"] > 0
                loss_along_gradient(model, functional.cross_entropy, inputs, targets, 0.1)
                bytes_for_backward(model, inputs)
            else:
                _step(model, optimizer, inputs, targets)
        finals.append(model.state_dict() | {"random": torch.get_rng_state()})
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for name, value in finals[0].items():
        assert torch.equal(value, finals[1][name]), name


def test_the_same_dropout_before_and_after_a_step():
    """With a step of length 0 nothing shifts, whatever dropout draws."""
    model, (inputs, targets) = _network(dropout=0.5), _batch()
    with LayerInstrumentation(model).step(inputs) as figures:
        _step(model, torch.optim.SGD(model.parameters(), lr=0.0), inputs, targets)
    assert [figures[name]["input_shift"] for name in "046"] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("module", "values", "dead"),
    [
        (nn.ReLU(), [[-1.0, 1.0, -1.0], [-2.0, -1.0, 0.0]], 2 / 3),
        (nn.Sigmoid(), [[9.0, 1.0, -9.0], [8.0, -1.0, 9.0]], 1 / 3),
        (nn.Tanh(), [[9.0, 1.0, -9.0], [8.0, -1.0, -8.0]], 2 / 3),
    ],
    ids=["relu", "sigmoid", "tanh"],
)
def test_dead_units_are_those_that_stay_at_a_limit(module, values, dead):
    with LayerInstrumentation(model := nn.Sequential(module)).step(torch.tensor(values)) as figures:
        model(torch.tensor(values))
    assert figures["0"]["dead"] == pytest.approx(dead, abs=1e-4)


class _Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.act = nn.ReLU()
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.weight.copy_(torch.eye(3))
                layer.bias.zero_()

    def forward(self, x):
        x = functional.relu(self.first(x))
        x = torch.relu_(self.second(x) - 1)
        return self.third(self.act(x).tanh())


def test_dead_units_of_activations_that_are_called_as_functions():
    model, values = nn.Sequential(_Functional(), nn.Sigmoid()), torch.tensor([[-1.0, 2.0, 0.5], [-2.0, 3.0, 0.25]])
    plain = copy.deepcopy(model)
    with LayerInstrumentation(model).step(values) as figures:
        output = model(values)
    # After the first: 0, 2, 0.5. After the second: nothing, 1, nothing; and so it stays.
    assert {name: figures[name]["dead"] for name in ("0.relu", "0.relu.1", "0.act")} == {
        "0.relu": pytest.approx(1 / 3, abs=1e-4), "0.relu.1": pytest.approx(2 / 3, abs=1e-4), "0.act": pytest.approx(2 / 3, abs=1e-4),
    }  # fmt: skip
    assert figures["0.tanh"]["dead"] == 0.0
    assert [name for name in figures if "dead" in figures[name]] == ["0.act", "1", "0.relu", "0.relu.1", "0.tanh"]
    assert torch.equal(output, plain(values))


@pytest.mark.parametrize(("model", "looks"), [(_Functional(), 3), (nn.Sequential(nn.Linear(3, 3), nn.ReLU()), 1)])
def test_functions_are_looked_out_for_where_the_first_look_found_some(model, looks, monkeypatch):
    asked = []

    def called(*arguments):
        asked.append(arguments)
        return activations_called(*arguments)

    monkeypatch.setattr("bnkit.model.instrument.layer_instrumentation.activations_called", called)
    watch, values, found = LayerInstrumentation(model), torch.tensor([[-1.0, 2.0, 0.5], [-2.0, 3.0, 0.25]]), []
    for _ in range(3):
        with watch.step(values) as seen:
            model(values)
        found.append({name: figures["dead"] for name, figures in seen.items() if "dead" in figures})
    assert len(asked) == looks
    assert found[0]
    assert found == [found[0]] * 3
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_is_compiled_is_not_compiled_anew_to_look_at_its_functions():
    model = nn.Sequential(_Functional())
    with activations_called(model, lambda *_: None):
        assert torch._C._len_torch_function_stack() == 1
    model[0].compile(backend="eager")
    with activations_called(model, lambda *_: None):
        assert torch._C._len_torch_function_stack() == 0


def test_an_activation_in_a_block_that_is_recomputed_is_told_once():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = _Functional()

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    model, values = Block(), torch.randn(4, 3, requires_grad=True)
    with LayerInstrumentation(model).step(values) as figures:
        model(values).sum().backward()
    assert {name for name in figures if "relu" in name or "tanh" in name} == {
        "inner.relu",
        "inner.relu.1",
        "inner.tanh",
    }


def test_an_activation_in_our_layer_and_a_convolution():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), BatchNorm2d(2, activation="relu"), nn.Conv2d(2, 3, 3))
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([-100.0, 0.0]))
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with LayerInstrumentation(model).step(inputs) as figures:
        model(inputs).square().mean().backward()
    assert figures["1"]["dead"] == 0.5
    assert figures["2"]["input"]["mean"] > 0
    # One of its input channels does not vary, and is left out.
    assert figures["2"]["input_shift"] == 0.0


def test_what_is_not_finite_is_none():
    model = nn.Sequential(nn.Linear(2, 2))
    inputs = torch.full((4, 2), torch.inf)
    with LayerInstrumentation(model).step(inputs) as figures:
        model(inputs)
    assert figures["0"]["input"] == {"mean": None, "deviation": None, "quantiles": [None] * 5}
    assert figures["0"]["gradient_norm"] is None


def test_along_the_step_of_a_parabola():
    """Loss w²/2 at w = 1, step 0.25: w goes to 1 − 0.25 k, the gradient there is w."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    ones = torch.ones(2, 1)
    seen = loss_along_gradient(model, lambda outputs, targets: outputs.square().mean() / 2, ones, ones, 0.25)
    points = [1 - 0.25 * multiple for multiple in STEPS]
    losses = [w * w / 2 for w in points]
    assert seen == pytest.approx({
        "loss": 0.5, "gradient_norm": 1.0, "loss_range": max(losses) - min(losses), "gradient_change": 1 - min(points),
    })  # fmt: skip
    assert model.weight.item() == 1.0
    assert model.weight.grad is None


def test_a_step_into_infinity_is_none():
    model, (inputs, targets) = _network(), _batch()
    losses = loss_along_gradient(model, lambda outputs, _: (outputs**4).sum(), inputs, targets, 1e20)
    assert losses["loss_range"] is None and losses["gradient_change"] is None
    assert losses["loss"] is not None


def test_bytes_are_those_of_the_tensors_that_the_backward_needs():
    # A linear layer keeps its input (4×6), the ReLU its output (4×8): float32.
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
    assert bytes_for_backward(model, torch.ones(4, 6)) == 4 * 4 * (6 + 8)
    # The second layer keeps what the ReLU has kept already.
    assert bytes_for_backward(nn.Sequential(*model, nn.Linear(8, 2)), torch.ones(4, 6)) == 4 * 4 * (6 + 8)
    norm = BatchNorm1d(6, kernel="aten")
    assert bytes_for_backward(norm, torch.randn(4, 6)) > bytes_for_backward(nn.Identity(), torch.ones(4, 6)) == 0
    assert norm.num_batches_tracked == 0
