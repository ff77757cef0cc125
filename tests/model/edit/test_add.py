"""Batch norm put where it belongs, and nothing else changed."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import bnkit
from bnkit.errors import ModelError, SettingsError
from bnkit.model.edit.add import add
from bnkit.model.edit.remove import remove
from bnkit.model.inspect.example import Example, largest_difference
from tests.model.networks import (
    ALL,
    Attention,
    Functional,
    PlainCnn,
    Residual,
    SqueezeExcite,
    Structured,
    built,
    example,
)


def _output(model, inputs=None):
    with torch.no_grad():
        return Example(example(model) if inputs is None else inputs).fresh().run(model.eval())


@pytest.mark.parametrize(
    ("kind", "added", "kept"),
    [
        (Functional, ["conv1", "conv2", "fc1"], {"fc2": "it is an output layer: no activation follows"}),
        (Residual, ["stem", "body", "last"], {"head": "it is an output layer: sigmoid makes the output of it"}),
        (
            SqueezeExcite,
            ["conv", "swish"],
            {
                "reduce": "it only computes weights for other values (squeeze and excite)",
                "expand": "it only scales other values",
                "out": "it is an output layer: no activation follows",
            },
        ),
        (
            Attention,
            ["wide"],
            {
                "query": "no activation follows",
                "value": "no activation follows",
                "block.linear1": "the fast path of nn.TransformerEncoderLayer would use its weight",
                "block.self_attn": "a function uses its weight",
                "block.linear2": "a normalisation follows already",
                "head": "it is an output layer",
            },
        ),
        (Structured, ["tokens"], {"scores": "it is an output layer", "unused": "it did not run on the example"}),
        (PlainCnn, ["conv", "depthwise", "grouped", "up", "fc"], {"out": "it is an output layer"}),
    ],
)
def test_where_it_goes_and_where_not(kind, added, kept):
    model = built(kind)
    changed, changes = add(model, example(model))
    assert [change.site for change in changes.made] == added
    reasons = {change.site: change.detail for change in changes.kept}
    for name, reason in kept.items():
        assert reason in reasons[name]
    norms = [name for name, module in changed.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms == [f"{name}.batch_norm" for name, _ in changed.named_modules() if name in added]


@pytest.mark.parametrize("kind", ALL)
def test_it_normalises_before_the_activation(kind):
    model = built(kind)
    changed, changes = add(model, example(model), eps=1e-9)
    seen = {}

    def keep_as(name):
        def hook(module, inputs, output):
            seen.setdefault(name, output.detach().clone())

        return hook

    for change in changes.made:
        changed.get_submodule(change.site).register_forward_hook(keep_as(change.site))
    Example(example(model)).run(changed.train())
    for name, output in seen.items():
        features_last = isinstance(changed.get_submodule(name), nn.Linear)
        rows = (output if features_last else output.transpose(1, -1)).flatten(0, -2).double()
        torch.testing.assert_close(rows.mean(0), torch.zeros(rows.shape[1]).double(), atol=1e-5, rtol=0)
        variance = rows.var(0, correction=0)
        assert ((variance < 1.0001) & (variance > 0.999)).all(), name


@pytest.mark.parametrize("kind", ALL)
def test_what_was_there_keeps_its_name_and_values_and_the_model_given_is_left_alone(kind):
    model = built(kind).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    changed, changes = add(model, example(model))
    assert [type(module) for module in model.modules()] == classes
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in (*model.modules(), *changed.modules()))
    after = changed.state_dict()
    lost = {f"{change.site}.bias" for change in changes.made} & before.keys()
    assert before.keys() - lost <= after.keys()
    assert not lost & after.keys()
    assert all(torch.equal(after[key], before[key]) for key in before.keys() - lost)
    assert all(".batch_norm." in key for key in after.keys() - before.keys())
    assert not {id(tensor) for tensor in model.parameters()} & {id(tensor) for tensor in changed.parameters()}


@pytest.mark.parametrize("kind", ALL)
def test_a_second_time_nothing_changes(kind):
    model = built(kind)
    once, _ = add(model, example(model))
    twice, changes = add(once, example(model))
    assert changes.made == ()
    assert str(twice) == str(once)


@pytest.mark.parametrize("where", ["before_activation", "after_activation", "after_pooling"])
@pytest.mark.parametrize("kind", ALL)
def test_with_preserve_it_computes_what_it_did(kind, where):
    model = built(kind)
    changed, changes = add(model, example(model), preserve=True, where=where)
    assert changes.error < 2e-6
    assert largest_difference(_output(model), _output(changed)) < 2e-6
    # Not only on the example: it is the same function.
    other = Example(example(model)).map_tensors(lambda tensor: torch.randn(tensor.shape) * 3 + 1)
    inputs = other.keywords or other.arguments
    assert largest_difference(_output(model, inputs), _output(changed, inputs)) < 1e-5


@pytest.mark.parametrize("kind", ALL)
def test_without_preserve_the_bias_still_counts(kind):
    """Mean −bias, variance 1, gamma 1, beta 0: the old function but for eps."""
    model = built(kind)
    changed, changes = add(model, example(model), eps=1e-12)
    assert largest_difference(_output(model), _output(changed)) < 1e-5
    for change in changes.made:
        norm = changed.get_submodule(change.site).batch_norm
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert torch.equal(norm.bias, torch.zeros_like(norm.bias))


@pytest.mark.parametrize("preserve", [False, True])
def test_a_checkpoint_from_before_loads(preserve):
    model, other = built(PlainCnn), built(PlainCnn, seed=1)
    changed, _ = add(model, example(model), preserve=preserve, eps=1e-12)
    assert changed.load_state_dict(other.state_dict(), strict=True)
    assert largest_difference(_output(other, example(model)), _output(changed)) < 1e-5


def test_a_checkpoint_of_its_own_loads():
    model = built(PlainCnn)
    changed, _ = add(model, example(model))
    trained = _one_step(changed)
    fresh, _ = add(built(PlainCnn, seed=2), example(model))
    fresh.load_state_dict(trained.state_dict(), strict=True)
    assert torch.equal(_output(fresh, example(model)), _output(trained))


def _one_step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = Example(example(model)).run(model.train()).square().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.step()
    return model


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])  # noqa: S301
def test_it_copies_and_pickles(copied):
    changed, _ = add(built(PlainCnn), example(built(PlainCnn)))
    again = copied(_one_step(changed))
    assert torch.equal(_output(again), _output(changed))
    assert not {id(tensor) for tensor in again.parameters()} & {id(tensor) for tensor in changed.parameters()}


@pytest.mark.slow
def test_it_compiles_and_exports():
    changed, _ = add(built(PlainCnn), example(built(PlainCnn)))
    inputs = example(changed)
    program = torch.export.export(changed.eval(), (inputs,))
    torch.testing.assert_close(program.module()(inputs), _output(changed))
    compiled = torch.compile(changed, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(inputs), _output(changed))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("after_activation", ["act1", "act2", "act3", "act4", "act5"]),
        ("after_pooling", ["pool", "act2", "act3", "act4", "act5"]),
    ],
)
def test_batch_norm_after_the_activation_or_before_the_layer(where, expected):
    model = built(PlainCnn)
    changed, changes = add(model, example(model), where=where)
    hosts = [name.rpartition(".")[0] for name, _ in changed.named_modules() if name.endswith("batch_norm")]
    assert hosts == expected
    assert changed.conv.bias is not None
    assert "BatchNorm2d(8) after" in changes[0].detail
    again, changes = add(changed, example(model), where=where)
    assert changes.made == ()


@pytest.mark.parametrize("where", ["after_activation", "after_pooling"])
def test_behind_a_function_there_is_no_module_to_put_it(where):
    _, changes = add(built(Functional), example(built(Functional)), where=where)
    assert changes.made == ()
    assert "is a function: there is no module to put a batch norm after" in changes[0].detail


def test_a_module_that_several_layers_share_gets_none():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 2))
    _, changes = add(model, torch.ones(2, 3), where="after_activation")
    detail = "1 after it runs elsewhere too: a batch norm there would mix the two"
    assert [change.detail for change in changes[:2]] == [detail] * 2
    assert [change.site for change in add(model, torch.ones(2, 3)).changes.made] == ["0", "2"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"include": "conv*"}, ["conv"]),
        ({"exclude": ["conv", "fc"]}, ["depthwise", "grouped", "up"]),
        ({"include": ["*o*"], "exclude": "conv"}, ["grouped"]),
    ],
)
def test_include_and_exclude_patterns(patterns, expected):
    _, changes = add(built(PlainCnn), example(built(PlainCnn)), **patterns)
    assert [change.site for change in changes.made] == expected


@pytest.mark.parametrize(
    ("shape", "layer", "kind"),
    [
        ((3, 2, 9), nn.Conv1d(2, 4, 3), "BatchNorm1d"),
        ((3, 2, 5, 5), nn.Conv2d(2, 4, 3), "BatchNorm2d"),
        ((3, 2, 5, 5, 5), nn.Conv3d(2, 4, 3), "BatchNorm3d"),
        ((3, 2, 5, 5, 5), nn.ConvTranspose3d(2, 4, 3, groups=2), "BatchNorm3d"),
        ((3, 2), nn.Linear(2, 4), "BatchNorm1d"),
        ((3, 5, 2), nn.Linear(2, 4), "BatchNorm1d"),
        ((3, 5, 6, 2), nn.Linear(2, 4), "BatchNorm1d"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_layer_in_every_rank_and_dtype(shape, layer, kind, dtype):
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), _Sum()).to(dtype)
    inputs = torch.randn(shape).to(dtype)
    changed, changes = add(model, inputs, preserve=True)
    assert type(changed[0].batch_norm).__name__ == kind
    assert changed[0].batch_norm.weight.dtype == dtype
    assert changes.error <= 4 * torch.finfo(dtype).eps
    assert isinstance(changed[0].batch_norm, getattr(bnkit.nn, kind))


class _Sum(nn.Module):
    def forward(self, x):
        return x.sum(1)


def test_one_value_per_channel_has_no_variance():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    changed, changes = add(model, torch.ones(1, 3), preserve=True)
    assert torch.equal(changed[0].batch_norm.running_var, torch.ones(4))
    assert changes.error < 1e-6


def test_a_lazy_batch_norm_is_made_in_the_copy_too():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.ReLU())
    changed, changes = add(model, torch.ones(2, 1, 5, 5))
    assert [change.site for change in changes.made] == ["3"]
    assert changed[1].running_mean.shape == (4,)
    assert isinstance(model[1], nn.LazyBatchNorm2d)


def test_lazy_layers_are_made_in_the_copy():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    changed, changes = add(model, torch.ones(2, 1, 5, 5))
    assert [change.site for change in changes.made] == ["0"]
    assert changed[0].weight.shape == (4, 1, 3, 3)
    assert isinstance(model[0], nn.LazyConv2d)


@pytest.mark.parametrize(
    ("model", "inputs", "changes", "error", "message"),
    [
        (
            nn.Sequential(nn.Linear(3, 4), nn.ReLU()),
            torch.ones(2, 5),
            {},
            ModelError,
            "Sequential raised RuntimeError on",
        ),
        (nn.ReLU(), torch.ones(2), {}, ModelError, "ReLU ran no convolution or linear layer on the example"),
        (nn.Linear(3, 4), torch.ones(2, 3), {"include": "conv*"}, SettingsError, "no place matches 'conv\\*'"),
        (
            nn.Linear(3, 4),
            torch.ones(2, 3),
            {"where": "behind"},
            SettingsError,
            "where='behind'; expected 'before_activ",
        ),
        (lambda x: x, torch.ones(2, 3), {}, SettingsError, "model is a function; expected an nn.Module"),
    ],
)
def test_invalid_input_is_refused(model, inputs, changes, error, message):
    before = copy.deepcopy(model.state_dict()) if isinstance(model, nn.Module) else {}
    with pytest.raises(error, match=message):
        add(model, inputs, **changes)
    if isinstance(model, nn.Module):
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class _Uncopied(nn.Module):
    def __deepcopy__(self, memo):
        raise RuntimeError("not this one")


def test_a_model_that_cannot_be_copied_is_named():
    with pytest.raises(ModelError, match="_Uncopied cannot be copied .*not this one"):
        add(_Uncopied(), torch.ones(1))


class _Counting(nn.Module):
    """Not the same function twice: nothing could be preserved."""

    def __init__(self):
        super().__init__()
        self.fc, self.calls = nn.Linear(3, 3), []

    def forward(self, x):
        self.calls.append(1)
        return self.fc(x).relu() * len(self.calls)


def test_what_cannot_be_preserved_is_told():
    torch.manual_seed(0)  # weights with which not all three outputs are negative, and so 0
    with pytest.raises(
        ModelError, match="_Counting computes something else with batch norm added: the outputs differ by"
    ):
        add(_Counting(), torch.ones(2, 3), preserve=True)


def test_changes_print_and_turn_into_json():
    _, changes = add(built(Functional), example(built(Functional)), preserve=True)
    lines = str(changes).splitlines()
    assert lines[1].split(maxsplit=2) == ["conv1", "added", "BatchNorm2d(4) before relu, replacing the bias"]
    assert lines[-1].startswith("3 changed, 1 kept; outputs differ by ")
    assert changes.to_json()["changes"][0] == {
        "site": "conv1", "action": "added", "detail": "BatchNorm2d(4) before relu, replacing the bias",
    }  # fmt: skip


class _InTwo(nn.Conv2d):
    """As the convolutions of octave networks: it returns two tensors."""

    def forward(self, x):
        return super().forward(x).chunk(2, dim=1)


class _Octaves(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = _InTwo(3, 8, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        one, other = self.first(x)
        return self.last(one.relu() + other.relu()).relu()


def test_a_layer_that_returns_several_tensors_is_left_alone():
    added, changes = add(_Octaves(), torch.randn(2, 3, 5, 5))
    assert {change.site: change.detail for change in changes.kept} == {"first": "it returns more than one tensor"}
    added(torch.randn(2, 3, 5, 5)).sum().backward()
    assert added.last.batch_norm.weight.grad is not None


class _MixedRanks(nn.Module):
    """One layer, on a batch and on a single row."""

    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.out(self.layer(x).relu() + self.layer(x[0]).relu())


@pytest.mark.parametrize("preserve", [True, False])
@pytest.mark.parametrize("where", ["before_activation", "after_activation", "after_pooling"])
@pytest.mark.parametrize(
    ("model", "shape", "at"),
    [
        (nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)), (6,), (6,)),
        (nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 2, 3)), (3, 9), (3, 9)),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)), (3, 9, 9), (3, 9, 9)),
        (nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)), (3, 9, 9), (3, 9, 9)),
        (_MixedRanks(), (4, 6), (6,)),
    ],
    ids=["linear", "1d", "2d", "transposed", "once in a batch and once not"],
)
def test_a_layer_that_runs_without_a_batch_dimension_is_kept(model, shape, at, where, preserve):
    x = torch.randn(shape)
    added, changes = add(model, x, where=where, preserve=preserve)
    assert changes.made == ()
    assert changes[0].detail == f"it runs without a batch dimension, on {at}"
    assert torch.equal(added.eval()(x), model(x))


class _NeedsItsBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.out(self.layer(x).relu() + self.layer.bias)


def test_the_copy_runs_on_the_example_before_it_is_handed_out():
    with pytest.raises(ModelError, match=r"_NeedsItsBias with batch norm added does not run any more .*TypeError"):
        add(_NeedsItsBias(), torch.randn(4, 6))


def test_a_bias_that_does_not_learn_does_not_learn_afterwards():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    model[0].bias.requires_grad_(False)
    added = add(model, torch.randn(4, 6)).model
    assert not remove(copy.deepcopy(added), torch.randn(4, 6)).model[0].bias.requires_grad


def test_after_training_the_tensors_that_pruning_computes_do_not_stop_a_copy():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    prune.l1_unstructured(model[0], "weight", 5)
    prune.random_unstructured(model[2], "bias", 1)
    model(torch.randn(4, 6)).sum().backward()
    added = add(model, torch.randn(4, 6), preserve=True).model
    x = torch.randn(4, 6)
    torch.testing.assert_close(added.eval()(x), model(x))
