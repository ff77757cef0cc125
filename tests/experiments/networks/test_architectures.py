from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from bnkit.errors import FactoryError, SettingsError
from bnkit.experiments.networks import ARCHITECTURES, ARMS, from_factories, network_sources
from bnkit.experiments.run_settings import Settings
from bnkit.import_user_function import is_factory_name, load_factory
from tests.experiments import tiny_experiment


def _build(name, arm="batch_norm", settings=None, shape=(1, 28, 28)):
    return network_sources([name], [arm])[arm].build(shape, 10, settings or Settings(), seed=0)


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
        (lambda: network_sources(["vgg"], ["batch_norm"]), SettingsError, "unknown network 'vgg'; expected one of two-cnn, lenet"),
        (lambda: network_sources(["lenet"], ["layer_norm"]), SettingsError, "unknown arm 'layer_norm'; expected one of no_batch_norm"),
        (lambda: _build("lenet", settings=Settings(depth=3)), SettingsError, "depth=3 with network batch_norm, which has no depth"),
        (lambda: _build("lenet", shape=(8,)), SettingsError, r"inputs of shape \(8,\); expected images"),
        (lambda: _build("lenet", shape=(1, 8, 8)), SettingsError, "at least 16×16"),
        (lambda: from_factories({}), FactoryError, "expected a dictionary of factories"),
        (lambda: from_factories([tiny_experiment.plain]), FactoryError, "is a list .* expected a dictionary of factories"),
        (lambda: from_factories({"a": tiny_experiment.plain()}), FactoryError, "a is a Sequential that exists already; expected a factory"),
        (lambda: from_factories({"a": 3}), FactoryError, "a is a int .3.; expected a factory"),
    ],
)  # fmt: skip
def test_invalid_input_is_refused(call, error, message):
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
    assert list(network_sources(["lenet", "two-cnn"], ["no_batch_norm", "batch_norm"])) == [
        "lenet.no_batch_norm", "lenet.batch_norm", "two-cnn.no_batch_norm", "two-cnn.batch_norm"
    ]  # fmt: skip


def test_a_file_is_a_target(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\ndef networks():\n    return {'plain': lambda: nn.Flatten()}\nTABLE = {'x': nn.Flatten}\n"
    )
    assert is_factory_name(f"{path}:networks")
    sources = network_sources([f"{path}:networks"], ["batch_norm"])
    assert list(sources) == ["plain"]
    assert sources["plain"].build((2, 2), 4, Settings(), 0)(torch.zeros(1, 2, 2)).shape == (1, 4)
    assert list(network_sources([f"{path}:TABLE"], [])) == ["x"]
    before = sources["plain"].identity.identity
    path.write_text(path.read_text() + "# changed\n")
    assert network_sources([f"{path}:networks"], [])["plain"].identity.identity != before
    assert load_factory("tests.experiments.tiny_experiment:networks").value is tiny_experiment.networks


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.py:networks", "nowhere.py does not exist"),
        ("no.such.module:networks", "No module named 'no'"),
        ("tests.experiments.tiny_experiment:nothing", "has no 'nothing'; it has .*networks"),
        ("nonsense", "names no factory; expected path/to/file.py:name"),
    ],
)
def test_a_target_that_is_not_there(target, message):
    with pytest.raises(FactoryError, match=message):
        load_factory(target)


def test_a_file_that_raises_is_named(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    with pytest.raises(FactoryError, match="importing .*broken.py raised ZeroDivisionError: division by zero"):
        load_factory(f"{path}:networks")


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_with_every_arm_trains_a_step(name, arm):
    settings = Settings(depth=8) if name == "resnet" else Settings()
    model = _build(name, arm, settings)
    images = torch.randn(4, 1, 28, 28)
    torch.nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.eval()(images).shape == (4, 10)
    norms = [m for m in model.modules() if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm))]
    assert bool(norms) == (arm != "no_batch_norm")


def test_simple_cnn_is_the_courses_with_the_pooling_that_it_forgets():
    model = _build("simple-cnn")
    convolution = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    assert _kinds(model) == [*convolution, *convolution, "Linear", "ReLU", "Linear"]
    assert model.fc1.in_features == 64 * 7 * 7
    assert (model.conv1.kernel_size, model.conv1.padding, model.conv2.out_channels) == ((3, 3), (1, 1), 64)


def test_mlp_is_the_courses_and_has_no_bias_before_batch_norm():
    model, plain = _build("mlp"), _build("mlp", "no_batch_norm")
    assert [layer.out_features for layer in (model.fc1, model.fc2, model.out)] == [256, 128, 10]
    assert _kinds(model) == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert (model.fc1.bias, model.fc2.bias) == (None, None)
    assert plain.fc1.bias is not None
    assert model.out.bias is not None


def _linear_layers(model):
    return sum(isinstance(module, (nn.Linear, nn.Conv2d)) for module in model.modules())


@pytest.mark.parametrize(("name", "depth"), [("mlp", 2), ("mlp", 110), ("residual-mlp", 4), ("residual-mlp", 110), ("resnet", 8), ("resnet", 56)])  # fmt: skip
def test_depth_is_the_number_of_layers_with_weights(name, depth):
    model = _build(name, settings=Settings(depth=depth, width=4))
    assert _linear_layers(model) == depth
    assert model.eval()(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_resnet_has_the_parameters_of_the_paper():
    """He et al. (2015), table 6: 0.27 M for ResNet-20, 1.7 M for ResNet-110, on CIFAR-10."""
    for depth, expected in ((20, 269_722), (110, 1_727_962)):
        model = _build("resnet", settings=Settings(depth=depth), shape=(3, 32, 32))
        assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_a_shortcut_of_the_resnet_is_every_second_pixel_and_channels_of_zeros():
    model = _build("resnet", settings=Settings(depth=8, width=2))
    x = torch.randn(1, 2, 8, 8)
    shortcut = model.stage2_block1.shortcut(x)
    assert torch.equal(shortcut[:, :2], x[:, :, ::2, ::2])
    assert shortcut.shape == (1, 4, 4, 4)
    assert not shortcut[:, 2:].any()


@pytest.mark.parametrize(
    ("channels", "groups"), [(6, 1), (12, 1), (16, 1), (32, 2), (64, 4), (84, 4), (120, 6), (128, 8)]
)
def test_group_norm_has_groups_of_sixteen_channels_or_more(channels, groups):
    layer = ARMS["group_norm"].norm2d(channels)
    assert (layer.num_groups, layer.num_channels) == (groups, channels)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mlp", Settings(depth=1), "depth=1 with network mlp; expected at least 2"),
        ("residual-mlp", Settings(depth=7), "depth=7 with network residual-mlp; expected an even number from 4"),
        ("resnet", Settings(depth=18), r"depth=18 with network resnet; expected 6n \+ 2"),
        ("lenet", Settings(width=8), "width=8 with network batch_norm, which has no width"),
    ],
)
def test_a_depth_or_width_that_cannot_be_is_refused(name, settings, message):
    with pytest.raises(SettingsError, match=message):
        _build(name, settings=settings)


class _Net(nn.Sequential):
    def __init__(self, dropout=0.5, **others):
        super().__init__(nn.Linear(6, 3), nn.Dropout(dropout))
        self.others = others


class _Maker:
    def __call__(self, *, dropout=0.5):
        return _Net(dropout)


def _positional(dropout=0.5, /):
    return _Net(dropout)


def _any(**keywords):
    return _Net(**keywords)


@pytest.mark.parametrize(
    "factory", [_Net, _Maker(), functools.partial(_Net, dropout=0.5), _any], ids=["class", "object", "partial", "any"]
)
@pytest.mark.parametrize(("settings", "rate"), [({}, 0.5), ({"dropout": 0.25}, 0.25), ({"dropout": 0.0}, 0.0)])
def test_a_rate_of_dropout_is_the_networks_own_unless_the_grid_names_one(factory, settings, rate):
    for factories in ({"a": factory}, factory):
        for source in from_factories(factories, arms=["no_batch_norm"]).values():
            assert source.build_from_factory((6,), 3, Settings(**settings), 0, torch.zeros(2, 6))[1].p == rate


def test_a_rate_that_has_to_be_given_is_none_where_the_grid_says_nothing():
    source = from_factories({"a": lambda dropout: _Net(dropout=dropout, own=3)})["a"]
    assert source.build((6,), 3, Settings(), 0)[1].p == 0.0
    assert not source.identity.own_dropout


@pytest.mark.parametrize(
    "factory",
    [_positional, functools.partial(_Net, 0.5, width=3), lambda: _Net(0.5)],
    ids=["positional", "partial", "lambda"],
)
def test_no_dropout_is_refused_of_a_network_that_has_some_and_cannot_be_told(factory):
    source = from_factories({"a": factory})["a"]
    if "dropout" not in source.options:
        with pytest.raises(SettingsError, match="dropout=0.0 with network a, whose 1 drops 0.5 and cannot be set"):
            source.build((6,), 3, Settings(dropout=0.0), 0)
    assert source.build((6,), 3, Settings(), 0)[1].p == 0.5
