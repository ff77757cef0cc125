"""One network of a user becomes the pair with and without batch norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bnkit
from bnkit.errors import BnkitError, FactoryError, RecordError, SettingsError
from bnkit.experiments.networks import from_factories, network_sources
from bnkit.experiments.run_settings import Settings
from bnkit.model import batch_norms
from tests.experiments import tiny_experiment
from tests.model import networks as hard

DEFAULT_ARMS = ("no_batch_norm", "batch_norm")


def _lazy():
    return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))


def _deep(depth, activation="default", width=6):
    layers = [(nn.Linear(6, 6), nn.Tanh() if activation == "tanh" else nn.ReLU()) for _ in range(depth or 2)]
    return nn.Sequential(*(layer for pair in layers for layer in pair), nn.Linear(6, 3))


def _built(factory, shape=(6,), settings=None, seed=0, arms=DEFAULT_ARMS):
    sources = from_factories(factory, arms=arms)
    return {key: source.build(shape, 3, settings or Settings(), seed) for key, source in sources.items()}


@pytest.mark.parametrize(
    ("factory", "shape"),
    [
        (tiny_experiment.plain, (6,)),
        (tiny_experiment.with_batch_norm, (6,)),
        (_lazy, (6,)),
        (_deep, (6,)),
        (hard.Functional, (1, 8, 8)),
        (hard.Residual, (3, 6)),
        (hard.PlainCnn, (3, 8, 8)),
        (hard.Attention, (3, 8)),
    ],
)
@pytest.mark.parametrize("init", ["default", "xavier"])
def test_one_arm_has_batch_norm_and_the_other_has_the_same_weights_without(factory, shape, init):
    models = _built(factory, shape, Settings(init=init))
    assert list(models) == list(DEFAULT_ARMS)
    assert not batch_norms(models["no_batch_norm"])
    norms = batch_norms(models["batch_norm"])
    assert norms
    assert {type(norm).__module__ for norm in norms.values()} == {"bnkit.nn.batch_norm"}
    assert {norm.kernel for norm in norms.values()} == {"aten"}
    without, with_ = (dict(models[key].named_parameters()) for key in DEFAULT_ARMS)
    assert {name for name in without if name.endswith("weight")} <= with_.keys()
    assert all(torch.equal(parameter, with_[name]) for name, parameter in without.items() if name in with_)
    for model in models.values():
        assert model.training
        model(torch.randn(4, *shape)).sum().backward()


def test_the_weights_are_those_of_the_seed_and_of_the_factory_called_by_itself():
    one, same, another = (_built(tiny_experiment.plain, seed=seed)["batch_norm"].fc1.weight for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, another)
    by_itself = from_factories({"a": tiny_experiment.plain})["a"].build((6,), 3, Settings(), 3)
    assert torch.equal(one, by_itself.fc1.weight)


def test_a_factory_gets_the_settings_that_it_names():
    models = _built(_deep, settings=Settings(depth=4, activation="tanh"))
    assert len(batch_norms(models["batch_norm"])) == 4
    assert isinstance(models["no_batch_norm"][1], nn.Tanh)
    with pytest.raises(SettingsError, match=r"dropout=0.5 with network no_batch_norm, which has no dropout"):
        _built(_deep, settings=Settings(dropout=0.5))


def test_a_default_of_its_own_stays_where_the_choice_is_left_to_the_network():
    def own(depth=3, activation=nn.Tanh, dropout=0.5):
        return nn.Sequential(
            *(nn.Linear(6, 6) for _ in range(depth)), activation(), nn.Dropout(dropout), nn.Linear(6, 3)
        )

    model = _built(own)["no_batch_norm"]
    assert len(model) == 6
    assert model[4].p == 0.5
    assert len(_built(own, settings=Settings(depth=2))["no_batch_norm"]) == 5


def test_arms_beyond_the_twins():
    models = _built(tiny_experiment.plain, arms=("reference", "torch", "group_norm"))
    assert models["reference"].fc1.batch_norm.kernel == "reference"
    assert type(models["torch"].fc1.batch_norm) is nn.BatchNorm1d
    assert type(models["group_norm"].fc1.batch_norm) is nn.GroupNorm
    for model in models.values():
        model.load_state_dict(model.state_dict())
        model(torch.randn(4, 6)).sum().backward()


def test_a_kernel_that_the_user_chose_stays():
    def chosen():
        return nn.Sequential(nn.Linear(6, 3), bnkit.nn.BatchNorm1d(3, kernel="reference"))

    assert _built(chosen)["batch_norm"][1].kernel == "reference"


def _file(tmp_path, source):
    path = tmp_path / "mine.py"
    path.write_text(f"from torch import nn\n{source}")
    return path


_SOURCE = "def make():\n    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))\n"


def test_a_file_with_one_network(tmp_path):
    path = _file(tmp_path, _SOURCE)
    sources = network_sources([f"{path}:make"], DEFAULT_ARMS)
    assert list(sources) == list(DEFAULT_ARMS)
    again = network_sources([f"{path}:make"], DEFAULT_ARMS)
    assert [source.identity for source in sources.values()] == [source.identity for source in again.values()]
    assert len({source.identity.identity for source in sources.values()}) == 2
    path.write_text(path.read_text().replace("8", "9"))
    changed = network_sources([f"{path}:make"], DEFAULT_ARMS)
    assert all(changed[key].identity.identity != sources[key].identity.identity for key in DEFAULT_ARMS)
    assert list(network_sources([f"{path}:make", "mlp"], DEFAULT_ARMS))[:2] == ["make.no_batch_norm", "make.batch_norm"]


@pytest.mark.slow
def test_compared_loaded_and_gone_on_with(tmp_path):
    path = _file(tmp_path, _SOURCE)
    options = {
        "data": tiny_experiment.data(),
        "grid": {"lr": [0.1], "batch_size": [16]},
        "epochs": 1,
        "validation": 0.2,
    }
    comparison = bnkit.compare(f"{path}:make", seeds=2, out=tmp_path / "r", **options)
    assert [row["network"] for row in comparison.rows] == [*DEFAULT_ARMS, *DEFAULT_ARMS]
    assert {row["status"] for row in comparison.rows} == {"finished"}
    assert "batch_norm against no_batch_norm" in str(comparison.answer)
    assert list(batch_norms(comparison.load(2))) == ["0.batch_norm"]
    figures = tiny_experiment.figures(comparison)
    longer = bnkit.compare(f"{path}:make", seeds=3, out=tmp_path / "r", **options)
    assert tiny_experiment.figures(longer)[:4] == figures
    runs = {run.run_id for run in longer.plan}
    path.write_text(_SOURCE.replace("8", "9").replace("def", "from torch import nn\ndef"))
    other = bnkit.compare(f"{path}:make", seeds=3, out=tmp_path / "r", **options)
    assert runs.isdisjoint(run.run_id for run in other.plan)


@pytest.mark.slow
def test_the_trained_network_loads_in_another_process(tmp_path):
    path = _file(tmp_path, _SOURCE + "from tests.experiments.tiny_experiment import data\n")
    trained = bnkit.compare(f"{path}:make", f"{path}:data", seeds=1, epochs=1, out=tmp_path / "r")
    inputs = torch.randn(3, 6)
    again = bnkit.Comparison(tmp_path / "r")
    assert torch.equal(again.load(2)(inputs), trained.load(2)(inputs))
    path.write_text(path.read_text().replace("8", "9"))
    with pytest.raises(RecordError, match="have changed since its runs were recorded"):
        bnkit.Comparison(tmp_path / "r").load(2)


@pytest.mark.slow
def test_a_factory_in_python(tmp_path):
    comparison = bnkit.compare(tiny_experiment.with_batch_norm, tiny_experiment.data(), seeds=1, epochs=1, out=tmp_path)
    assert comparison.plan.networks == DEFAULT_ARMS
    assert comparison.plan.experiment.networks == ("with_batch_norm",)
    assert list(batch_norms(comparison.load(2))) == ["norm"]
    assert not batch_norms(comparison.load(1))


def test_a_class_and_a_function_that_returns_the_dictionary():
    assert list(from_factories(hard.PlainCnn)) == list(DEFAULT_ARMS)
    assert from_factories(tiny_experiment.networks).keys() == tiny_experiment.NETWORKS.keys()


class _Own(nn.BatchNorm1d):
    def forward(self, input):
        return super().forward(input).abs()


ONE = tiny_experiment.plain()


@pytest.mark.parametrize(
    ("factory", "error", "message"),
    [
        (lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3)), FactoryError,
         "network batch_norm: Sequential has no batch norm to remove, and no place to add one .1: it is an output layer"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Tanh()), FactoryError, "network batch_norm: Sequential ran no convolution or linear"),
        (lambda: nn.Sequential(nn.Linear(6, 3), _Own(3)), FactoryError, "network no_batch_norm: 1 is a _Own, which .* a dictionary"),
        (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), FactoryError, r"raised RuntimeError on inputs of shape \(2, 6\)"),
        (lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(5, 3)), FactoryError, "the factory of no_batch_norm raised RuntimeError"),
        (lambda: ONE, FactoryError, "returned the same network twice"),
        (lambda: 3, FactoryError, "what <lambda> returned is a int .3.; expected a dictionary of factories"),
        (lambda size: 3, FactoryError, "<lambda> requires the argument size; expected a factory that needs none"),
        (ONE, FactoryError, "a Sequential that exists already; expected a factory"),
        (3, SettingsError, "networks is a int; expected a dictionary of factories, one factory"),
    ],
)  # fmt: skip
def test_invalid_input_is_refused(tmp_path, factory, error, message):
    with pytest.raises(error, match=message) as caught:
        bnkit.compare(factory, tiny_experiment.data(), seeds=1, epochs=1, out=tmp_path / "r")
    assert isinstance(caught.value, BnkitError)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()
