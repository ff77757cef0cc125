from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from bnkit.errors import FactoryError, SettingsError
from bnkit.experiments.networks import ARMS, from_factories, sources
from bnkit.experiments.settings import Settings
from bnkit.experiments.targets import find, is_target
from tests.experiments import small


def _build(name, arm="batch_norm", settings=None, shape=(1, 28, 28)):
    return sources([name], [arm])[arm].build(shape, 10, settings or Settings(), seed=0)


def _kinds(model):
    return [type(module).__name__ for module in model if not isinstance(module, nn.Flatten)]


def test_two_cnn_is_the_courses_network1_and_network2():
    convolution = ["Conv2d", "ReLU", "MaxPool2d"]
    rest = ["ReLU", "Linear", "ReLU", "Linear"]
    assert _kinds(_build("two-cnn", "no_batch_norm")) == [*convolution, *convolution, "Linear", *rest]
    model = _build("two-cnn")
    assert _kinds(model) == [*convolution, "BatchNorm2d", *convolution, "Linear", "ReLU", "BatchNorm1d", *rest[1:]]
    assert [layer.num_features for layer in (model.norm1, model.norm2)] == [6, 120]
    assert sum(parameter.numel() for parameter in _build("two-cnn", "no_batch_norm").parameters()) == 32_998


def test_lenet_is_the_textbooks():
    model = _build("lenet")
    convolution = ["Conv2d", "BatchNorm2d", "Sigmoid", "MaxPool2d"]
    linear = ["Linear", "BatchNorm1d", "Sigmoid"]
    assert _kinds(model) == [*convolution, *convolution, *linear, *linear, "Linear"]
    assert [layer.in_features for layer in (model.fc1, model.fc2, model.out)] == [256, 120, 84]
    assert [layer.num_features for layer in (model.norm1, model.norm2, model.norm3, model.norm4)] == [6, 16, 120, 84]


def test_the_arms_differ_in_their_layers_alone():
    for arm, kind in (("batch_norm", "aten"), ("reference", "reference")):
        assert {module.kernel for name, module in _build("lenet", arm).named_modules() if "norm" in name} == {kind}
    assert type(_build("lenet", "torch").norm1) is nn.BatchNorm2d
    names = {arm: [name for name, _ in _build("lenet", arm).named_modules() if "norm" not in name] for arm in ARMS}
    assert len({tuple(value) for value in names.values()}) == 1


@pytest.mark.parametrize("name", ["two-cnn", "lenet"])
def test_colour_images_of_another_size_and_the_options(name):
    settings = Settings(activation="tanh", dropout=0.25)
    model = _build(name, settings=settings, shape=(3, 32, 32))
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    kinds = _kinds(model)
    assert "Tanh" in kinds
    assert kinds.count("Dropout") == 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sources(["vgg"], ["batch_norm"]), SettingsError, "unknown network 'vgg'; expected one of two-cnn, lenet"),
        (lambda: sources(["lenet"], ["layer_norm"]), SettingsError, "unknown arm 'layer_norm'; expected one of no_batch_norm"),
        (lambda: _build("lenet", settings=Settings(depth=3)), SettingsError, "depth=3 with network batch_norm, which has no depth"),
        (lambda: _build("lenet", shape=(8,)), SettingsError, r"inputs of shape \(8,\); expected images"),
        (lambda: _build("lenet", shape=(1, 8, 8)), SettingsError, "at least 16×16"),
        (lambda: from_factories({}), FactoryError, "expected a dictionary of factories"),
        (lambda: from_factories([small.plain]), FactoryError, "is a list .* expected a dictionary of factories"),
        (lambda: from_factories({"a": small.plain()}), FactoryError, "a is a Sequential that exists already; expected a factory"),
        (lambda: from_factories({"a": 3}), FactoryError, "a is a int .3.; expected a factory"),
    ],
)  # fmt: skip
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def _raises():
    raise KeyError("colour")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (_raises, "the factory of a raised KeyError: 'colour'; expected it to return an nn.Module"),
        (lambda: "net", "the factory of a returned str; expected an nn.Module"),
    ],
)
def test_a_factory_that_fails(factory, message):
    with pytest.raises(FactoryError, match=message):
        from_factories({"a": factory})["a"].build((6,), 3, Settings(), 0)


def test_a_factory_gets_the_settings_that_it_names():
    def deep(depth, dropout=0.0):
        return nn.Sequential(*(nn.Linear(6, 6) for _ in range(depth)), nn.Dropout(dropout))

    model = from_factories({"deep": deep})["deep"].build((6,), 6, Settings(depth=4, dropout=0.5), 0)
    assert len(model) == 5
    assert model[4].p == 0.5


def test_another_network_has_another_identity():
    def make(width):
        return lambda: nn.Linear(6, width)

    factories = {
        "a": make(3),
        "b": make(4),
        "c": functools.partial(nn.Linear, 6, 3),
        "d": functools.partial(nn.Linear, 6, 4),
    }
    identities = [source.identity.identity for source in from_factories({"x": f for f in [factories["a"]]}).values()]
    for factory in factories.values():
        identities.append(from_factories({"x": factory})["x"].identity.identity)
    assert len(set(identities)) == 4
    assert identities[0] == identities[1]


def test_several_architectures_stand_before_a_dot():
    assert list(sources(["lenet", "two-cnn"], ["no_batch_norm", "batch_norm"])) == [
        "lenet.no_batch_norm", "lenet.batch_norm", "two-cnn.no_batch_norm", "two-cnn.batch_norm"
    ]  # fmt: skip


def test_a_file_is_a_target(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\ndef networks():\n    return {'plain': lambda: nn.Flatten()}\nTABLE = {'x': nn.Flatten}\n"
    )
    assert is_target(f"{path}:networks")
    made = sources([f"{path}:networks"], ["batch_norm"])
    assert list(made) == ["plain"]
    assert made["plain"].build((2, 2), 4, Settings(), 0)(torch.zeros(1, 2, 2)).shape == (1, 4)
    assert list(sources([f"{path}:TABLE"], [])) == ["x"]
    before = made["plain"].identity.identity
    path.write_text(path.read_text() + "# changed\n")
    assert sources([f"{path}:networks"], [])["plain"].identity.identity != before
    assert find("tests.experiments.small:networks").value is small.networks


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.py:networks", "nowhere.py is not there"),
        ("no.such.module:networks", "No module named 'no'"),
        ("tests.experiments.small:nothing", "has no 'nothing'; it has .*networks"),
        ("nonsense", "names no factory; expected path/to/file.py:name"),
    ],
)
def test_a_target_that_is_not_there(target, message):
    with pytest.raises(FactoryError, match=message):
        find(target)


def test_a_file_that_raises_is_named(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    with pytest.raises(FactoryError, match="importing .*broken.py raised ZeroDivisionError: division by zero"):
        find(f"{path}:networks")
